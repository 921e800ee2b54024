"""Types of command line arguments: numbers within bounds, lists of them, lists of known names, paths; and the arguments
that several commands have: which runs."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from ddpm.errors import UserError, did_you_mean
from ddpm.files.paths import home


def path(text: str) -> Path:
    """A path; `~` at its start is the home folder."""
    try:
        return home(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def positive(text: str) -> int:
    """An integer from 1."""
    return _at_least(1, text)


def not_negative(text: str) -> int:
    """An integer from 0."""
    return _at_least(0, text)


def at_least_two(text: str) -> int:
    """An integer from 2."""
    return _at_least(2, text)


def _at_least(least: int, text: str) -> int:
    value = int(text)
    if value < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
    return value


def port(text: str) -> int:
    """A TCP port; 0 stands for a free one."""
    value = _at_least(0, text)
    if value > 65535:
        raise argparse.ArgumentTypeError(f"must be at most 65535, got {value}")
    return value


def fraction(text: str) -> float:
    """A number within 0 ... 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must lie within 0 ... 1, got {value:g}")
    return value


def power(text: str) -> float:
    """The power of a test: the share of studies that find an effect, within 0.1 ... 0.999."""
    value = float(text)
    if not 0.1 <= value <= 0.999:
        raise argparse.ArgumentTypeError(f"must lie within 0.1 ... 0.999, got {value:g}")
    return value


def positive_number(text: str) -> float:
    """A finite number above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {value:g}")
    return value


def positives(text: str) -> tuple[int, ...]:
    """Comma-separated integers from 1, sorted, without repeats."""
    try:
        return tuple(sorted({positive(part) for part in text.split(",")}))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers, such as 10,20,50") from None


def names(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    """A type: comma-separated names, all of which must be in `known`."""

    def parse(text: str) -> tuple[str, ...]:
        found = tuple(dict.fromkeys(text.split(",")))
        for name in found:
            if name not in known:
                raise argparse.ArgumentTypeError(
                    f"{name!r} is not one of {', '.join(known)}.{did_you_mean(name, known)}"
                )
        return found

    return parse


def runs(verb: argparse.ArgumentParser) -> None:
    """Declare `--from` and `--where`: which runs a report or a plan is about."""
    verb.add_argument(
        "--from",
        dest="source",
        default="wandb",
        metavar="SOURCE",
        help="folder of W&B run files (./wandb) or of run folders with loss.jsonl (./runs), or wandb:ENTITY/PROJECT; "
        "default: %(default)s",
    )
    verb.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="use only runs with this config value; repeatable",
    )
