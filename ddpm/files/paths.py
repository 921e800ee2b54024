"""Paths as people type them."""

from pathlib import Path

from ddpm.errors import UserError, cut

_MOST_BYTES = 255  # of one name, on the file systems of Linux, macOS and Windows


def home(path: str | Path) -> Path:
    """The path, with `~` at its beginning as the home folder, and `~NAME` as that of the user NAME.

    A shell does this for a word that begins so, and for nothing that stands after `=`. Raises UserError for a path that
    is empty, as of a variable that is not set, for a name that no file can have, and for a user who does not exist.
    """
    text = str(path)
    if path == "" or "\0" in text:
        raise UserError(f"{text!r} is no path. Write `.` for this folder.")
    longest = max(Path(path).parts, key=_size, default="")
    if _size(longest) > _MOST_BYTES:
        raise UserError(f"A name in the path {cut(text)} has {_size(longest)} bytes; files have {_MOST_BYTES} at most.")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        name = Path(path).parts[0]
        raise UserError(f"{text}: there is no home folder of {name}. A folder of that name is ./{name}.") from None


def _size(name: str) -> int:
    return len(name.encode(errors="surrogateescape"))
