"""Checkpoints: one file of tensors and plain values, loadable without running code from it, and known to be whole."""

import copy
import hashlib
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddpm.errors import UserError
from ddpm.files.disk import make_folder, write_whole

_NAMED = 5  # run folders that an error lists


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the run folder `folder` keeps the checkpoint of `step`."""
    return folder / "checkpoints" / f"step-{step:06d}.pt"


def checkpoint_step(path: Path) -> int:
    """The step in a checkpoint's name."""
    return int(path.stem.removeprefix("step-"))


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of the run folder `folder`, oldest first."""
    found = [path for path in folder.glob("checkpoints/step-*.pt") if re.fullmatch(r"step-\d+", path.stem)]
    return sorted(found, key=checkpoint_step)


def no_checkpoints(path: Path) -> UserError:
    """What to say where `path` is neither a checkpoint nor a run folder: the run folders in it, where it holds some."""
    depths = ("*", "*/*")  # of an experiment's folder, and of the folder of experiments
    runs = sorted({found.parents[1] for depth in depths for found in path.glob(f"{depth}/checkpoints/step-*.pt")})
    if runs:
        more = f", and {len(runs) - _NAMED} more" if len(runs) > _NAMED else ""
        listed = ", ".join(map(str, runs[:_NAMED]))
        return UserError(f"{path} is not a run folder, but holds some. Give one of them: {listed}{more}.")
    return UserError(
        f"{path} is neither a checkpoint nor a run folder with checkpoints. Give a file such as "
        "runs/e5/RUN_ID/checkpoints/step-002000.pt, or the folder runs/e5/RUN_ID."
    )


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` with its digest beside `path` and rename it into place: `path` is always whole or as it was.

    Raises OSError where it cannot be written; nothing is left beside `path` then.
    """
    content = io.BytesIO()  # torch would hide what went wrong with the file
    torch.save({**state, "digest": digest(state)}, content)
    make_folder(path.parent)
    write_whole(path, content.getbuffer())


def load_state(path: Path) -> dict[str, Any]:
    """What `save_checkpoint` wrote, whatever it is, on the CPU. Raises UserError if there is none or it is damaged."""
    return load(path, lambda path, state: None)


def load(path: Path, require: Callable[[Path, Any], None]) -> dict[str, Any]:
    """A file's state, in memory, once `require` has let it pass: until then no tensor is read, of a file that may be
    another program's and huge."""
    try:
        if not path.exists():
            raise UserError(f"There is no checkpoint {path}.")
        _require_archive(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        stored = state.pop("digest", None) if isinstance(state, dict) else None
        require(path, state)
        if stored is not None and stored != digest(state):
            raise ValueError("its content does not match its digest")
        return copy.deepcopy(state)
    except UserError:
        raise
    except Exception as error:  # torch raises whatever the damaged bytes lead it to
        raise UserError(f"The checkpoint {path} is damaged or is not one: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    """Why torch could not load a file, in a line. Not torch's own advice, which is to run code from the file."""
    if "weights_only" not in str(error):
        return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    objects = sorted({name.rstrip(",.`") for name in re.findall(r"GLOBAL ([\w.]+)", str(error))})
    held = f"objects of Python ({', '.join(objects)})" if objects else "objects of Python, or damaged bytes"
    return f"it holds {held}, and to load those would run code from the file. Tensors and plain values alone are loaded"


def _require_archive(path: Path) -> None:
    """Raises ValueError or OSError if a file cannot be what `torch.save` writes."""
    with path.open("rb") as file:
        start = file.read(9)
    if not start:
        raise ValueError("it is empty")
    if path.suffix == ".safetensors" or start[8:] == b"{":
        raise ValueError("it is a safetensors file, which holds weights alone, without a config")
    if not start.startswith(b"PK"):
        raise ValueError("it is not an archive as torch.save writes it")


def digest(state: Any) -> str:
    """SHA-256 over all names, values and tensor contents of a nested state."""
    sha = hashlib.sha256()
    _feed(sha, state)
    return sha.hexdigest()


def _feed(sha: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        sha.update(f"{value.dtype}{tuple(value.shape)}".encode())
        sha.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, dict):
        for key, inner in value.items():
            sha.update(repr(key).encode())
            _feed(sha, inner)
    elif isinstance(value, list | tuple):
        sha.update(str(len(value)).encode())
        for inner in value:
            _feed(sha, inner)
    else:
        sha.update(repr(value).encode())
