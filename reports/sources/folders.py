"""Reads run folders: `loss.jsonl`, `results.jsonl`; from our trainer also `run.json` and `samples/`."""

import re
from pathlib import Path
from typing import Any

from ddpm.files import checksums
from ddpm.files.rows import LeftOut, parse, read_objects, read_rows, said_of, step_of
from reports.columns import collect, merge
from reports.runs import Run
from reports.sources import cache
from reports.sources.later import from_folder, with_later
from reports.sources.record import Pictures, make_run, read_about


def find(root: Path) -> list[Path]:
    """The run folders at or below `root`: those with a `loss.jsonl`."""
    return sorted({path.parent.resolve() for path in root.rglob("loss.jsonl") if path.is_file()})


def read(found: list[Path]) -> list[Run]:
    """One Run for each folder."""
    return [read_run(folder) for folder in found]


def read_run(folder: Path) -> Run:
    """The run in `folder`. Parts that do not fit are left out, counted and noted."""
    logged, said = cache.through(folder / "loss.jsonl", _read_rows)
    result, result_notes = _read_result(folder / "results.jsonl")
    card, card_notes = _read_json(folder / "run.json")

    # A config that is no mapping must not hide the config in the results.
    config = card.get("config") if isinstance(card.get("config"), dict) else result.get("cfg")
    summary = result.get("out")
    found = {**card, "config": config or card.get("config"), "summary": summary}
    found["seed"] = card.get("seed", config.get("seed") if isinstance(config, dict) else None)
    found["commit"] = card.get("commit") or (summary.get("git_hash") if isinstance(summary, dict) else None)
    data = card.get("data")
    found["images"] = data.get("digest") if isinstance(data, dict) else None
    about, about_notes = read_about(found, "run.json" if card else "results.jsonl")
    # The original study's run ids collide between experiments; its folder names do not.
    about.run_id = about.run_id or folder.name
    named = about.config.get("experiment")
    about.experiment = about.experiment or (named if isinstance(named, str) and named else folder.name)
    later, later_notes = from_folder(folder)
    run = make_run(
        about,
        merge([logged]),
        folder,
        [*said["notes"], *result_notes, *card_notes, *about_notes, *later_notes],
        pictures=_grids(folder),
        finished=bool(result),
    )
    return with_later(run, later)


def _read_rows(path: Path) -> cache.Read:
    left_out: LeftOut = {}
    content = path.read_bytes()
    lines = content.splitlines()
    logged = collect(read_rows(lines, left_out))
    return logged, {"notes": [*said_of(path.name, left_out), *checksums.as_written(path, content, lines)]}


def _read_result(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The last result in `results.jsonl`, and notes; empty if there is none: the run is not finished."""
    if not path.exists():
        return {}, []
    left_out: LeftOut = {}
    content = path.read_bytes()
    results = [found for _, found in read_objects(content.splitlines(), left_out) if isinstance(found.get("out"), dict)]
    notes = [*said_of(path.name, left_out), *checksums.as_written(path, content)]
    if not results:
        notes.append(f"{path.name} holds no result: the run counts as not finished")
    return (results[-1] if results else {}), notes


def _read_json(path: Path) -> tuple[dict[str, Any], list[str]]:
    if not path.exists():
        return {}, []
    content = path.read_bytes()
    try:
        found = parse(content)
    except ValueError:
        return {}, [f"{path.name} does not parse and was ignored"]
    if isinstance(found, dict):
        return found, checksums.as_written(path, content)
    return {}, [f"{path.name} holds no mapping and was ignored"]


def _grids(folder: Path) -> Pictures:
    """The PNGs in `samples/`. The step is the last number in the file's name (`step-000200.png`)."""
    pictures = Pictures()
    for path in sorted((folder / "samples").glob("*.png")):
        numbers = re.findall(r"[0-9]+", path.stem)
        step = step_of(int(numbers[-1])) if numbers else None
        if step is not None:
            pictures.add(step, folder, f"samples/{path.name}")
    return pictures
