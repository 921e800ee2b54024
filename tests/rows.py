"""Rows that tests compare."""

import json
from typing import Any


def comparable(row: dict[str, Any]) -> dict[str, Any]:
    """The row with None for NaN, which equals nothing."""
    found: dict[str, Any] = json.loads(json.dumps(row).replace('"NaN"', "null").replace("NaN", "null"))
    return found
