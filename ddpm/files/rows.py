"""JSON as runs write it, and the lines of `loss.jsonl`: what a line says, or that it says nothing."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

LARGEST_STEP = 2**53  # above it, two neighbouring steps are one float
MALFORMED, NO_ROW = "malformed line(s)", "line(s) without a step or values"
_SHOWN = 5

# What was left out: why -> numbers of the lines, from 1.
LeftOut = dict[str, list[int]]


def parse(text: bytes | str) -> Any:
    """The value that `text` writes in JSON, with the bare NaN and Infinity that Python writes. Raises ValueError: no
    JSON, too deeply nested, or a text in it that is not Unicode.

    orjson takes a quarter of the time of the standard library, and refuses a text that the JSON standard does not
    know; whether it is a value all the same, the standard library says.
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
    """`value` as a step, a whole number from 0 to `LARGEST_STEP`, which may be written as 5.0; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LARGEST_STEP:
        return None
    return int(value) if value == int(value) else None


def read_rows(lines: Sequence[bytes], left_out: LeftOut) -> Iterator[tuple[int, dict[str, Any]]]:
    """(step, {metric: value}) of each line `{"_i": step, "out": {metric: value}}`. The numbers of other lines are added
    to `left_out`; empty lines are passed."""
    for number, found in read_objects(lines, left_out):
        step, out = found.get("_i"), found.get("out")
        if type(step) is int and 0 <= step <= LARGEST_STEP and type(out) is dict:
            yield step, out
        else:
            left_out.setdefault(NO_ROW, []).append(number)


def read_objects(lines: Sequence[bytes], left_out: LeftOut) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number of the line, its JSON object). The numbers of lines that hold none are added to `left_out`."""
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
    """What is said of the lines of the file `name` that were left out."""
    return [f"{name}: {len(lines)} {why} were skipped (line {listed(lines)})" for why, lines in left_out.items()]


def listed(numbers: list[int]) -> str:
    """The first few of `numbers`, as text."""
    return ", ".join(map(str, numbers[:_SHOWN])) + (", ..." if len(numbers) > _SHOWN else "")
