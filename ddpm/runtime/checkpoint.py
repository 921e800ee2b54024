"""Checkpoints: files of tensors and plain values, with a digest, loaded without running code from them."""

import hashlib
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddpm.errors import UserError, first_line
from ddpm.files.disk import make_folder, write_whole

_NAMED = 5  # number of run folders that an error lists


def checkpoint_path(folder: Path, step: int) -> Path:
    """The path of the checkpoint of `step` in a run folder."""
    return folder / "checkpoints" / f"step-{step:06d}.pt"


def checkpoint_step(path: Path) -> int:
    """The step in a checkpoint's file name."""
    return int(path.stem.removeprefix("step-"))


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a run folder, oldest first."""
    found = [path for path in folder.glob("checkpoints/step-*.pt") if re.fullmatch(r"step-\d+", path.stem)]
    return sorted(found, key=checkpoint_step)


def no_checkpoints(path: Path) -> UserError:
    """The error for a `path` that is neither a checkpoint nor a run folder. It lists the run folders in `path`."""
    depths = ("*", "*/*")  # from an experiment's folder, and from its parent
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
    """Write `state` and its digest to `path`, whole or not at all. Raises OSError."""
    content = io.BytesIO()  # when torch writes the file itself, it hides the cause of an error
    torch.save({**state, "digest": digest(state)}, content)
    make_folder(path.parent)
    write_whole(path, content.getbuffer())


def load_state(path: Path, require: Callable[[Path, Any], None] | None = None) -> dict[str, Any]:
    """The state in a file by `save_checkpoint`, on the CPU. Raises UserError if the file is missing or damaged.

    require: called with the path and the state before any tensor is read (another program's file may be huge); raises
    if the file is not acceptable.
    """
    try:
        if not path.exists():
            raise UserError(f"There is no checkpoint {path}.")
        _require_archive(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        stored = state.pop("digest", None) if isinstance(state, dict) else None
        if require:
            require(path, state)
        if stored is not None and stored != digest(state):
            raise ValueError("its content does not match its digest")
        return _in_memory(state)
    except UserError:
        raise
    except Exception as error:  # damaged bytes make torch raise anything
        raise UserError(f"The checkpoint {path} is damaged or is not one: {_reason(error)}.") from error


def _in_memory(value: Any) -> Any:
    """`value` with copies of its tensors, which are parts of the file."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _in_memory(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_in_memory, value))
    return value


def _reason(error: Exception) -> str:
    """Why torch could not load a file, without torch's advice, which is to run code from the file."""
    if "weights_only" not in str(error):
        return first_line(error)
    objects = sorted({name.rstrip(",.`") for name in re.findall(r"GLOBAL ([\w.]+)", str(error))})
    held = f"Python objects ({', '.join(objects)})" if objects else "Python objects, or damaged bytes"
    return f"it holds {held}, which only code from the file could load. Only tensors and plain values are loaded"


def _require_archive(path: Path) -> None:
    """Raises ValueError or OSError if `torch.save` cannot have written the file."""
    with path.open("rb") as file:
        start = file.read(9)
    if not start:
        raise ValueError("it is empty")
    if path.suffix == ".safetensors" or start[8:] == b"{":
        raise ValueError("it is a safetensors file, which holds weights without a config")
    if not start.startswith(b"PK"):
        raise ValueError("it is not an archive written by torch.save")


def digest(state: Any) -> str:
    """SHA-256 over the names, values and tensor contents of a nested state."""
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
