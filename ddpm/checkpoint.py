"""Checkpoints: one file of tensors and plain values, loadable without running code from it."""

import os
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from ddpm.errors import UserError


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` beside `path` and rename it into place, so that `path` is always whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    with aside.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def load_checkpoint(path: Path, device: str = "cpu") -> dict[str, Any]:
    """The state that `save_checkpoint` wrote. Raises UserError where there is none or it is damaged."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise UserError(f"There is no checkpoint {path}.") from None
    except (OSError, RuntimeError, EOFError, ValueError, UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"The checkpoint {path} is damaged or is not one: {reason}.") from error
