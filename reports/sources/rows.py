"""One row of a run's history, as W&B keeps it: its step, its metrics, its sample grid."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ddpm.files.rows import step_of

_GRID = "samples/grid"
_DEEPEST = 20  # mappings in each other

Row = dict[str, Any]


def read_row(raw: Mapping[str, Any]) -> tuple[int | None, Row, str | None]:
    """(step, {metric: value}, path of the sample grid among the run's files); step is None where the row has none."""
    step = step_of(raw.get("step"))
    if step is None:
        return None, {}, None
    grid = raw.get(_GRID)
    is_image = isinstance(grid, Mapping) and grid.get("_type") == "image-file" and isinstance(grid.get("path"), str)
    return step, dict(_leaves(raw)), grid["path"] if is_image else None  # type: ignore[index]


def read_history(raws: Iterable[Any], grids: list[tuple[int, str]], notes: list[str]) -> Iterator[tuple[int, Row]]:
    """(step, {metric: value}) of each raw row that has a step; (step, path) of its sample grid is added to `grids`.

    A row without a step of its own is none of the training's. One with something else in its place is left out, and so
    is what is no row (None): `notes` says how many."""
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
        notes.append(f"history: {without} row(s) whose step is no whole number from 0 on were skipped")
    if broken:
        notes.append(f"history: {broken} row(s) that do not parse were skipped")


def _leaves(row: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Metrics of a row with dotted names, without W&B's own (`_step`), media and the x-axis."""
    for key, value in row.items():
        if not prefix and (key.startswith("_") or key == "step"):
            continue
        if isinstance(value, Mapping) and depth < _DEEPEST:
            if "_type" not in value:
                yield from _leaves(value, f"{prefix}{key}.", depth + 1)
        else:
            yield f"{prefix}{key}", value
