"""The image files of a folder or a .zip: their names, splits, classes and bytes.

docs/images.md defines what counts as an image, a split and a class.
"""

import functools
import hashlib
import os
import posixpath
import re
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import PIL
from PIL import Image, ImageFile, UnidentifiedImageError

from ddpm.errors import UserError, printable

# Exceptions of Pillow's decoders and zipfile on damaged, hostile or unsupported files.
UNREADABLE = (
    *(UnidentifiedImageError, Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError),
    *(OSError, ValueError, SyntaxError, EOFError, RuntimeError, NotImplementedError, IndexError, KeyError, TypeError),
    *(zipfile.BadZipFile, zlib.error, struct.error),
)
_ENDINGS = Image.registered_extensions()  # loads all of Pillow's plugins
# Formats that Pillow knows, but of vector drawings, films, captions or measurements.
_NO_PICTURES = {"EPS", "FITS", "IPTC", "MPEG", "WMF"}


def _is_stub(kind: str) -> bool:
    """Whether Pillow knows the format but cannot decode it, such as HDF5."""
    factory = Image.OPEN[kind][0]
    return isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile)


FORMATS = tuple(kind for kind in Image.ID if kind not in _NO_PICTURES and not _is_stub(kind))
# MPO is JPEG with further images after the first; Pillow opens it as JPEG.
IMAGE_SUFFIXES = frozenset(ending for ending, kind in _ENDINGS.items() if kind in (*FORMATS, "MPO"))

# Names of folders that hold one split: `train`, `Training`, `train_set`, `test-images`, `val` ...
_SPLIT = re.compile(r"(train|test)(ing)?([-_ ]?(set|data|images))?|(val|valid|validation|dev|eval)([-_ ]?set)?", re.I)
# Folders made by operating systems and file servers: thumbnails, resource forks, files from disk checks.
_SYSTEM = {"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
_NAMED = 5  # endings or files that a message lists; it counts the others
GIB = 2**30


# --- limits on memory ---


@dataclass(frozen=True)
class Limits:
    """The most that is read: bytes of a file, bytes of all files of a .zip, pixels of an image."""

    file: int
    total: int
    pixels: int

    @classmethod
    def from_environment(cls) -> "Limits":
        """The limits from the environment, or the defaults."""
        pixels = Image.MAX_IMAGE_PIXELS or 2**27
        return cls(
            _limit("DDPM_MAX_FILE_BYTES", GIB // 4),
            _limit("DDPM_MAX_TOTAL_BYTES", 256 * GIB),
            _limit("DDPM_MAX_PIXELS", pixels),
        )

    def require_file(self, size: int) -> None:
        """Raises ValueError if a file has too many bytes."""
        if size > self.file:
            raise ValueError(
                f"{size:,} bytes; the limit is {self.file:,}, set by the environment variable DDPM_MAX_FILE_BYTES"
            )


def _limit(variable: str, default: int) -> int:
    text = os.environ.get(variable) or str(default)
    if not re.fullmatch(r"[1-9][0-9_]{0,18}", text):
        raise UserError(
            f"The environment variable {variable} = {text} must be a number of 1 or more, such as {default}."
        )
    return int(text.replace("_", ""))


# --- the files of a folder or a .zip ---


class Files(Protocol):
    """The files at data.root. A name that ends in a slash is a folder."""

    @property
    def names(self) -> Sequence[str]: ...

    left_out: Counter[str]  # files that were left out already, by reason

    def read(self, name: str) -> bytes:
        """The bytes of a file. Raises one of UNREADABLE."""

    def mark(self, name: str) -> object:
        """A value that changes with the file's content, quicker to get than the image."""

    def require_bounded(self, names: Sequence[str]) -> None:
        """Raises UserError if these files are too large together."""


@contextmanager
def open_files(root: Path, limits: Limits, skip_bad: bool) -> Iterator[Files]:
    """The files at `root`, a folder or a .zip. Raises UserError if it cannot be read.

    skip_bad: leave out links and folders that cannot be followed, instead of raising.
    """
    try:
        root.stat()
    except FileNotFoundError:
        raise UserError(
            f"data.root = {printable(root)} does not exist. Give a folder or a .zip that contains one folder per class."
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"data.root = {printable(root)} cannot be opened: {_reason(error)}.") from error
    if root.is_dir():
        yield _Folder(root, limits, skip_bad)
        return
    try:
        if not root.is_file():
            raise ValueError("it is a pipe or a device")
        archive = zipfile.ZipFile(root)
    except UNREADABLE as error:
        raise UserError(
            f"data.root = {printable(root)} is neither a folder nor a .zip file that can be read: {_reason(error)}. "
            "Unpack other archives (.tar, .tar.gz, .7z, .rar) and give the folder."
        ) from error
    with archive:
        yield _Zip(archive, root, limits)


def _reason(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


class _Zip:
    def __init__(self, archive: zipfile.ZipFile, root: Path, limits: Limits):
        members = [i.filename for i in archive.infolist()]
        self._archive, self._root, self._limits = archive, root, limits
        self.names = tuple(dict.fromkeys(members))
        # If a name appears twice, the last member counts, as when unpacking.
        self.left_out = Counter({"replaced by a later member of the same name": len(members) - len(self.names)})

    def read(self, name: str) -> bytes:
        info = self._archive.getinfo(name)
        if info.flag_bits & 1:
            raise ValueError("password protected: unpack the archive and give the folder")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA):
            # 45 bytes of bzip2 can expand to 45 MB, and zipfile does not unpack bzip2 in pieces.
            raise ValueError("unsupported compression: repack the archive with deflate")
        self._limits.require_file(info.file_size)
        with self._archive.open(info) as member:  # in pieces: the stated size may be wrong
            assert isinstance(member, zipfile.ZipExtFile)
            return b"".join(iter(lambda: member.read1(4096), b""))

    def mark(self, name: str) -> object:
        info = self._archive.getinfo(name)
        return info.CRC, info.file_size

    def require_bounded(self, names: Sequence[str]) -> None:
        total = sum(self._archive.getinfo(name).file_size for name in names)
        if total > self._limits.total:
            raise UserError(
                f"The images in data.root = {printable(self._root)} are {total:,} bytes once unpacked; the limit is "
                f"{self._limits.total:,}. If you trust the archive, set the environment variable DDPM_MAX_TOTAL_BYTES "
                "to a higher limit."
            )


class _Folder:
    def __init__(self, root: Path, limits: Limits, skip_bad: bool):
        self._root, self._limits = root, limits
        self.left_out: Counter[str] = Counter()
        self.names, lost = [], []
        todo: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", (_identity(root),))]
        while todo:
            inside, around = todo.pop()
            try:
                entries = list(os.scandir(root / inside))
            except OSError as error:
                lost.append(f"{inside} ({_reason(error)})")
                continue
            if inside and not entries:
                self.names.append(inside)
            for entry in entries:
                name = inside + entry.name
                try:
                    kind = self._kind(entry)
                except OSError as error:
                    lost.append(f"{name} ({_reason(error)})")
                    continue
                if kind == "folder":
                    here = _identity(Path(entry.path))
                    if here in around:
                        raise UserError(
                            f"data.root = {printable(root)} contains a symbolic link to a folder around it: "
                            f"{printable(name)}. Following it would never end. Remove it."
                        )
                    todo.append((f"{name}/", (*around, here)))
                elif kind == "file":
                    self.names.append(name)
                else:
                    self.left_out["neither file nor folder"] += 1
        if lost and not skip_bad:
            raise UserError(
                f"In data.root = {printable(root)} {len(lost)} links or folders cannot be followed: "
                f"{printable(some(lost))}. Repair or remove them, or leave them out with --data.skip_bad=true."
            )
        self.left_out["links or folders that cannot be followed"] = len(lost)

    def _kind(self, entry: os.DirEntry[str]) -> str:
        """`folder`, `file` or "" for neither. A hidden folder counts as a file and is not entered. Raises OSError."""
        if _is_hidden(entry.name):
            return "file"
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        entry.stat()  # raises for a link that leads nowhere
        return ""

    def read(self, name: str) -> bytes:
        with (self._root / name).open("rb") as file:
            self._limits.require_file(os.fstat(file.fileno()).st_size)
            return file.read()

    def mark(self, name: str) -> object:
        try:
            return hashlib.sha256(self.read(name)).hexdigest()
        except UNREADABLE:
            return "cannot be read"  # decoding raises the error

    def require_bounded(self, names: Sequence[str]) -> None:
        """No check: files of a folder take as much space on disk as in memory."""


def _identity(folder: Path) -> tuple[int, int]:
    stat = folder.stat()
    return stat.st_dev, stat.st_ino


# --- images, their splits and classes ---


@dataclass(frozen=True)
class Choice:
    """Images of a split as (name, class), sorted by name; a description of the split; what was left out, and why.

    has_splits: whether there are folders of splits. Without them every image belongs to every split.
    """

    found: list[tuple[str, str]]
    split: str
    left_out: list[str]
    has_splits: bool


def choose(files: Files, split: str) -> Choice:
    """The images of a split.

    An image's class is the folder that contains it, ignoring the split's folder. Splits are at the first level where
    all folders are named like splits (train, test, ...), or where `train` and another split are among them; all else is
    left out. Without such a level every image belongs to every split.
    """
    left, endings = Counter(files.left_out), Counter[str]()
    images: dict[str, tuple[str, ...]] = {}
    folders: set[tuple[str, ...]] = set()
    filled: set[tuple[str, ...]] = {()}
    for name in files.names:
        path = name.replace("\\", "/")  # Windows separators, also in archives
        parts = tuple(part for part in path.split("/") if part not in ("", "."))
        if ".." in parts:
            left["named to lie elsewhere (..)"] += 1
        elif any(_is_hidden(part) for part in parts):
            left["hidden"] += not path.endswith("/")
        elif path.endswith("/"):
            folders.add(parts)
        else:
            around = parts[:-1]
            while around not in filled:
                filled.add(around)
                around = around[:-1]
            ending = posixpath.splitext(path)[1].lower()
            if ending in IMAGE_SUFFIXES:
                images[name] = parts
            else:
                endings[ending or "without an ending"] += 1
    left["empty folders"] = len(folders - filled)
    level = _level_of_splits(list(images.values()))
    found = []
    for name, parts in sorted(images.items()):
        own = None if level is None else _split_of(parts, level)
        if level is None or own == split:
            inside = [part for depth, part in enumerate(parts[:-1]) if depth != level]
            found.append((name, inside[-1] if inside else "images"))
        else:
            left[f"of split {own}" if own else "in no split's folder"] += 1
    other = (
        [f"{some(_counted(endings), ', ')} (Pillow {PIL.__version__} opens no images of such endings here)"]
        if endings
        else []
    )
    said = "no folders of splits" if level is None else f"split {split}"
    return Choice(found, said, other + _counted(left), level is not None)


def _is_hidden(part: str) -> bool:
    return part.startswith(".") or part in _SYSTEM


def _level_of_splits(images: list[tuple[str, ...]]) -> int | None:
    for level in range(max(map(len, images), default=1) - 1):
        splits = {_split_of(parts, level) for parts in images}
        if None not in splits or ("train" in splits and len(splits) > 2):
            return level
    return None


def _split_of(parts: tuple[str, ...], level: int) -> str | None:
    """`train`, `test`, `val`, or None if the folder at this level is not named like a split."""
    return _split_named(parts[level]) if len(parts) > level + 1 else None


@functools.cache
def _split_named(folder: str) -> str | None:
    named = _SPLIT.fullmatch(folder)
    return (named[1] or "val").lower() if named else None


def _counted(reasons: Counter[str]) -> list[str]:
    """`2 .heic`, `1 .h5`, ..., the most frequent first."""
    return [f"{n:,} {reason}" for reason, n in sorted(reasons.items(), key=lambda x: (-x[1], x[0])) if n]


def some(items: Sequence[str], separator: str = "; ") -> str:
    """The first items, and the number of the others."""
    more = [f"and {len(items) - _NAMED} more"] if len(items) > _NAMED else []
    return separator.join([*items[:_NAMED], *more])
