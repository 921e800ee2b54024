"""Folders of images as users have them: which images are read, and the messages."""

import io
import os
import socket
import sys
from pathlib import Path

import pytest
from PIL import Image

from ddpm.data.images import load_images
from ddpm.errors import UserError, printable
from tests.edges.pictures import encoded, make, pack, said

# --- splits and classes ---

LAYOUTS = {
    "no classes": (["train/0.png", "train/1.png", "test/2.png"], ["images"], 2, 1),
    "capitals": (["Train/a/0.png", "Train/b/1.png", "TEST/a/2.png"], ["a", "b"], 2, 1),
    "capitals without classes": (["Train/0.png", "Train/1.png", "Test/2.png"], ["images"], 2, 1),
    "other words": (["training/a/0.png", "testing/a/1.png"], ["a"], 1, 1),
    "longer words": (["training_set/a/0.png", "training_set/b/0.png", "test-images/a/1.png"], ["a", "b"], 2, 1),
    "classes in train alone": (["train/a/0.png", "train/b/0.png", "test/1.png"], ["a", "b"], 2, 1),
    "in one folder": (["x/train/0.png", "x/test/1.png", "x/test/2.png"], ["x"], 1, 2),
    "splits in classes": (["a/train/0.png", "b/train/1.png", "a/test/2.png"], ["a", "b"], 2, 1),
    "pictures beside the splits": (["logo.png", "train/a/0.png", "test/a/1.png", "extra/a/2.png"], ["a"], 1, 1),
    "validation": (["train/a/0.png", "Valid/a/1.png", "val/a/2.png", "test/a/3.png"], ["a"], 1, 1),
    "folders of classes": (["train/x/a/0.png", "train/y/b/1.png", "test/x/a/2.png"], ["a", "b"], 2, 1),
    "classes of two cases": (["Cat/0.png", "cat/1.png"], ["Cat", "cat"], 2, 2),
    "backslashes": (["train\\a\\0.png", "train\\b\\1.png", "test\\a\\2.png"], ["a", "b"], 2, 1),
    "absolute names": (["/train/a/0.png", "/test/a/1.png"], ["a"], 1, 1),
    "names with dots": (["./train/a/0.png", "./test/a/1.png"], ["a"], 1, 1),
    "a class called training": (["training/0.png", "running/1.png"], ["running", "training"], 2, 2),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_splits_are_told_apart(tmp_path: Path, layout: str, zipped: bool) -> None:
    """Catches training on the test images, and a split's name taken for a class."""
    names, classes, train, test = LAYOUTS[layout]
    if not zipped:
        names = [name.removeprefix("/") for name in names]
    root = pack(tmp_path / "set.zip", names) if zipped else make(tmp_path / "set", names)
    loaded = [load_images("folder", root, split=split) for split in ("train", "test")]
    assert [len(images) for images in loaded] == [train, test]
    assert loaded[0].classes == tuple(classes)


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    """The message lists the splits that exist. Catches validation or training images taken for test images."""
    make(tmp_path, ["train/a/0.png", "train/a/1.png", "val/a/2.png"])
    with pytest.raises(
        UserError, match=r"no images for data\.split = test; left out 2 of split train, 1 of split val\."
    ):
        load_images("folder", tmp_path, split="test")


# --- messages ---


def test_one_line_says_what_was_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The line has only the count if nothing else needs saying, else also the subset and the split. Catches silence,
    and noise."""
    make(tmp_path, ["cat/0.png", "cat/1.png", "dog/2.png"])
    assert said(tmp_path, capsys) == "3 images, no folders of splits, 2 classes"
    assert said(tmp_path, capsys, subset=2).startswith("2 of 3 images, no folders of splits, ")
    make(tmp_path / "s", ["train/0.png", "test/1.png"])
    assert said(tmp_path / "s", capsys) == "1 images, split train, 1 class; left out 1 of split test"
    load_images("folder", tmp_path, quiet=True)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_what_is_left_out_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str], zipped: bool) -> None:
    """Counted by ending, whether Pillow knows the ending (.h5, .fits) or not (.heic). Catches photos that are silently
    dropped, and label tables that are refused as broken images."""
    names = ["a/0.png", "a/1.HEIC", "b/2.heic", "labels.h5", "index.fits", "film.mpg", "more.zip", "README", "none/"]
    names += [".DS_Store", "a/._0.png", "Thumbs.db", "__MACOSX/a/0.png", "@eaDir/a/0.png"]
    root = pack(tmp_path / "set.zip", names) if zipped else make(tmp_path / "set", names)
    line = said(root, capsys)
    assert line.startswith("1 images, no folders of splits, 1 class; left out 2 .heic, 1 .db, 1 .fits, 1 .h5, 1 .mpg, ")
    assert ", and 2 more (Pillow " in line
    assert line.endswith(" opens no images of such endings here), 4 hidden, 1 empty folders")


def test_an_ending_is_an_image_if_pillow_opens_it_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a separate list of endings, and an .avif that is taken for broken although only its plugin is missing."""
    from ddpm.data import files as image_files

    assert {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".mpo"} <= image_files.IMAGE_SUFFIXES
    drawn_or_measured = {".eps", ".ps", ".pdf", ".wmf", ".h5", ".hdf", ".fits", ".grib", ".bufr", ".mpg"}
    assert not drawn_or_measured & image_files.IMAGE_SUFFIXES
    assert not any("Stub" in str(Image.OPEN[kind][0]) for kind in image_files.FORMATS)
    make(tmp_path, ["0.png", "1.avif"])
    monkeypatch.setattr(image_files, "IMAGE_SUFFIXES", image_files.IMAGE_SUFFIXES - {".avif"})
    assert len(load_images("folder", tmp_path)) == 1


def test_only_pictures_are_decoded(tmp_path: Path) -> None:
    """A drawing with a picture's ending is refused. Catches PostScript that is run because a file is called .png."""
    make(tmp_path, ["0.png"], encoded(Image.new("L", (4, 4)), "EPS"))
    with pytest.raises(UserError, match=r"0\.png \(not an image that Pillow reads\)"):
        load_images("folder", tmp_path)


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_names_are_printed_under_any_locale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    """File names hold bytes that are not text, line ends, and letters that the terminal lacks. All are printed in one
    line. Catches a UnicodeEncodeError after the images are read, and a file name that prints extra lines."""
    bad = [b"a/x\xff#%41.png", b"a/y\nz.png", "a/é.png".encode()]
    make(tmp_path / "s é", [os.fsdecode(name) for name in bad], b"")
    make(tmp_path / "s é", ["a/0.png"])
    out = io.TextIOWrapper(io.BytesIO(), encoding, "strict")
    monkeypatch.setattr(sys, "stdout", out)
    assert len(load_images("folder", tmp_path / "s é", skip_bad=True)) == 1
    out.flush()
    (line,) = out.buffer.getvalue().decode(encoding).splitlines()  # type: ignore[attr-defined]
    assert "left out 3 of 4 images that cannot be read, first a/x\\udcff#%41.png" in line
    with pytest.raises(UserError) as refused:
        load_images("folder", tmp_path / "s é")
    assert {"a/y\\nz.png (", f"a/{printable('é')}.png ("} <= {part.lstrip() for part in _parts(str(refused.value))}
    assert str(refused.value).isprintable()


def _parts(message: str) -> list[str]:
    return [part + ".png (" for part in message.replace(";", ":").replace(".png (", ":").split(":")]


# --- links, and what cannot be read ---


def test_links_are_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A link to a class folder, and one to a single file. Catches classes on a scratch disk that are left out."""
    disk = make(tmp_path / "disk", ["cat/0.png", "cat/1.png", "x/2.png"])
    make(tmp_path / "set", ["dog/3.png"])
    (tmp_path / "set/cat").symlink_to(disk / "cat")
    (tmp_path / "set/dog/4.png").symlink_to(disk / "x/2.png")
    assert said(tmp_path / "set", capsys) == "4 images, no folders of splits, 2 classes"


def test_a_loop_of_links_is_an_error(tmp_path: Path) -> None:
    """Catches endless reading, and one image read many times."""
    make(tmp_path, ["a/0.png"])
    (tmp_path / "a/b").symlink_to(tmp_path)
    for skip_bad in (False, True):
        with pytest.raises(UserError, match=r"a symbolic link to a folder around it: a/b\."):
            load_images("folder", tmp_path, skip_bad=skip_bad)


@pytest.mark.parametrize("target", ["/nowhere/cat", "cat"], ids=["dead", "itself"])
def test_a_link_that_leads_nowhere(tmp_path: Path, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The link is refused, or left out and counted. Catches a class on a missing disk that is silently dropped."""
    make(tmp_path, ["dog/0.png"])
    (tmp_path / "cat").symlink_to(target)
    with pytest.raises(UserError, match=r"1 links or folders cannot be followed: cat \(.*skip_bad"):
        load_images("folder", tmp_path)
    assert said(tmp_path, capsys, skip_bad=True).endswith("left out 1 links or folders that cannot be followed")


def test_what_may_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that may not be listed, a file that may not be opened, a root that may not be read. Catches a class that
    is silently dropped, and a traceback."""
    make(tmp_path, ["cat/0.png", "dog/1.png", "dog/2.png"])
    scandir, opened = os.scandir, Path.open

    def refuse(path: Path) -> None:
        if path.name in ("cat", "1.png"):
            raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", lambda path: refuse(path) or scandir(path))
    monkeypatch.setattr(Path, "open", lambda path, *args: refuse(path) or opened(path, *args))
    with pytest.raises(UserError, match=r"cannot be followed: cat/ \(Permission denied\)"):
        load_images("folder", tmp_path)
    line = said(tmp_path, capsys, skip_bad=True)
    assert "left out 1 of 2 images that cannot be read, first dog/1.png ([Errno 13] Permission denied" in line
    assert line.endswith("left out 1 links or folders that cannot be followed")
    monkeypatch.setattr(Path, "stat", lambda path, **_: refuse(Path("cat")))
    with pytest.raises(UserError, match="cannot be opened: Permission denied"):
        load_images("folder", tmp_path)


def test_pipes_and_sockets_are_not_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a read that never ends."""
    make(tmp_path, ["a/0.png"])
    os.mkfifo(tmp_path / "a/1.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "a/2.png"))  # the full path may be too long for a socket
        assert said(tmp_path, capsys).endswith("; left out 2 neither file nor folder")
