"""Why torch does not use a GPU of this machine, and what to do."""

import os
import re
import shutil
import signal
import subprocess
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from ddpm.errors import first_line

_DEV, _KERNEL_MODULE = Path("/dev"), Path("/proc/driver/nvidia/version")
_SMI_S = 5.0  # nvidia-smi takes a second or two; it hangs if a GPU has failed
_HIDING = ("", "-1", "NoDevFiles")  # CUDA stops reading its list at such an entry; Slurm writes the last one


@dataclass(frozen=True)
class Unused:
    """Why a GPU is not used, and what to do: both without a full stop."""

    says: str
    advice: str


@dataclass(frozen=True)
class _Driver:
    """NVIDIA's driver. cuda: the newest version that it supports. trouble: why nvidia-smi gives no answer."""

    version: str | None
    cuda: str | None
    trouble: str

    def __str__(self) -> str:
        named = f"driver {self.version}" if self.version else "driver of unknown version"
        takes = f" takes CUDA up to {self.cuda}" if self.cuda else ""
        return f"{named}{takes}" + (f"; nvidia-smi: {self.trouble}" if self.trouble else "")


def try_device(name: str) -> None:
    """Compute something on a device: torch may list a GPU for which it has no kernels. Raises RuntimeError or
    AssertionError, as torch does."""
    (torch.ones(1, device=name) + 1).item()


def unused_gpu() -> Unused | None:
    """Why torch cannot use a GPU of this machine; None if it can, or there is none. Takes a few seconds at most."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the returned text says it
        return _without_kernels() if torch.cuda.is_available() else _nvidia() or _amd() or _other()


def _without_kernels() -> Unused | None:
    try:
        try_device("cuda")
    except RuntimeError as error:
        name, (major, minor) = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
        return Unused(
            f"{name} (sm_{major}{minor}) is here, but torch {torch.__version__} cannot compute on it: "
            f"{first_line(error)}",
            f"This torch has kernels for {', '.join(torch.cuda.get_arch_list())}. If the GPU's are not among them, "
            "install an older build for an older GPU, a newer one for a newer GPU (pytorch.org has the command)",
        )
    return None


def _nvidia() -> Unused | None:
    driver = _driver()
    if driver is None:
        return None
    why, advice = _why_not(driver)
    return Unused(f"an NVIDIA GPU is here ({driver}), but {why}", advice)


def _why_not(driver: _Driver) -> tuple[str, str]:
    """Why torch cannot use NVIDIA's GPU, and what to do."""
    built, this = torch.version.cuda, f"torch {torch.__version__}"
    reason = _torchs_reason()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and (visible.split(",")[0].strip() in _HIDING or "No CUDA GPUs" in reason):
        return f"CUDA_VISIBLE_DEVICES={visible} hides it", "Unset CUDA_VISIBLE_DEVICES, or name a GPU in it, to use it"
    takes = f"CUDA {_major(driver.cuda)}" if driver.cuda else "a CUDA that the driver takes"
    install = (
        f"Install a torch that is built for {takes} (pytorch.org has the command), or use one that this machine's "
        "Python has already: make clean, then make setup SYSTEM_SITE=1"
    )
    if built is None:
        return f"{this} is built without CUDA", install
    if driver.cuda and _major(driver.cuda) < _major(built):
        return f"{this} is built for CUDA {built}, which needs a newer driver", f"{install}. Or install a newer driver"
    if driver.trouble and not any(_DEV.glob("nvidia[0-9]*")):
        return f"{_DEV}/nvidia0 is missing", "In a container: start it with its GPUs (docker run --gpus all)"
    again = "Restart the machine or the container: a driver that was renewed, or a GPU that was lost, needs it"
    return f"{this}, built for CUDA {built}, cannot use it: {reason}", f"{again}. {install}, or install a newer driver"


def _torchs_reason() -> str:
    """The first sentence of torch's error when it starts CUDA."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return first_line(error).split(". ")[0]
    return "it finds none"


def _driver() -> _Driver | None:
    """NVIDIA's driver; None if there is no sign of one. An nvidia-smi that finds no driver is not a sign."""
    module = ""
    with suppress(OSError):
        module = _KERNEL_MODULE.read_text()
    said, trouble = _ask_smi()
    version = re.search(r"(?:Driver|KMD) Version *: *([\d.]+)", said) or re.search(
        r"NVRM version:.*?\s(\d+\.[\d.]+)", module
    )
    if not (version or module or any(_DEV.glob("nvidia[0-9]*")) or "no answer" in trouble):
        return None
    cuda = re.search(r"CUDA (?:UMD )?Version *: *(\d[\d.]*)", said)
    return _Driver(version[1] if version else None, cuda[1] if cuda else None, trouble)


def _ask_smi() -> tuple[str, str]:
    """(what nvidia-smi prints, or why it gives no answer): one of the two is empty."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return "", "not on PATH"
    try:
        process = subprocess.Popen(
            [program],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        return "", str(error)
    try:
        said, _ = process.communicate(timeout=_SMI_S)
    except subprocess.TimeoutExpired:
        # Do not wait for it: on a GPU that has failed, it may hang in the kernel despite SIGKILL.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return "", f"no answer within {_SMI_S:g} s"
    lines = said.strip().splitlines() or ["says nothing"]
    return (said, "") if "Version" in said and process.returncode == 0 else ("", lines[0])


def _amd() -> Unused | None:
    if not (_DEV / "kfd").exists():
        return None
    if torch.version.hip:
        return Unused(f"an AMD GPU is here, but torch cannot use it: {_torchs_reason()}", "rocminfo says what is wrong")
    return Unused(
        f"an AMD GPU is here, but torch {torch.__version__} is built without ROCm",
        "Install a torch that is built for ROCm (pytorch.org has the command); --device=cpu is for no GPU",
    )


def _other() -> Unused | None:
    """A GPU that torch can use and `auto` does not choose, such as Apple's."""
    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if kind is None:
        return None
    return Unused(f"a GPU of the kind {kind.type} is here, but `auto` chooses only CUDA", "There is nothing to install")


def _major(version: str) -> int:
    return int(version.split(".")[0])
