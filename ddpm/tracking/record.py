"""The record of a run, `run.json`, validated where it is read."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ddpm.rows import parse, read_objects


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
    environment: dict[str, Any] = {}
    amendments: list[_Amendment] = []


def read_record(path: Path) -> dict[str, Any]:
    """What the file `path` says of a run, as it stands there. Raises OSError, and ValueError in words where it is no
    record."""
    found = parse(path.read_bytes())
    try:
        _Record.model_validate(found)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg']}" for e in error.errors(include_url=False)]
        raise ValueError("; ".join(wrong[:3]) + ("; ..." if len(wrong) > 3 else "")) from None
    return found


def read_result(folder: Path) -> dict[str, Any]:
    """The last result in the `results.jsonl` of a run folder, with `out`; empty if there is none: the run is not
    finished, whether that file is absent, empty or damaged. Raises OSError."""
    path = folder / "results.jsonl"
    if not path.exists():
        return {}
    found = [each for _, each in read_objects(path.read_bytes().splitlines(), {}) if isinstance(each.get("out"), dict)]
    return found[-1] if found else {}
