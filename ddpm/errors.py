"""The error that is meant for people, and helpers for messages."""

import difflib
import sys
from collections.abc import Iterable


class UserError(Exception):
    """Bad input, or something missing, that the user can fix.

    The message is one paragraph: what was wrong, where, what is allowed, what to do. The command line prints it without
    a traceback and exits with `exit_code`.
    """

    exit_code = 2


class Held(UserError):  # noqa: N818 - not an error
    """Another process is working on the run. Nothing is wrong; a sweep leaves the run to that process."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h


class NotFinite(UserError):  # noqa: N818 - see Held
    """Weights, samples or features are not finite, so there is nothing to draw, score or measure."""


def one_line(error: Exception) -> str:
    """The error's message in one line, without a full stop."""
    return " ".join(str(error).split()).rstrip(".")


def first_line(error: Exception) -> str:
    """The first line of the error's message, without a full stop; the error's type if it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def cut(text: str, most: int = 60) -> str:
    """`text`, cut after `most` characters, with `...` if anything was cut."""
    return text if len(text) <= most else f"{text[:most]}..."


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """` Did you mean NAME?` with the name in `known` closest to `word`; empty if none is close."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f" Did you mean {near[0]}?" if near else ""


def printable(text: object) -> str:
    """`text` (a file name, for example) in one line that standard output can show.

    Control characters, surrogates and characters outside the terminal's encoding are escaped, as in `caf\\xe9.png`.
    """
    encoding = sys.stdout.encoding or "utf-8"
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))
    return line.encode(encoding, "backslashreplace").decode(encoding)
