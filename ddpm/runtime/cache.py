"""What many runs need alike, kept on disk for the next one: tensors by a key of all that they depend on."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ddpm.files.paths import home

if TYPE_CHECKING:  # the reports keep their files here too, and need no torch
    from torch import Tensor

Tensors = dict[str, "Tensor"]
_configured: Path | None = None


def use_folder(folder: Path | None) -> None:
    """Take `folder`, a config's `cache_dir`, for this process's cache; None is the user's own."""
    global _configured
    _configured = folder


def cache_dir() -> Path:
    """The project's cache folder: $DDPM_CACHE, else the configured one, else the user's."""
    chosen = os.environ.get("DDPM_CACHE")
    if chosen:
        return home(chosen)
    return _configured or home(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "ddpm"


def cached(kind: str, key: str, make: Callable[[], Tensors]) -> Tensors:
    """What `make` returned for the key of this kind, at this call or an earlier one, in any process.

    key: a digest of everything that the tensors depend on.
    """
    return kept(cache_dir() / kind / f"{key}.safetensors", make)


def kept(path: Path, make: Callable[[], Tensors]) -> Tensors:
    """What `make` returned for the file `path`, at this call or an earlier one.

    The file is whole or not there. One that is damaged is made again; a folder that cannot be written is done without.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    try:
        return load_file(path)
    except (OSError, SafetensorError):
        made = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as aside:
            save_file(made, Path(aside) / path.name)
            (Path(aside) / path.name).replace(path)
    except (OSError, SafetensorError):
        pass
    return made
