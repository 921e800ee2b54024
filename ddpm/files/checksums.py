"""With what a run's files were written: `NAME.crc` beside the file `NAME`, so that a reader can say if it is the same.

A line for each content: its CRC-32 in hexadecimal digits. Of a file of lines, each line is a content; of another, the
whole file. A checksum is noted before its content is written: a kill leaves one too many, never one too few. The files
themselves stay as other tools know them.
"""

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from ddpm.files.disk import write_whole
from ddpm.files.rows import listed

_WORD = re.compile(rb"[0-9a-f]{8}")


def note(path: Path, *contents: str) -> None:
    """Note that `contents` are about to be written to `path`: lines, or the whole file. A file that is there without
    checksums stays without: of what was in it before, nothing is known. Raises OSError."""
    if place(path).exists() or not path.exists():
        with place(path).open("a") as file:
            file.write("".join(_checksum(content) for content in contents))


def replace(path: Path, contents: Iterable[str]) -> None:
    """Note that `path` holds `contents` and nothing else. Raises OSError."""
    write_whole(place(path), "".join(_checksum(content) for content in contents))


def altered_lines(path: Path, lines: Sequence[bytes]) -> tuple[list[int], int]:
    """(numbers of the `lines` of the file `path` that have no checksum; how many lines were
    written and are not there). Neither of a file without checksums."""
    noted = _noted(path)
    found = list(map(zlib.crc32, lines))
    if not noted or found == noted:
        return [], 0
    left = Counter(noted)
    altered = []
    for number, checksum in enumerate(found, start=1):
        if left[checksum]:
            left[checksum] -= 1
        elif checksum:  # that of an empty line is 0
            altered.append(number)
    return altered, max(0, left.total() - len(altered))


def as_written(path: Path, content: bytes, lines: Sequence[bytes] | None = None) -> list[str]:
    """What is to be said of `content`, that of the file `path`; nothing if it is as it was written, or if nothing is
    known. Of a .jsonl line by line; `lines` are those of `content`, if they are known already."""
    if path.suffix != ".jsonl":
        noted = _noted(path)
        same = not noted or zlib.crc32(content.rstrip()) in noted
        return [] if same else [f"{path.name} is not as it was written"]
    altered, gone = altered_lines(path, content.splitlines() if lines is None else lines)
    said = []
    if altered:
        lost = "are not as they were written, or their checksums are lost"
        said.append(f"{path.name}: {len(altered)} line(s) {lost} (line {listed(altered)})")
    if gone:
        said.append(f"{path.name}: {gone} line(s) that were written are not there")
    return said


def place(path: Path) -> Path:
    """Where the checksums of the file `path` are."""
    return path.with_name(f"{path.name}.crc")


def _noted(path: Path) -> list[int]:
    """The checksums beside `path`; what is none counts as that of no content."""
    try:
        words = place(path).read_bytes().split()
    except OSError:
        return []
    try:
        return [int(word, 16) for word in words]
    except ValueError:
        return [int(word, 16) if _WORD.fullmatch(word) else -1 for word in words]


def _checksum(content: str) -> str:
    return f"{zlib.crc32(content.rstrip().encode()):08x}\n"  # the end of a line is no part of it
