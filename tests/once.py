"""Tests leave nothing outside their own folder. Fixtures that several tests only read are made once."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

HANGS = 600.0  # seconds after which a process counts as hanging; a slow machine needs far less


def apart(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """W&B offline in `folder`, no login, and caches there."""
    for name in os.environ:
        if name.startswith("WANDB_") and name != "WANDB_SERVICE":  # this process made that one itself
            patch.delenv(name)
    patch.setenv("NETRC", str(folder / "no-netrc"))
    patch.setenv("HOME", str(folder))
    patch.setenv("WANDB_DIR", str(folder))
    patch.setenv("WANDB_X_SAVE_REQUIREMENTS", "false")  # a quarter of a second for each W&B run
    patch.setenv("WANDB_DATA_DIR", str(folder / "wandb-data"))
    patch.setenv("WANDB_CACHE_DIR", str(folder / "wandb-cache"))
    patch.setenv("DDPM_CACHE", str(folder / "ddpm-cache"))


def once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder that `make` fills, with `folder`'s own W&B setup and caches. The first worker process of a test run
    that asks for `name` makes it, while the others wait."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder = root / "once" / name
    folder.parent.mkdir(exist_ok=True)
    made = folder.with_name(f"{name}.made")
    with FileLock(folder.with_name(f"{name}.lock")):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # what a failed attempt left
            folder.mkdir()
            with pytest.MonkeyPatch.context() as patch:
                apart(patch, folder)
                make(folder)
            made.touch()
    return folder
