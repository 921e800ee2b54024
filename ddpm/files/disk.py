"""Files that are whole or not there, and on the disk when that is said; and whether a place can be written to."""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ddpm.errors import UserError

FIGURES = (".png", ".svg", ".pdf", ".jpg", ".jpeg", ".webp")  # the endings of pictures that matplotlib writes


def sync(path: Path) -> None:
    """Have what `path` holds reach the disk: a file's content, a folder's names. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems know no such thing of a folder
            raise
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, on the disk too. Raises OSError."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync(folder.parent)


@contextmanager
def replacing(path: Path, *, synced: bool = True) -> Iterator[Path]:
    """A file aside, to be written inside. It then takes the place of `path`, and is on the disk if `synced`.

    A kill or a power cut leaves `path` as it was, or new and whole. After an error, nothing is left aside.
    """
    path = Path(os.path.realpath(path))  # a link stays one, and what it leads to is written
    aside = path.with_name(f"{path.name}.part")
    try:
        yield aside
        if synced:
            sync(aside)
        aside.replace(path)
        if synced:
            sync(path.parent)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: str | bytes | memoryview) -> None:
    """Write a file, see `replacing`. Raises OSError."""
    with replacing(path) as aside:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)


# --- before the work ---


def require_folder(path: Path, what: str = "--out") -> Path:
    """`path`, if it is a folder that can be written to, or can be made one. Raises UserError; makes nothing."""
    return _required(path, what, Path.is_dir, "no folder")


def require_file(path: Path, endings: Sequence[str] = (), what: str = "--out") -> Path:
    """`path`, if a file can be written there, and its name has one of `endings`, if there are any. Raises UserError;
    makes nothing."""
    if endings and path.suffix.lower() not in endings:
        raise UserError(f"{what} {path} cannot be written: its name has to end in {', '.join(endings)}.")
    return _required(path, what, Path.is_file, "no file")


def _required(path: Path, what: str, fits: Callable[[Path], bool], otherwise: str) -> Path:
    try:
        if path.exists():
            if not fits(path):
                kind = "a folder" if path.is_dir() else "a file" if path.is_file() else otherwise
                raise UserError(f"{what} {path} cannot be written: it is {kind}. Give another name.")
            places = [path, path.parent] if path.is_file() else [path]
        else:
            places = [next(folder for folder in path.absolute().parents if os.path.lexists(folder))]
            if not places[0].is_dir():
                raise UserError(f"{what} {path} cannot be written: {places[0]} is not a folder.")
            if path.is_symlink():
                raise UserError(f"{what} {path} cannot be written: it is a link that leads nowhere.")
    except OSError as error:  # a name that is too long
        raise UserError(f"{what} {path} cannot be written: {error.strerror}.") from error
    for place in places:
        if not os.access(place, os.W_OK):
            raise UserError(f"{what} {path} cannot be written: {place} is read-only for this user. Give another place.")
    return path


@contextmanager
def written(path: Path) -> Iterator[None]:
    """What cannot be written inside is a UserError that names `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}. Make room, or give another.") from error
