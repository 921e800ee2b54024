"""One row of a run's history, whichever way it came: its text as JSON, its step, its metrics, its sample grid."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

_GRID = "samples/grid"


def parse(text: bytes | str) -> Any:
    """The value that `text` writes in JSON, with the bare NaN and Infinity that Python writes. Raises ValueError.

    orjson takes a quarter of the time of the standard library, and refuses a text that the JSON standard does not
    know; whether it is a value all the same, the standard library says.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text.decode(errors="replace") if isinstance(text, bytes) else text)


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
