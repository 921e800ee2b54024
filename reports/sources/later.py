"""What `ddpm evaluate` and `ddpm probe --out` measured on a run's checkpoints: from the notes in its folder, or from
the W&B runs that were made of these notes."""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ddpm.files.rows import LeftOut, read_objects, said_of
from reports.columns import as_number
from reports.runs import Later, Run, canonical
from reports.sources.record import printable
from reports.sources.rows import parsed

NOTES = ("evaluations.jsonl", "probes.jsonl")
JOBS = ("evaluate", "probe")  # the job types of their W&B runs


def from_folder(folder: Path) -> tuple[list[Later], list[str]]:
    """The numbers in a run folder's notes, and notes on what was left out."""
    found: list[Later] = []
    left_out: list[str] = []
    for name in NOTES:
        path = folder / name
        skipped: LeftOut = {}
        lines = path.read_bytes().splitlines() if path.is_file() else []
        for _, line in read_objects(lines, skipped):
            rows = line.get("out") if name == NOTES[0] else [line]
            found += from_rows(rows if isinstance(rows, list) else [])
        left_out += said_of(name, skipped)
    return found, left_out


def from_texts(texts: Iterable[Any]) -> list[Later]:
    """The numbers in the `row` texts of a W&B run's history."""
    return from_rows(parsed(text) for text in texts if isinstance(text, str))


def from_rows(rows: Iterable[Any]) -> list[Later]:
    """The numbers in rows of an evaluation or lines of a probe. Others are left out."""
    found = []
    for row in rows:
        try:
            found += _probed(row) if "how" in row else _evaluated(row)
        except (LookupError, TypeError, ValueError, AttributeError):
            continue
    return found


def with_later(run: Run, found: Iterable[Later]) -> Run:
    """The run with these numbers, sorted; of one measured twice the last counts."""
    last = {(each.step, each.metric, each.setting): each for each in found}
    return replace(run, later=tuple(last[key] for key in sorted(last)))


def _evaluated(row: dict[str, Any]) -> list[Later]:
    value, step = as_number(row["value"]), int(row["step"])
    how = f"{row['sampler']}_nfe{row['nfe']}_n{row['n']}_seed{row['seed']}_{row['protocol']}"
    ends = as_number(row.get("low")), as_number(row.get("high"))
    described, noise = row.get("described"), row["seed"]
    about = described if isinstance(described, dict) else {}, noise if isinstance(noise, int) else None
    metric = printable(f"evaluate/{row['metric']}")
    return [] if value is None else [Later(step, metric, printable(how), value, *ends, *about)]


def _probed(line: dict[str, Any]) -> list[Later]:
    method, how = line["how"]["curvature"]["method"], canonical(line["how"])
    names = method if isinstance(method, str) else "+".join(method)
    setting = f"{printable(names)}_{hashlib.sha256(how.encode()).hexdigest()[:8]}"
    numbers = {key: as_number(value) for key, value in line["out"].items()}
    return [
        Later(int(line["_i"]), printable(f"probe/{key.removeprefix('curvature/')}"), setting, value)
        for key, value in numbers.items()
        if value is not None
    ]
