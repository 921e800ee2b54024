"""The one error that is meant for people, and the words that messages need."""

import difflib
import sys
from collections.abc import Iterable


class UserError(Exception):
    """Bad input or a missing thing that the person at the keyboard can put right.

    The message is one paragraph: what was wrong, where, what is allowed, what to do.
    The command line prints it without a traceback and exits with `exit_code`.
    """

    exit_code = 2


class Held(UserError):  # noqa: N818 - it is none
    """The run is another process's at the moment: nothing is wrong, and a sweep leaves it to that one."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h


class NotFinite(UserError):  # noqa: N818 - see Held
    """Weights, samples or features are not finite numbers: there is no image, score or measurement of them."""


def cut(text: str, most: int = 60) -> str:
    """The text, or its beginning and `...` if it is longer than `most` characters."""
    return text if len(text) <= most else f"{text[:most]}..."


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """` Did you mean NAME?`, of the name in `known` that is most like `word`; empty where none is."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f" Did you mean {near[0]}?" if near else ""


def printable(text: object) -> str:
    """`text`, such as the name of a file, in one line that standard output can show.

    Line ends, other control characters, bytes that are no text (surrogates, in Python) and letters that the terminal's
    encoding does not have are escaped, as in `caf\\xe9.png`.
    """
    encoding = sys.stdout.encoding or "utf-8"
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))
    return line.encode(encoding, "backslashreplace").decode(encoding)
