"""Checkpoints: one file of tensors and plain values, loadable without running code from it, and known to be whole."""

import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddpm.errors import UserError

FORMAT = 2  # of what a training can be continued from; raised when Trainer.state_dict changes
_NAMED = 5  # run folders that an error lists


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the run folder `folder` keeps the checkpoint of `step`."""
    return folder / "checkpoints" / f"step-{step:06d}.pt"


def checkpoint_step(path: Path) -> int:
    """The step in a checkpoint's name."""
    return int(path.stem.removeprefix("step-"))


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of the run folder `folder`, oldest first."""
    return sorted(folder.glob("checkpoints/step-*.pt"), key=checkpoint_step)


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
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    try:
        with aside.open("wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state that `save_checkpoint` wrote, on the CPU. Raises UserError where there is none or it is damaged."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        stored = state.pop("digest", None)
        if stored is not None and stored != digest(state):
            raise ValueError("its content does not match its digest")
        return state
    except FileNotFoundError:
        raise UserError(f"There is no checkpoint {path}.") from None
    except Exception as error:  # torch raises whatever the damaged bytes lead it to
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"The checkpoint {path} is damaged or is not one: {reason}.") from error


def intact(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The checkpoints of a run folder that load whole, with their states, newest first. Names those that do not."""
    for path in reversed(list_checkpoints(folder)):
        try:
            yield path, load_checkpoint(path)
        except UserError as error:
            print(f"warning: {error} It is passed over.")


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
