"""Folders and archives with small images for the tests here, and the messages about them."""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from ddpm.data.images import load_images


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


PNG = encoded(Image.new("RGB", (4, 4), (10, 20, 30)))


def make(root: Path, names: Sequence[str], content: bytes = PNG) -> Path:
    """Write files with these names into the folder `root`. Names that end in a slash are folders."""
    for name in names:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_bytes(content)
    return root


def pack(target: Path, names: Sequence[str], content: bytes = PNG) -> Path:
    """A .zip with such files."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), b"" if name.endswith(("/", "\\")) else content)
    return target


def said(root: Path, capsys: pytest.CaptureFixture[str], **asked: object) -> str:
    """The line on what was read, from the count on. It has to be one line."""
    capsys.readouterr()
    load_images("folder", root, **asked)  # type: ignore[arg-type]
    (line,) = capsys.readouterr().out.splitlines()
    return line.removeprefix("data: ").replace(f", in {root}", "")
