"""Checksums of a run's files: `NAME.crc` beside the file `NAME` tells readers whether it was altered.

Each line is the CRC-32, in hexadecimal, of one line of a .jsonl file, or of the whole of another file. A checksum is
written before its content: a kill can leave one too many, never one too few.
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
    """Note that `contents` (lines, or the whole file) are about to be written to `path`. An existing file without
    checksums stays without, because its old content is not known. Raises OSError."""
    if place(path).exists() or not path.exists():
        with place(path).open("a") as file:
            file.write("".join(_checksum(content) for content in contents))


def replace(path: Path, contents: Iterable[str]) -> None:
    """Note that `contents` are all that `path` holds. Raises OSError."""
    write_whole(place(path), "".join(_checksum(content) for content in contents))


def altered_lines(path: Path, lines: Sequence[bytes]) -> tuple[list[int], int]:
    """(numbers of the `lines` of the file `path` that have no checksum, how many written lines are missing). ([], 0)
    for a file without checksums."""
    noted = _noted(path)
    found = list(map(zlib.crc32, lines))
    if not noted or found == noted:
        return [], 0
    left = Counter(noted)
    altered = []
    for number, checksum in enumerate(found, start=1):
        if left[checksum]:
            left[checksum] -= 1
        elif checksum:  # an empty line has 0
            altered.append(number)
    return altered, max(0, left.total() - len(altered))


def as_written(path: Path, content: bytes, lines: Sequence[bytes] | None = None) -> list[str]:
    """Messages if `content`, read from the file `path`, is not as it was written; [] if it is, or without checksums.

    lines: those of `content` (for a .jsonl file), if already split.
    """
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
    """The file with the checksums of `path`."""
    return path.with_name(f"{path.name}.crc")


def _noted(path: Path) -> list[int]:
    """The checksums beside `path`; a malformed one is -1, which matches nothing."""
    try:
        words = place(path).read_bytes().split()
    except OSError:
        return []
    try:
        return [int(word, 16) for word in words]
    except ValueError:
        return [int(word, 16) if _WORD.fullmatch(word) else -1 for word in words]


def _checksum(content: str) -> str:
    return f"{zlib.crc32(content.rstrip().encode()):08x}\n"  # without the line end
