"""Reads a run folder's record (`run.json`, or a checkpoint if that is lost) and results."""

import secrets
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ddpm.errors import UserError, one_line
from ddpm.files.rows import parse, read_objects
from ddpm.models.stored import intact
from ddpm.runtime.checkpoint import list_checkpoints

RESTORED = "restored"  # key in a record made from a checkpoint: why run.json is lost


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Session(_Part):
    from_step: int = 0
    wandb: str = ""
    wandb_mode: str = ""
    wandb_files: str | None = None
    environment: dict[str, Any] = {}


class _Amendment(_Part):
    steps: list[int]
    sent: bool
    how: Any = None


class _Record(_Part):
    run_id: str = Field(min_length=1)
    wandb_id: str = Field(min_length=1)
    sessions: list[_Session] = Field(min_length=1)
    config: dict[str, Any]
    experiment: str = ""
    seed: int = 0
    params: int = 0
    started: str = ""
    version: str | None = None
    commit: str | None = None
    data: dict[str, Any] = {}
    protocols: dict[str, dict[str, Any]] = {}
    criteria: dict[str, str] = {}  # {report: digest of its criteria when the run began}
    environment: dict[str, Any] = {}
    amendments: list[_Amendment] = []


def read_record(folder: Path) -> dict[str, Any]:
    """The record in `run.json`. If that is lost or malformed, a record from the newest intact checkpoint, with a new
    W&B id. Raises UserError if there is neither."""
    path = folder / "run.json"
    try:
        return _validated(parse(path.read_bytes()))
    except (OSError, ValueError) as error:
        reason = "it is empty" if path.is_file() and not path.stat().st_size else one_line(error)
    if list_checkpoints(folder):
        for _, state in intact(folder):
            return _restored(folder.name, state["config"], reason)
    raise UserError(
        f"{folder} exists and is not a run folder of this project, or its run.json is lost ({reason}) and it has no "
        "intact checkpoint. Move it, or give another --out_dir."
    )


def _validated(found: Any) -> dict[str, Any]:
    """`found`, if it has the shape of a record. Raises ValueError otherwise."""
    try:
        _Record.model_validate(found)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg']}" for e in error.errors(include_url=False)]
        raise ValueError("; ".join(wrong[:3]) + ("; ..." if len(wrong) > 3 else "")) from None
    return dict(found)


def _restored(run_id: str, config: dict[str, Any], reason: str) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "wandb_id": f"{run_id}-{secrets.token_hex(3)}",
        "experiment": config["experiment"],
        "seed": config["seed"],
        "sessions": [{}],
        "config": config,
        RESTORED: reason,
    }


def read_result(folder: Path) -> dict[str, Any]:
    """The last result in a run folder's `results.jsonl`; empty if there is none (the file is absent, empty or damaged),
    because the run is then not finished. Raises OSError."""
    path = folder / "results.jsonl"
    if not path.exists():
        return {}
    found = [each for _, each in read_objects(path.read_bytes().splitlines(), {}) if isinstance(each.get("out"), dict)]
    return found[-1] if found else {}
