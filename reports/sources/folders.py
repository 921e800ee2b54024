"""Run folders: `loss.jsonl`, `results.jsonl`; from our trainer also `run.json` and `samples/`."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reports.runs import Run, as_seed, as_time, merge_rows, resolve_protocols

_SHOWN_LINES = 5


def find(root: Path) -> list[Path]:
    """The run folders at or below `root`: those holding a `loss.jsonl`."""
    return sorted({path.parent.resolve() for path in root.rglob("loss.jsonl")})


def read(found: list[Path]) -> list[Run]:
    """One Run per folder."""
    return [read_run(folder) for folder in found]


def read_run(folder: Path) -> Run:
    """The run in `folder`. Lines that do not parse are skipped, counted and noted."""
    lines, notes = _read_jsonl(folder / "loss.jsonl")
    rows = [(line["_i"], line["out"]) for line in lines if _is_row(line)]
    if len(rows) < len(lines):
        notes.append(f"loss.jsonl: {len(lines) - len(rows)} line(s) without a step or values were skipped")
    merged = merge_rows(rows)

    results, more = _read_jsonl(folder / "results.jsonl")
    result = results[-1] if results else {}
    card, card_notes = _read_json(folder / "run.json")
    notes += more + card_notes

    config = _mapping(card.get("config")) or _mapping(result.get("cfg"))
    summary = _mapping(result.get("out"))
    fingerprints, protocols = resolve_protocols(config, merged.fingerprints, _mapping(card.get("protocols")))
    return Run(
        # The original study's run ids collide between experiments; its folder names do not.
        id=str(card.get("run_id") or folder.name),
        experiment=str(card.get("experiment") or config.get("experiment") or folder.name),
        seed=as_seed(card.get("seed", config.get("seed"))),
        config=config,
        history=merged.history,
        source=folder,
        summary=summary,
        protocols=protocols,
        fingerprints=fingerprints,
        grids=_grids(folder / "samples"),
        state="finished" if result else "unfinished",
        started=as_time(card.get("started")),
        commit=card.get("commit") or summary.get("git_hash"),
        notes=tuple(notes) + merged.notes,
    )


def _read_jsonl(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The objects in `path`, one per line, and notes on the lines that are none; nothing if it is absent."""
    if not path.exists():
        return [], []
    rows: list[dict[str, Any]] = []
    bad: list[int] = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            bad.append(number)
    if not bad:
        return rows, []
    where = ", ".join(map(str, bad[:_SHOWN_LINES])) + (", ..." if len(bad) > _SHOWN_LINES else "")
    return rows, [f"{path.name}: {len(bad)} malformed line(s) were skipped (line {where})"]


def _read_json(path: Path) -> tuple[dict[str, Any], list[str]]:
    if not path.exists():
        return {}, []
    try:
        return _mapping(json.loads(path.read_text(encoding="utf-8", errors="replace"))), []
    except ValueError:
        return {}, [f"{path.name} does not parse and was ignored"]


def _is_row(line: dict[str, Any]) -> bool:
    step = line.get("_i")
    return isinstance(step, int) and not isinstance(step, bool) and isinstance(line.get("out"), Mapping)


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _grids(folder: Path) -> dict[int, Path]:
    """step -> PNG, the step being the last number in the file's name (`step-000200.png`)."""
    grids = {}
    for path in sorted(folder.glob("*.png")):
        numbers = re.findall(r"\d+", path.stem)
        if numbers:
            grids[int(numbers[-1])] = path
    return grids
