"""What a run folder says of its run: in `run.json`, or in a checkpoint if that is lost; and of its results."""

import json
import secrets
from pathlib import Path
from typing import Any

from ddpm.checkpoint import intact, list_checkpoints
from ddpm.errors import UserError

RESTORED = "restored"  # in a record that was made from a checkpoint: why


def read_record(folder: Path) -> dict[str, Any]:
    """The record in `run.json`. If that is lost, one from the newest intact checkpoint, with a new W&B id.

    Raises UserError, if there is neither.
    """
    path = folder / "run.json"
    try:
        return _checked(json.loads(path.read_bytes()))
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        reason = "it is empty" if path.is_file() and not path.stat().st_size else " ".join(str(error).split())
    if list_checkpoints(folder):
        for _, state in intact(folder):
            return _restored(folder.name, state["config"], reason)
    raise UserError(
        f"{folder} exists and is not a run folder of this project, or its run.json is lost ({reason}) and it has no "
        "intact checkpoint. Move it, or give another --out_dir."
    )


def _checked(record: Any) -> dict[str, Any]:
    """A record, if it has the shape of one. Raises ValueError, LookupError or TypeError."""
    shapes = {"run_id": str, "wandb_id": str, "sessions": list, "config": dict}
    wrong = [key for key, shape in shapes.items() if not isinstance(record[key], shape)]
    if wrong or not record["sessions"] or not all(isinstance(session, dict) for session in record["sessions"]):
        raise ValueError(f"wrong values of {', '.join(wrong) or 'sessions'}")
    return dict(record)


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
    """What `results.jsonl` says of a finished run, as reports read it: its last line that holds an object. Empty, if
    there is none: then the run is not finished."""
    try:
        lines = (folder / "results.jsonl").read_bytes().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            return found
    return {}


def note_evaluation(folder: Path, step: int, point: str, rows: list[dict[str, Any]]) -> None:
    """Append the rows of an evaluated point to the record of the run in `folder`, once; elsewhere do nothing. Says so
    where the record cannot be read or written."""
    if not (folder / "run.json").exists():
        return
    path = folder / "evaluations.jsonl"
    try:
        before = path.read_bytes() if path.exists() else b""
        noted = any(_is_of(line, point) for line in before.splitlines())
        torn = "\n" if before and not before.endswith(b"\n") else ""  # a kill in the middle of a line
        line = "" if noted else json.dumps({"_i": step, "point": point, "out": rows}) + "\n"
        if torn or line:
            with path.open("a") as file:
                file.write(torn + line)
    except OSError as error:
        print(f"warning: the evaluation is not noted in {path}: {error.strerror or error}")


def _is_of(line: bytes, point: str) -> bool:
    """Whether a line of the record is of that point, and whole: cut short, it does not parse."""
    try:
        return bool(json.loads(line)["point"] == point)
    except (ValueError, LookupError, TypeError):
        return False
