"""What words of the command line are read as: numbers within bounds, lists of them, lists of known names."""

import argparse
from collections.abc import Callable
from pathlib import Path

from ddpm.errors import UserError, did_you_mean
from ddpm.files.paths import home


def path(text: str) -> Path:
    """A path, `~` at its beginning as the home folder."""
    try:
        return home(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def positive(text: str) -> int:
    """An integer from 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def not_negative(text: str) -> int:
    """An integer from 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, got {value}")
    return value


def fraction(text: str) -> float:
    """A number within 0 ... 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must lie within 0 ... 1, got {value:g}")
    return value


def positives(text: str) -> tuple[int, ...]:
    """Integers from 1, comma-separated; each once, rising."""
    try:
        return tuple(sorted({positive(part) for part in text.split(",")}))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers, such as 10,20,50") from None


def names(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    """What reads a list of names, comma-separated, each of which has to be known."""

    def parse(text: str) -> tuple[str, ...]:
        found = tuple(dict.fromkeys(text.split(",")))
        for name in found:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}.{did_you_mean(name, known)}")
        return found

    return parse
