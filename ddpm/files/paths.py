"""Paths as people type them."""

from pathlib import Path

from ddpm.errors import UserError, cut

_MOST_BYTES = 255  # of a file name on Linux, macOS and Windows


def home(path: str | Path) -> Path:
    """The path with a leading `~` or `~NAME` replaced by that user's home folder.

    A shell does this only at the beginning of a word, not after `=`. Raises UserError for an empty path (from an unset
    variable, for example), an impossible file name or an unknown user.
    """
    text = str(path)
    if path == "" or "\0" in text:
        raise UserError(f"{text!r} is not a path. Write `.` for this folder.")
    longest = max(Path(path).parts, key=_size, default="")
    if _size(longest) > _MOST_BYTES:
        raise UserError(f"A name in the path {cut(text)} has {_size(longest)} bytes; {_MOST_BYTES} is the limit.")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        name = Path(path).parts[0]
        raise UserError(f"{text}: there is no home folder of {name}. A folder of that name is ./{name}.") from None


def _size(name: str) -> int:
    return len(name.encode(errors="surrogateescape"))
