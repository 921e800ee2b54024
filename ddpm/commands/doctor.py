"""`ddpm doctor`: checks this machine for what runs and evaluations need, and says what to do about what is missing.

It downloads nothing, writes nothing, and shows no key. What cannot be looked at is a finding too. Published weights
are known by their digest; of published statistics it says only that they are there.
"""

import argparse
import importlib
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ddpm.errors import UserError
from ddpm.runtime.cache import cache_dir

GIB = 2**30
ROOM = 1 * GIB  # what a run with its checkpoints and W&B files takes


def add(verbs: Any) -> argparse.ArgumentParser:
    """Declare the verb."""
    return verbs.add_parser(  # type: ignore[no-any-return]
        "doctor",
        help="check this machine: packages, GPU, login, data, weights",
        description="Look at versions, GPU, W&B login, cache folder, feature weights, statistics, data and disk. "
        "Nothing is downloaded or written. Exit code 0 if the demo can run.",
    )


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. needed: the demo cannot run without it."""

    what: str
    there: bool
    says: str
    advice: str = ""
    needed: bool = False

    def __str__(self) -> str:
        mark = "ok     " if self.there else "MISSING" if self.needed else "missing"
        return f"{mark}  {self.what}: {self.says}" + (f"\n         -> {self.advice}" if self.advice else "")


def examine(data_root: Path = Path("data")) -> Iterator[Finding]:
    """Look at everything, in the order of what builds on what. data_root: where the study's configs have CIFAR-10."""
    yield Finding(
        "Python", sys.version_info >= (3, 11), platform.python_version(), needed=True, advice=_if_old_python()
    )
    for package in ("torch", "torchvision", "wandb"):
        yield _guarded(package, lambda name=package: _package(name), needed=True)  # type: ignore[misc]
    yield _guarded("torch and torchvision together", _pair, needed=True)
    yield _guarded("device", _device)
    yield _guarded("W&B login", _login)
    yield _guarded("W&B's staging folder", _staging)
    yield _guarded("embedded features", _embedded_features, needed=True)
    yield _guarded("cache folder", _cache_folder)
    yield from _all_guarded("weights of Inception", _inception)
    yield from _all_guarded("eval.reference_stats", _published_statistics)
    yield _guarded("reference statistics of own images", _own_statistics)
    yield _guarded("CIFAR-10", lambda: _cifar(data_root))
    yield _guarded("room in this folder", lambda: _room("this folder", Path.cwd()), needed=True)
    yield _guarded("room in the cache folder", lambda: _room("the cache folder", cache_dir()))


def _guarded(what: str, look: Callable[[], Finding], needed: bool = False) -> Finding:
    """What `look` finds; a missing thing where it raises, since any broken installation or forbidden folder may."""
    try:
        return look()
    except Exception as error:
        return _fault(what, error, needed)


def _all_guarded(what: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """As `_guarded`, of a look that finds several things."""
    try:
        yield from look()
    except Exception as error:
        yield _fault(what, error, False)


def _fault(what: str, error: Exception, needed: bool) -> Finding:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    advice = "" if isinstance(error, UserError) else "Install the project anew: make clean setup"
    if isinstance(error, OSError) and error.filename and not isinstance(error, FileNotFoundError):
        advice = f"Make {error.filename} readable"
    return Finding(what, False, lines[0], advice, needed)


def _if_old_python() -> str:
    return "" if sys.version_info >= (3, 11) else "Install Python 3.11 or later, and say make PYTHON=python3.11 setup"


def _package(name: str) -> Finding:
    importlib.import_module(name)
    return Finding(name, True, version(name), needed=True)


def _pair() -> Finding:
    import torch
    import torchvision

    torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    return Finding("torch and torchvision together", True, "of one build", needed=True)


def _device() -> Finding:
    import torch

    from ddpm.runtime.gpu import unused_gpu

    cores = f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads"
    unused = unused_gpu()
    if unused:
        return Finding("device", False, f"{unused.says}; the CPU is used: {cores}", unused.advice)
    if not torch.cuda.is_available():
        return Finding("device", True, f"no GPU that torch can use; {cores}. The smoke configs are made for that")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Finding("device", True, f"{len(names)} GPU ({', '.join(dict.fromkeys(names))}); {cores}")


def _login() -> Finding:
    from ddpm.errors import UserError
    from ddpm.tracking.open_run import possible_mode

    try:
        mode, why = possible_mode("auto")
    except UserError as error:
        return Finding("W&B login", False, str(error), "No run starts until this is put right")
    advice = "" if mode == "online" else "Runs are kept on this disk, and `ddpm sync` uploads them later"
    return Finding("W&B login", mode == "online", f"{mode} ({why})", advice)


def _staging() -> Finding:
    from ddpm.tracking import client, staged

    found = staged.sizes()
    says = f"{client.staging_folder()} holds {len(found)} files to upload, {staged.in_mb(found)}"
    advice = "`ddpm sync` removes what has arrived of its runs; checkpoint.upload=false keeps checkpoints out of it"
    return Finding("W&B's staging folder", True, says, advice if found else "")


def _embedded_features() -> Finding:
    from ddpm.evaluation.embedded_features import load_embedded_features

    return Finding("embedded features", True, load_embedded_features()[1], needed=True)


# --- the cache folder ---


def _cache_folder() -> Finding:
    folder = cache_dir()
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    why = "DDPM_CACHE" if os.environ.get("DDPM_CACHE") else "the user's; DDPM_CACHE or the config's cache_dir change it"
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        advice = "Make it writable, or set DDPM_CACHE to another folder. Without it everything is taken anew every time"
        return Finding("cache folder", False, f"{folder} cannot be written ({why})", advice)
    return Finding("cache folder", True, f"{folder} ({why})" + ("" if folder.exists() else ", made when needed"))


def _inception() -> Iterator[Finding]:
    from ddpm.evaluation.features import MODES, inception_path

    for path in dict.fromkeys(inception_path(mode) for mode in MODES.values()):
        users = ", ".join(name for name, mode in MODES.items() if inception_path(mode) == path)
        what = f"weights of {users}"
        if not path.is_file():
            advice = f"With internet they are downloaded when used. Without: copy {path.name} into {path.parent}"
            yield Finding(what, False, f"{path} is not there", f"{advice}. Or use eval.features=embedded")
            continue
        yield _guarded(what, lambda what=what, path=path: _weights(what, path))  # type: ignore[misc]


def _weights(what: str, path: Path) -> Finding:
    from ddpm.evaluation.features import PUBLISHED, file_digest

    digest = file_digest(path)
    if digest.startswith(PUBLISHED[path.name]):
        return Finding(what, True, f"{path}, as published (SHA-256 {digest[:12]})")
    advice = "Its FIDs compare only with each other. Remove it to have the published file again"
    return Finding(what, False, f"{path} is another file (SHA-256 {digest[:12]})", advice)


def _published_statistics() -> Iterator[Finding]:
    from ddpm.evaluation.reference import PUBLISHED, published_files

    for name in PUBLISHED:
        statistics, rows = published_files(name, "clean")
        there = [path.name for path in (statistics, rows) if path.is_file()]
        advice = f"With internet clean-fid downloads it when used. Without: copy it to {statistics.parent}"
        yield Finding(
            f"eval.reference_stats={name}",
            statistics.is_file(),
            f"{', '.join(there)}, content not checked" if there else f"{statistics} is not there",
            "" if statistics.is_file() else advice,
        )


def _own_statistics() -> Finding:
    taken = len(list((cache_dir() / "reference").glob("*.safetensors")))
    return Finding("reference statistics of own images", True, f"{taken} in the cache; taken when first needed")


# --- data and room ---


def _cifar(root: Path) -> Finding:
    found = [name for name in ("cifar-10-batches-py", "cifar-10-python.tar.gz") if (root / name).exists()]
    if found:
        return Finding("CIFAR-10", True, f"{root / found[0]}")
    advice = (
        "With internet torchvision downloads it there. Without: put cifar-10-python.tar.gz there, or use images of "
        "your own (--data.dataset=folder --data.root=PATH) or the embedded ones (--data.dataset=embedded)"
    )
    return Finding("CIFAR-10", False, f"not in {root.resolve()}", advice)


def _room(what: str, folder: Path) -> Finding:
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(nearest).free
    enough = free >= ROOM and os.access(nearest, os.W_OK)
    state = f"{free / GIB:.1f} GiB free" + ("" if os.access(nearest, os.W_OK) else ", not writable")
    advice = "" if enough else f"A run needs {ROOM / GIB:.0f} GiB that it can write to"
    return Finding(f"room in {what}", enough, f"{nearest}: {state}", advice, needed=what == "this folder")


def run(args: argparse.Namespace) -> int:
    """Print what is there and what is missing; 0 if `make demo` can run, else 1."""
    findings = []
    for finding in examine():
        findings.append(finding)
        print(finding, flush=True)
    lacking = [finding.what for finding in findings if finding.needed and not finding.there]
    if lacking:
        print(f"\nThe demo cannot run: {', '.join(lacking)}.")
        return 1
    print("\nThe demo can run: make demo. What is missing above is needed by what its line says, and by nothing else.")
    return 0
