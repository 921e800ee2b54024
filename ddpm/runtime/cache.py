"""A cache on disk for tensors that many runs need, by a key of everything they depend on."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ddpm.files.disk import replacing
from ddpm.files.paths import home

if TYPE_CHECKING:  # the reports use the cache folder too, without torch
    from torch import Tensor

Tensors = dict[str, "Tensor"]
_configured: Path | None = None


def use_folder(folder: Path | None) -> None:
    """Use `folder` (a config's `cache_dir`) as this process's cache; None is the user's own."""
    global _configured
    _configured = folder


def cache_dir() -> Path:
    """The project's cache folder: $DDPM_CACHE, else the configured one, else the user's."""
    chosen = os.environ.get("DDPM_CACHE")
    if chosen:
        return home(chosen)
    return _configured or home(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "ddpm"


def cached(kind: str, key: str, make: Callable[[], Tensors]) -> Tensors:
    """`make()`, or what it returned in an earlier call by any process.

    key: a digest of everything that the tensors depend on, within their kind.
    """
    return kept(cache_dir() / kind / f"{key}.safetensors", make)


def kept(path: Path, make: Callable[[], Tensors]) -> Tensors:
    """`make()`, kept in the file `path`, or the file's content if it is there and intact. A folder that cannot be
    written is no error."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    try:
        return load_file(path)
    except (OSError, SafetensorError):
        made = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, synced=False, shared=True) as aside:
            save_file(made, aside)
    except (OSError, SafetensorError):
        pass
    return made
