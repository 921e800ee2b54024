"""One row of W&B's history, whichever way it came: its step, its metrics, its sample grid."""

from collections.abc import Iterator, Mapping
from typing import Any

_GRID = "samples/grid"


def read_row(raw: Mapping[str, Any]) -> tuple[int | None, dict[str, Any], str | None]:
    """(step, {metric: value}, path of the sample grid among the run's files); step is None where the row has none."""
    step = raw.get("step")
    if not isinstance(step, int | float) or isinstance(step, bool) or not float(step).is_integer():
        return None, {}, None
    grid = raw.get(_GRID)
    is_image = isinstance(grid, Mapping) and grid.get("_type") == "image-file" and isinstance(grid.get("path"), str)
    return int(step), dict(_leaves(raw)), grid["path"] if is_image else None  # type: ignore[index]


def _leaves(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Metrics of a row with dotted names, without W&B's own (`_step`), media and the x-axis."""
    for key, value in row.items():
        if not prefix and (key.startswith("_") or key == "step"):
            continue
        if isinstance(value, Mapping):
            if "_type" not in value:
                yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
