"""Reading JSON as runs write it, and the lines of `loss.jsonl`."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

LARGEST_STEP = 2**53  # above it, floats cannot tell two neighbouring steps apart
MALFORMED, NO_ROW = "malformed line(s)", "line(s) without a step or values"
_SHOWN = 5

# Skipped lines: reason -> line numbers, from 1.
LeftOut = dict[str, list[int]]


def parse(text: bytes | str) -> Any:
    """The value of a JSON text, which may have Python's bare NaN and Infinity. Raises ValueError if it is not JSON,
    too deeply nested, or holds text that is not Unicode.

    orjson takes a quarter of the standard library's time and accepts strict JSON only; the standard library reads the
    rest.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        text = text.decode(errors="replace") if isinstance(text, bytes) else text
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if "\\u" in text:
        json.dumps(found, ensure_ascii=False).encode()  # half a surrogate pair cannot be encoded
    return found


def step_of(value: Any) -> int | None:
    """`value` as a step, a whole number (5.0 counts) from 0 to `LARGEST_STEP`; None if it is not one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LARGEST_STEP:
        return None
    return int(value) if value == int(value) else None


def read_rows(lines: Sequence[bytes], left_out: LeftOut) -> Iterator[tuple[int, dict[str, Any]]]:
    """(step, {metric: value}) for each line `{"_i": step, "out": {metric: value}}`. Other lines' numbers are added to
    `left_out`; empty lines are ignored."""
    for number, found in read_objects(lines, left_out):
        step, out = found.get("_i"), found.get("out")
        if type(step) is int and 0 <= step <= LARGEST_STEP and type(out) is dict:
            yield step, out
        else:
            left_out.setdefault(NO_ROW, []).append(number)


def read_objects(lines: Sequence[bytes], left_out: LeftOut) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, JSON object) for each line that holds one. Other lines' numbers are added to `left_out`."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found = parse(line)
        except ValueError:
            found = None
        if type(found) is dict:
            yield number, found
        else:
            left_out.setdefault(MALFORMED, []).append(number)


def said_of(name: str, left_out: LeftOut) -> list[str]:
    """Messages about the skipped lines of the file `name`."""
    return [f"{name}: {len(lines)} {why} were skipped (line {listed(lines)})" for why, lines in left_out.items()]


def listed(numbers: list[int]) -> str:
    """The first few of `numbers`, as text."""
    return ", ".join(map(str, numbers[:_SHOWN])) + (", ..." if len(numbers) > _SHOWN else "")
