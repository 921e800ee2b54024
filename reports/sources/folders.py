"""Run folders: `loss.jsonl`, `results.jsonl`; from our trainer also `run.json` and `samples/`."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reports.runs import Run, as_seed, as_time, collect, merge, resolve_protocols
from reports.sources import cache
from reports.sources.rows import parse

_SHOWN_LINES = 5


def find(root: Path) -> list[Path]:
    """The run folders at or below `root`: those holding a `loss.jsonl`."""
    return sorted({path.parent.resolve() for path in root.rglob("loss.jsonl") if path.is_file()})


def read(found: list[Path]) -> list[Run]:
    """One Run per folder."""
    return [read_run(folder) for folder in found]


def read_run(folder: Path) -> Run:
    """The run in `folder`. Lines that do not parse are skipped, counted and noted."""
    logged, said = cache.through(folder / "loss.jsonl", _read_rows)
    merged = merge([logged])

    result, result_notes = _read_result(folder / "results.jsonl")
    card, card_notes = _read_json(folder / "run.json")
    notes = said["notes"] + result_notes + card_notes

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
        arrays=merged.arrays,
        nan_steps=merged.nan_steps,
    )


def _read_rows(path: Path) -> cache.Read:
    bad: list[int] = []
    passed: list[dict[str, Any]] = []

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        for line in _objects(path, bad):
            if _is_row(line):
                yield line["_i"], line["out"]
            else:
                passed.append(line)

    logged = collect(rows())
    notes = _malformed(path, bad)
    if passed:
        notes.append(f"{path.name}: {len(passed)} line(s) without a step or values were skipped")
    return logged, {"notes": notes}


def _objects(path: Path, bad: list[int]) -> Iterator[dict[str, Any]]:
    """The objects in `path`, one per line; the numbers of the lines that are none are added to `bad`."""
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            found = parse(line)
        except ValueError:
            found = None
        if isinstance(found, dict):
            yield found
        else:
            bad.append(number)


def _malformed(path: Path, bad: list[int]) -> list[str]:
    if not bad:
        return []
    where = ", ".join(map(str, bad[:_SHOWN_LINES])) + (", ..." if len(bad) > _SHOWN_LINES else "")
    return [f"{path.name}: {len(bad)} malformed line(s) were skipped (line {where})"]


def _read_result(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The last object in `results.jsonl`, and notes; empty where the run has none yet."""
    if not path.exists():
        return {}, []
    bad: list[int] = []
    results = list(_objects(path, bad))
    return (results[-1] if results else {}), _malformed(path, bad)


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
