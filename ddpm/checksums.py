"""With what a run's files were written: `NAME.crc` beside the file `NAME`, so that a reader can say if it is the same.

A line for each content: its CRC-32 in hexadecimal digits. Of a file of lines, each line is a content; of another, the
whole file. A checksum is noted before its content is written: a kill leaves one too many, never one too few. The files
themselves stay as other tools know them.
"""

import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from ddpm.disk import write_whole
from ddpm.rows import listed


def note(path: Path, *contents: str) -> None:
    """Note that `contents` are about to be written to `path`: lines, or the whole file. A file that is there without
    checksums stays without: of what was in it before, nothing is known. Raises OSError."""
    if place(path).exists() or not path.exists():
        with place(path).open("a") as file:
            file.write("".join(_checksum(content.encode()) + "\n" for content in contents))


def replace(path: Path, contents: Iterable[str]) -> None:
    """Note that `path` holds `contents` and nothing else. Raises OSError."""
    write_whole(place(path), "".join(_checksum(content.encode()) + "\n" for content in contents))


def altered_lines(path: Path, content: bytes) -> tuple[list[int], int]:
    """(numbers of the lines of the file `path`, which holds `content`, that have no checksum; how many lines were
    written and are not there). Neither of a file without checksums."""
    noted = _noted(path)
    if not noted:
        return [], 0
    altered = []
    for number, line in enumerate(content.splitlines(), start=1):
        checksum = _checksum(line)
        if noted[checksum]:
            noted[checksum] -= 1
        elif line:
            altered.append(number)
    return altered, max(0, noted.total() - len(altered))


def as_written(path: Path, content: bytes) -> list[str]:
    """What is to be said of `content`, that of the file `path`; nothing if it is as it was written, or if nothing is
    known. Of a .jsonl line by line."""
    if path.suffix != ".jsonl":
        noted = _noted(path)
        return [f"{path.name} is not as it was written"] if noted and not noted[_checksum(content)] else []
    altered, gone = altered_lines(path, content)
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


def _noted(path: Path) -> Counter[str]:
    try:
        return Counter(place(path).read_text(errors="replace").split())
    except OSError:
        return Counter()


def _checksum(content: bytes) -> str:
    return f"{zlib.crc32(content.rstrip()):08x}"  # the end of a line is no part of it
