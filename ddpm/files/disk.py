"""Files that are either whole or absent, syncing to disk, and checks of whether a place can be written to."""

import errno
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ddpm.errors import UserError

FIGURES = (".png", ".svg", ".pdf", ".jpg", ".jpeg", ".webp")  # file endings that matplotlib writes


def sync(path: Path) -> None:
    """Flush a file's content, or a folder's list of names, to the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync folders
            raise
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder and its parents, synced. Raises OSError."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync(folder.parent)


@contextmanager
def replacing(path: Path, *, synced: bool = True, shared: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what is written there replaces `path` on leaving.

    A kill (or a power cut, if `synced`) leaves `path` as it was, or new and whole. After an error the temporary file is
    removed. shared: other processes may write `path` at the same time, so the temporary name is random.
    """
    path = Path(os.path.realpath(path))  # a link stays a link; its target is replaced
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part" if shared else f"{path.name}.part")
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


def write_whole(path: Path, content: str | bytes | memoryview, *, synced: bool = True, shared: bool = False) -> None:
    """Write a file by `replacing`. Raises OSError."""
    with replacing(path, synced=synced, shared=shared) as aside:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)


def append_line(path: Path, line: str) -> None:
    """Append a line, after ending one that a kill has left torn. Raises OSError."""
    with path.open("ab+") as file:
        torn = file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"
        file.write(("\n" * bool(torn) + line).encode())


# --- before the work ---


def require_folder(path: Path, what: str = "--out") -> Path:
    """`path`, if it is a writable folder or can become one. Makes nothing. Raises UserError."""
    return _required(path, what, Path.is_dir, "no folder")


def require_file(path: Path, endings: Sequence[str] = ()) -> Path:
    """`path`, if a file can be written there and its name has one of `endings` (if any). Makes nothing. Raises
    UserError."""
    if endings and path.suffix.lower() not in endings:
        raise UserError(f"--out {path} cannot be written: its name must end in {', '.join(endings)}.")
    return _required(path, "--out", Path.is_file, "no file")


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
                raise UserError(f"{what} {path} cannot be written: it is a broken link.")
    except OSError as error:  # the name is too long
        raise UserError(f"{what} {path} cannot be written: {error.strerror}.") from error
    for place in places:
        if not os.access(place, os.W_OK):
            raise UserError(f"{what} {path} cannot be written: {place} is read-only for this user. Give another place.")
    return path


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Turn an OSError inside into a UserError that names `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}. Make room, or give another.") from error
