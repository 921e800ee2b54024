"""`ddpm doctor`: what runs and evaluations need on this machine, and what to do if it is missing.

It downloads nothing, writes nothing, and shows no key. A check that fails is a finding too. Published weights are
recognised by their digest; of published statistics it says only whether they are there.
"""

import argparse
import importlib
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

from ddpm.errors import UserError
from ddpm.runtime.cache import cache_dir

GIB = 2**30
ROOM = 1 * GIB  # for a run with its checkpoints and W&B files

HELP = "check this machine: packages, GPU, login, data, weights"
DESCRIPTION = (
    "Look at versions, GPU, W&B login, cache folder, feature weights, statistics, data and disk. "
    "Nothing is downloaded or written. Exit code 0 if the demo can run."
)


def run(args: argparse.Namespace) -> int:
    """Print all findings; 0 if `make demo` can run, else 1."""
    findings = []
    for finding in examine():
        findings.append(finding)
        print(finding, flush=True)
    lacking = [finding.what for finding in findings if finding.needed and not finding.there]
    if lacking:
        print(f"\nThe demo cannot run: {', '.join(lacking)}.")
        return 1
    print("\nThe demo can run: make demo. It needs nothing that is missing above.")
    return 0


@dataclass(frozen=True)
class Finding:
    """The result of one check. needed: the demo cannot run without it."""

    there: bool
    says: str
    advice: str = ""
    what: str = ""  # what was checked, if not what the check is called in `examine`
    needed: bool = False

    def __str__(self) -> str:
        mark = "ok     " if self.there else "MISSING" if self.needed else "missing"
        return f"{mark}  {self.what}: {self.says}" + (f"\n         -> {self.advice}" if self.advice else "")


def examine(data_root: Path = Path("data")) -> Iterator[Finding]:
    """Check everything, each thing after what it builds on. data_root: where the study's configs expect CIFAR-10."""
    yield from _checked("Python", _python, needed=True)
    for package in ("torch", "torchvision", "wandb"):
        yield from _checked(package, partial(_package, package), needed=True)
    yield from _checked("torch and torchvision together", _pair, needed=True)
    yield from _checked("device", _device)
    yield from _checked("W&B login", _login)
    yield from _checked("W&B's staging folder", _staging)
    yield from _checked("embedded features", _embedded_features, needed=True)
    yield from _checked("efficientnet_lite0 features", _efficientnet)
    yield from _checked("cache folder", _cache_folder)
    yield from _checked("weights of Inception", _inception)
    yield from _checked("eval.reference_stats", _published_statistics)
    yield from _checked("reference statistics of own images", _own_statistics)
    yield from _checked("CIFAR-10", partial(_cifar, data_root))
    yield from _checked("room in this folder", lambda: _room(Path.cwd()), needed=True)
    yield from _checked("room in the cache folder", lambda: _room(cache_dir()))


def _checked(what: str, check: Callable[[], Finding | Iterator[Finding]], needed: bool = False) -> Iterator[Finding]:
    """The findings of a check. If it raises, as any broken installation or forbidden folder may, a missing thing."""
    try:
        found = check()
        for finding in [found] if isinstance(found, Finding) else found:
            yield replace(finding, what=finding.what or what, needed=needed)
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        advice = "" if isinstance(error, UserError) else "Install the project again: make clean setup"
        if isinstance(error, OSError) and error.filename and not isinstance(error, FileNotFoundError):
            advice = f"Make {error.filename} readable"
        yield Finding(False, lines[0], advice, what, needed)


def _python() -> Finding:
    new = sys.version_info >= (3, 11)
    advice = "" if new else "Install Python 3.11 or later, then: make PYTHON=python3.11 setup"
    return Finding(new, platform.python_version(), advice)


def _package(name: str) -> Finding:
    importlib.import_module(name)
    return Finding(True, version(name))


def _pair() -> Finding:
    import torch
    import torchvision

    torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    return Finding(True, "of one build")


def _device() -> Finding:
    import torch

    from ddpm.runtime.gpu import unused_gpu

    cores = f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads"
    unused = unused_gpu()
    if unused:
        return Finding(False, f"{unused.says}; the CPU is used: {cores}", unused.advice)
    if not torch.cuda.is_available():
        return Finding(True, f"no GPU that torch can use; {cores}. The smoke configs are made for that")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Finding(True, f"{len(names)} GPU ({', '.join(dict.fromkeys(names))}); {cores}")


def _login() -> Finding:
    from ddpm.tracking.open_run import possible_mode

    try:
        mode, why = possible_mode("auto")
    except UserError as error:
        return Finding(False, str(error), "No run can start until this is fixed")
    advice = "" if mode == "online" else "Runs are kept on this disk, and `ddpm sync` uploads them later"
    return Finding(mode == "online", f"{mode} ({why})", advice)


def _staging() -> Finding:
    from ddpm.tracking import client, staged

    found = staged.sizes()
    says = f"{client.staging_folder()} holds {len(found)} files to upload, {staged.in_mb(found)}"
    advice = "`ddpm sync` removes files that have been uploaded; checkpoint.upload=false keeps checkpoints out of it"
    return Finding(True, says, advice if found else "")


def _embedded_features() -> Finding:
    from ddpm.evaluation.embedded_features import load_embedded_features

    return Finding(True, load_embedded_features()[1])


def _efficientnet() -> Finding:
    from ddpm.evaluation.efficientnet import load_efficientnet_lite0

    return Finding(True, load_efficientnet_lite0()[1])


# --- the cache folder ---


def _cache_folder() -> Finding:
    folder = cache_dir()
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    why = "DDPM_CACHE" if os.environ.get("DDPM_CACHE") else "the default; set DDPM_CACHE or cache_dir to change it"
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        advice = (
            "Make it writable, or set DDPM_CACHE to another folder. Without it, nothing is kept for the next command"
        )
        return Finding(False, f"{folder} cannot be written ({why})", advice)
    return Finding(True, f"{folder} ({why})" + ("" if folder.exists() else ", made when needed"))


def _inception() -> Iterator[Finding]:
    from ddpm.evaluation.features import MODES, inception_path

    for path in dict.fromkeys(inception_path(mode) for mode in MODES.values()):
        users = ", ".join(name for name, mode in MODES.items() if inception_path(mode) == path)
        yield from _checked(f"weights of {users}", partial(_weights, path))


def _weights(path: Path) -> Finding:
    from ddpm.evaluation.features import PUBLISHED, file_digest

    if not path.is_file():
        advice = f"With internet they are downloaded when used. Without: copy {path.name} into {path.parent}"
        return Finding(False, f"{path} is not there", f"{advice}. Or use eval.features=embedded")
    digest = file_digest(path)
    if digest.startswith(PUBLISHED[path.name]):
        return Finding(True, f"{path}, as published (SHA-256 {digest[:12]})")
    advice = "Its FIDs compare only with each other. Remove it to download the published file again"
    return Finding(False, f"{path} is another file (SHA-256 {digest[:12]})", advice)


def _published_statistics() -> Iterator[Finding]:
    from ddpm.evaluation.reference import PUBLISHED, published_files

    for name in PUBLISHED:
        files = published_files(name, "clean")
        there = [path.name for path in files if path.is_file()]
        says = f"{', '.join(there)}, content not checked" if there else f"{files[0]} is not there"
        advice = f"With internet clean-fid downloads it when used. Without: copy it to {files[0].parent}"
        is_there = files[0].is_file()
        yield Finding(is_there, says, "" if is_there else advice, f"eval.reference_stats={name}")


def _own_statistics() -> Finding:
    kept = len(list((cache_dir() / "reference").glob("*.safetensors")))
    return Finding(True, f"{kept} in the cache; computed when first needed")


# --- data and room ---


def _cifar(root: Path) -> Finding:
    found = [name for name in ("cifar-10-batches-py", "cifar-10-python.tar.gz") if (root / name).exists()]
    if found:
        return Finding(True, f"{root / found[0]}")
    advice = (
        "With internet torchvision downloads it there. Without: put cifar-10-python.tar.gz there, or use images of "
        "your own (--data.dataset=folder --data.root=PATH) or the embedded ones (--data.dataset=embedded)"
    )
    return Finding(False, f"not in {root.resolve()}", advice)


def _room(folder: Path) -> Finding:
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free, writable = shutil.disk_usage(nearest).free, os.access(nearest, os.W_OK)
    enough = free >= ROOM and writable
    says = f"{nearest}: {free / GIB:.1f} GiB free" + ("" if writable else ", not writable")
    return Finding(enough, says, "" if enough else f"A run needs {ROOM / GIB:.0f} GiB that it can write to")
