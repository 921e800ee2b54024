"""If a GPU is there and not used, one line says so in time, with advice. A machine without a GPU gets no such line."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ddpm.commands import cli
from ddpm.commands.doctor import examine
from ddpm.errors import UserError
from ddpm.runtime import environment, gpu
from ddpm.runtime.environment import choose_device
from tests.training.test_train import ROOT

HEADER = "| NVIDIA-SMI 535.104.05   Driver Version: 535.104.05   CUDA Version: 12.2 |"
NEW_HEADER = "| NVIDIA-SMI 595.10   KMD Version: 595.10   CUDA UMD Version: 13.2 |"
NO_DRIVER = "echo 'NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.'; exit 9"
MISMATCH = "echo 'Failed to initialize NVML: Driver/library version mismatch'; echo 'more'; exit 18"
HANGS = "command -p sleep 60"
MODULE = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n"
OPEN_MODULE = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.14  Release Build\n"


class Machine:
    """A machine with a made-up GPU: its files, its nvidia-smi, and what torch says of it."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch):
        self.root, self._patch = root, patch
        for folder in ("dev", "bin"):
            (root / folder).mkdir()
        patch.setattr(gpu, "_DEV", root / "dev")
        patch.setattr(gpu, "_KERNEL_MODULE", root / "version")
        patch.setenv("PATH", str(root / "bin"))
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        patch.setattr("torch.cuda.is_available", lambda: False)
        patch.setattr("torch.accelerator.is_available", lambda: False)
        self.torch("13.0", "Found no NVIDIA driver on your system. Please check that you have one.")

    def torch(self, cuda: str | None, reason: str, hip: str | None = None) -> None:
        """torch is built for `cuda` or `hip`, and gives `reason` when it starts neither."""

        def fail() -> None:
            raise RuntimeError(reason)

        self._patch.setattr("torch.cuda.init", fail)
        self._patch.setattr("torch.version.cuda", cuda)
        self._patch.setattr("torch.version.hip", hip)

    def smi(self, script: str) -> None:
        """nvidia-smi is on PATH and runs this script."""
        path = self.root / "bin/nvidia-smi"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def driver(self, header: str = HEADER) -> None:
        """nvidia-smi answers with this header."""
        self.smi(f"echo '{header}'")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """No GPU until the test adds one."""
    (tmp_path / "machine").mkdir()
    environment._said_unused.cache_clear()
    yield Machine(tmp_path / "machine", monkeypatch)
    environment._said_unused.cache_clear()


def _says() -> str:
    found = gpu.unused_gpu()
    return f"{found.says} -> {found.advice}" if found else ""


# --- the commands ---


def test_doctor_and_train_say_it(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The driver supports CUDA 12, and torch is built for CUDA 13. Catches a training that silently runs on the CPU,
    and a doctor that does not say which CUDA belongs to which and what to install."""
    monkeypatch.chdir(tmp_path)
    machine.driver()
    words = ["train", str(ROOT / "configs/smoke/quick.yaml"), "--train.total_steps=1", "--out_dir=runs"]
    assert cli.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if "GPU" in line]
    assert "takes CUDA up to 12.2" in line and "is built for CUDA 13.0" in line and "running on the CPU" in line

    (found,) = [finding for finding in examine() if finding.what == "device"]
    assert not found.there and not found.needed
    assert "takes CUDA up to 12.2" in found.says and "is built for CUDA 13.0" in found.says
    assert "built for CUDA 12 " in found.advice and "newer driver" in found.advice and "SYSTEM_SITE=1" in found.advice


def test_it_is_one_line_a_process_and_of_rank_0_alone(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a line for each evaluated checkpoint, and for each of several processes. Also catches a line for a device
    that was asked for."""
    machine.driver()
    assert choose_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(environment, "rank", lambda: 1)
    assert choose_device("auto") == torch.device("cpu") and capsys.readouterr().out == ""
    monkeypatch.setattr(environment, "rank", lambda: 0)
    for _ in range(3):
        assert choose_device("auto") == torch.device("cpu")
    assert capsys.readouterr().out.count("\n") == 1


def test_a_gpu_that_is_asked_for_and_not_used_has_the_same_reason(machine: Machine) -> None:
    """Catches a refusal of `cuda` that says less than the line for `auto`."""
    machine.driver()
    with pytest.raises(
        UserError, match=r"device = cuda cannot be used .*up to 12\.2.*for CUDA 13\.0.*Install a torch.*Use auto"
    ):
        choose_device("cuda")


# --- signs of a driver ---


@pytest.mark.parametrize("stray", ["", NO_DRIVER, "echo 'No devices were found'"])
def test_without_a_driver_nothing_is_said(stray: str, machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a line on machines without a GPU, such as a container whose image has a stray nvidia-smi."""
    if stray:
        machine.smi(stray)
    assert choose_device("auto") == torch.device("cpu")
    assert capsys.readouterr().out == ""
    (found,) = [finding for finding in examine() if finding.what == "device"]
    assert found.there and "no GPU that torch can use" in found.says


@pytest.mark.parametrize(
    ("smi", "module", "device", "expected"),
    [
        (f"echo '{NEW_HEADER}'", "", True, "driver 595.10 takes CUDA up to 13.2"),
        (f"echo '{HEADER.replace('12.2', 'N/A')}'", "", True, "driver 535.104.05)"),
        ("", MODULE, True, "driver 535.104.05; nvidia-smi: not on PATH"),
        ("", OPEN_MODULE, True, "driver 550.54.14; nvidia-smi: not on PATH"),
        (MISMATCH, MODULE, True, "nvidia-smi: Failed to initialize NVML: Driver/library version mismatch)"),
        (NO_DRIVER, "", True, "driver of unknown version; nvidia-smi: NVIDIA-SMI has failed"),
        ("", MODULE, False, "/nvidia0 is missing -> In a container"),
    ],
)
def test_what_is_there_is_read(smi: str, module: str, device: bool, expected: str, machine: Machine) -> None:
    """Each sign alone shows a driver: nvidia-smi in today's and in a newer format, the kernel's file, the device file.
    Catches a sign that is not read, and an nvidia-smi error that is not reported."""
    if smi:
        machine.smi(smi)
    if module:
        (machine.root / "version").write_text(module)
    if device:
        (machine.root / "dev/nvidia0").touch()
    assert expected in _says()


def test_an_nvidia_smi_that_hangs_is_not_waited_for(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a training that never starts on a machine whose GPU has failed. (Here it would wait a minute and give
    another reason.) Also catches a traceback from a program that cannot be started."""
    monkeypatch.setattr(gpu, "_SMI_S", 0.2)
    machine.smi(HANGS)
    assert "nvidia-smi: no answer within 0.2 s" in _says()
    machine.smi("\0")
    (machine.root / "bin/nvidia-smi").write_bytes(b"\x7fELF of another machine")
    assert _says() == ""


# --- reasons ---


@pytest.mark.parametrize(
    ("built", "reason", "visible", "expected"),
    [
        (None, "Torch not compiled with CUDA enabled", None, "is built without CUDA -> Install a torch .* CUDA 12 "),
        (
            "12.8",
            "System not yet initialized. Read on.",
            None,
            "for CUDA 12.8, cannot use it: System not yet initialized ->",
        ),
        ("12.8", "No CUDA GPUs are available", "7", "CUDA_VISIBLE_DEVICES=7 hides it -> Unset"),
        ("12.8", "No CUDA GPUs are available", None, "cannot use it: No CUDA GPUs are available -> Restart"),
        *[("13.0", "x", hidden, f"CUDA_VISIBLE_DEVICES={hidden} hides it -> Unset") for hidden in ("", "-1", "-1,0")],
        ("13.0", "x", "0", "is built for CUDA 13.0, which needs a newer driver -> Install"),
        ("9.2", "x", None, "cannot use it: x ->"),
    ],
)
def test_the_reason(
    built: str | None,
    reason: str,
    visible: str | None,
    expected: str,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Within one major version, a driver runs builds for any minor version, and CUDA 9 is older than 12. Catches advice
    to install what is there, versions compared as text, and a GPU that was hidden on purpose taken for a broken one."""
    machine.driver()
    machine.torch(built, reason)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert re.search(expected, _says())


def test_a_gpu_without_kernels_is_found_before_training(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """torch lists a GPU that is too old for its build, and fails at the first sum. Catches the traceback there."""
    tried = itertools.count()

    def no_kernels(name: str) -> None:
        next(tried)
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore")

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "Tesla K80")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (3, 7))
    monkeypatch.setattr("torch.cuda.get_arch_list", lambda: ["sm_75", "sm_90"])
    monkeypatch.setattr(gpu, "try_device", no_kernels)
    assert choose_device("auto") == torch.device("cpu")
    out = capsys.readouterr().out
    assert "Tesla K80 (sm_37) is here" in out and "no kernel image" in out and out.count("\n") == 1
    assert "kernels for sm_75, sm_90" in _says() and next(tried) == 2

    monkeypatch.setattr(gpu, "try_device", lambda name: None)
    environment._said_unused.cache_clear()
    assert choose_device("auto") == torch.device("cuda") and capsys.readouterr().out == ""


def test_gpus_of_other_kinds(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """AMD's with a torch for CUDA or for ROCm, and Apple's. Catches a machine whose GPU is silently not used."""
    (machine.root / "dev/kfd").touch()
    assert "an AMD GPU is here, but torch" in _says() and "is built without ROCm" in _says()
    machine.torch(None, "No HIP GPUs are available", hip="6.4")
    assert "cannot use it: No HIP GPUs are available" in _says()
    (machine.root / "dev/kfd").unlink()

    def apple() -> Any:
        return torch.device("mps")

    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    monkeypatch.setattr("torch.accelerator.current_accelerator", apple)
    assert "a GPU of the kind mps is here, but `auto` chooses only CUDA" in _says()
