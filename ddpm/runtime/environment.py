"""What a run runs on: device, precision, versions, commit."""

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ddpm.errors import UserError, first_line
from ddpm.runtime.distributed import local_rank, rank, world_size
from ddpm.runtime.gpu import Unused, try_device, unused_gpu

_PACKAGES = ("torch", "torchvision", "wandb", "numpy")


def choose_device(name: str) -> torch.device:
    """The device of a config's name. `auto` is a CUDA device that torch can compute on, otherwise the CPU; a message
    tells of an unused GPU. With several processes, each takes a GPU of its own.

    Raises UserError if the device cannot be used.
    """
    if world_size() > 1 and name != "cpu" and (name != "auto" or torch.cuda.is_available()):
        name = _own_cuda_device(name)
    if name == "auto":
        unused = _said_unused() if rank() == 0 else None
        return torch.device("cuda" if torch.cuda.is_available() and not unused else "cpu")
    try:
        try_device(name)
    except (RuntimeError, AssertionError) as error:
        unused = unused_gpu() if name.startswith("cuda") else None
        why = f"{unused.says}. {unused.advice}." if unused else first_line(error)
        raise UserError(f"device = {name} cannot be used here: {why} Use auto or cpu.") from error
    return torch.device(name)


@cache
def _said_unused() -> Unused | None:
    """The GPU that `auto` does not use, after a message about it; once a process."""
    unused = unused_gpu()
    if unused:
        print(f"warning: {unused.says}: running on the CPU. `ddpm doctor` says what to do")
    return unused


def _own_cuda_device(name: str) -> str:
    """`cuda:R` for process R of this machine. Raises UserError if `name` is one device, or there are too few."""
    if ":" in name:
        raise UserError(
            f"device = {name} is one GPU, and each of the {world_size()} processes needs one of its own. Use cuda or "
            "auto: process R of a machine then takes cuda:R. CUDA_VISIBLE_DEVICES chooses among the GPUs."
        )
    there = torch.cuda.device_count()
    if local_rank() >= there:
        raise UserError(
            f"This machine has {there} GPUs, and more processes. Start at most {there} (--nproc-per-node={there}), or "
            "use --device=cpu."
        )
    torch.cuda.set_device(local_rank())
    return f"cuda:{local_rank()}"


def choose_precision(amp: bool | str, device: torch.device) -> torch.dtype:
    """The dtype of the network's forward pass: float32, or autocast's bfloat16 or float16."""
    if not amp:
        return torch.float32
    if device.type == "cpu":
        print("amp: off on a CPU, where bf16 autocast is about 10 times slower than float32")
        return torch.float32
    if amp == "fp16":
        return torch.float16
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)  # a T4 only emulates it
    return torch.bfloat16 if amp == "bf16" or has_bf16 else torch.float16


def environment(device: torch.device) -> dict[str, Any]:
    """What a run's rounding depends on besides its config: versions, processor, threads, processes."""
    return {
        "python": platform.python_version(),
        **{name: installed(name) for name in _PACKAGES},
        "platform": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "world_size": world_size(),
        "backend": {"cuda": "nccl", "cpu": "gloo"}[device.type] if world_size() > 1 else None,
    }


def installed(package: str) -> str | None:
    """The package's version; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """The commit of this code, with `+dirty` if tracked files differ from it; None outside a checkout."""
    here = Path(__file__).parent
    try:
        # Fails if this package is installed into another project's checkout.
        subprocess.run(["git", "ls-files", "--error-unmatch", __file__], cwd=here, capture_output=True, check=True)
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        status = ["git", "status", "--porcelain", "--untracked-files=no"]
        dirty = subprocess.run(status, cwd=here, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+dirty" if dirty else "")
