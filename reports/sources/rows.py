"""What W&B keeps of a run, from its server or its offline files: rows of the history, and the record."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ddpm.files.rows import parse, step_of
from reports.sources.record import About, read_about

_GRID = "samples/grid"
_DEEPEST = 20  # levels of nested mappings

Row = dict[str, Any]


def parsed(text: bytes | str) -> Any:
    """The JSON value of `text`; None if it is none."""
    try:
        return parse(text)
    except ValueError:
        return None


def read_config(config: Mapping[str, Any], **known: Any) -> tuple[About, list[str]]:
    """What a W&B run's config and `known`, other parts of its record, say about the run; notes on what was left out."""
    found = {
        **known,
        "experiment": config.get("experiment") or known.get("experiment"),
        "seed": config.get("seed"),
        "commit": config.get("commit") or known.get("commit"),
        "config": {
            key: value for key, value in config.items() if key not in ("_wandb", "protocols", "criteria", "images")
        },
        "protocols": config.get("protocols"),
        "criteria": config.get("criteria"),
        "images": config.get("images"),
    }
    about, notes = read_about(found, "the run's config")
    about.experiment = about.experiment or about.run_id
    return about, notes


def read_row(raw: Mapping[str, Any]) -> tuple[int | None, Row, str | None]:
    """(step, {metric: value}, path of the sample grid among the run's files); step is None if the row has none."""
    step = step_of(raw.get("step"))
    if step is None:
        return None, {}, None
    grid = raw.get(_GRID)
    is_image = isinstance(grid, Mapping) and grid.get("_type") == "image-file" and isinstance(grid.get("path"), str)
    return step, dict(_leaves(raw)), grid["path"] if is_image else None  # type: ignore[index]


def read_history(raws: Iterable[Any], grids: list[tuple[int, str]], notes: list[str]) -> Iterator[tuple[int, Row]]:
    """(step, {metric: value}) for each raw row with a step; adds (step, path) of its sample grid to `grids`.

    A row without a step is not the training's. Rows with something else as their step, and raws that are no rows
    (None), are left out; `notes` gets their counts.
    """
    without = broken = 0
    for raw in raws:
        if not isinstance(raw, Mapping):
            broken += 1
            continue
        step, row, grid = read_row(raw)
        if step is not None:
            yield step, row
            if grid:
                grids.append((step, grid))
        elif raw.get("step") is not None:
            without += 1
    if without:
        notes.append(f"history: {without} row(s) whose step is not a whole number from 0 on were skipped")
    if broken:
        notes.append(f"history: {broken} row(s) that do not parse were skipped")


def _leaves(row: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """The row's metrics by dotted name, without W&B's own (`_step`), media and the x-axis."""
    for key, value in row.items():
        if not prefix and (key.startswith("_") or key == "step"):
            continue
        if isinstance(value, Mapping) and depth < _DEEPEST:
            if "_type" not in value:
                yield from _leaves(value, f"{prefix}{key}.", depth + 1)
        else:
            yield f"{prefix}{key}", value
