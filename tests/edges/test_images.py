"""Folders and archives of images as people have them: what is read of them, and what is said."""

import io
import os
import socket
import struct
import sys
import tracemalloc
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm import data
from ddpm.data import ImageSet, load_images
from ddpm.errors import UserError, printable


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


PNG = encoded(Image.new("RGB", (4, 4), (10, 20, 30)))


def make(root: Path, names: Sequence[str], content: bytes = PNG) -> Path:
    """Files of these names in the folder `root`; those that end in a slash are folders."""
    for name in names:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_bytes(content)
    return root


def pack(target: Path, names: Sequence[str], content: bytes = PNG) -> Path:
    """A .zip of such files."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), b"" if name.endswith(("/", "\\")) else content)
    return target


def said(root: Path, capsys: pytest.CaptureFixture[str], **asked: object) -> str:
    """The line on what was read, which has to be one line, from the count on."""
    capsys.readouterr()
    load_images("folder", root, **asked)  # type: ignore[arg-type]
    (line,) = capsys.readouterr().out.splitlines()
    return line.removeprefix("data: ").replace(f", in {root}", "")


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
    """Says which splits there are. Catches validation or training images taken for test images."""
    make(tmp_path, ["train/a/0.png", "train/a/1.png", "val/a/2.png"])
    with pytest.raises(
        UserError, match=r"no images for data\.split = test; left out 2 of split train, 1 of split val\."
    ):
        load_images("folder", tmp_path, split="test")


# --- what is said ---


def test_one_line_says_what_was_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing but the count if there is nothing else to say; the subset, and the split. Catches silence, and noise."""
    make(tmp_path, ["cat/0.png", "cat/1.png", "dog/2.png"])
    assert said(tmp_path, capsys) == "3 images, no folders of splits, 2 classes"
    assert said(tmp_path, capsys, subset=2).startswith("2 of 3 images, no folders of splits, ")
    make(tmp_path / "s", ["train/0.png", "test/1.png"])
    assert said(tmp_path / "s", capsys) == "1 images, split train, 1 class; left out 1 of split test"
    load_images("folder", tmp_path, quiet=True)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_what_is_left_out_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str], zipped: bool) -> None:
    """By ending, whether Pillow knows the ending (.h5, .fits) or not (.heic). Catches photos that are dropped in
    silence, and tables of labels that are refused as broken images."""
    names = ["a/0.png", "a/1.HEIC", "b/2.heic", "labels.h5", "index.fits", "film.mpg", "more.zip", "README", "none/"]
    names += [".DS_Store", "a/._0.png", "Thumbs.db", "__MACOSX/a/0.png", "@eaDir/a/0.png"]
    root = pack(tmp_path / "set.zip", names) if zipped else make(tmp_path / "set", names)
    line = said(root, capsys)
    assert line.startswith("1 images, no folders of splits, 1 class; left out 2 .heic, 1 .db, 1 .fits, 1 .h5, 1 .mpg, ")
    assert ", and 2 more (Pillow " in line
    assert line.endswith(" opens no images of such endings here), 4 hidden, 1 empty folders")


def test_an_ending_is_an_image_if_pillow_opens_it_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a list of endings of its own, and an .avif that is taken for broken if its plugin is not there."""
    from ddpm import image_files

    assert {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".mpo"} <= image_files.IMAGE_SUFFIXES
    drawn_or_measured = {".eps", ".ps", ".pdf", ".wmf", ".h5", ".hdf", ".fits", ".grib", ".bufr", ".mpg"}
    assert not drawn_or_measured & image_files.IMAGE_SUFFIXES
    assert not any("Stub" in str(Image.OPEN[kind][0]) for kind in image_files.FORMATS)
    make(tmp_path, ["0.png", "1.avif"])
    monkeypatch.setattr(image_files, "IMAGE_SUFFIXES", image_files.IMAGE_SUFFIXES - {".avif"})
    assert len(load_images("folder", tmp_path)) == 1


def test_only_pictures_are_decoded(tmp_path: Path) -> None:
    """A drawing under a picture's ending is refused. Catches PostScript that is run because a file is called .png."""
    make(tmp_path, ["0.png"], encoded(Image.new("L", (4, 4)), "EPS"))
    with pytest.raises(UserError, match=r"0\.png \(not an image that Pillow reads\)"):
        load_images("folder", tmp_path)


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_names_are_printed_under_any_locale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    """Bytes that are no text, line ends, letters that the terminal lacks: all in one line. Catches UnicodeEncodeError
    after the images are read, and a file name that writes lines of its own."""
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
    """To a class folder and to a single file. Catches classes on a scratch disk that are left out."""
    disk = make(tmp_path / "disk", ["cat/0.png", "cat/1.png", "x/2.png"])
    make(tmp_path / "set", ["dog/3.png"])
    (tmp_path / "set/cat").symlink_to(disk / "cat")
    (tmp_path / "set/dog/4.png").symlink_to(disk / "x/2.png")
    assert said(tmp_path / "set", capsys) == "4 images, no folders of splits, 2 classes"


def test_a_loop_of_links_is_an_error(tmp_path: Path) -> None:
    """Catches reading for ever, and the same image many times."""
    make(tmp_path, ["a/0.png"])
    (tmp_path / "a/b").symlink_to(tmp_path)
    for skip_bad in (False, True):
        with pytest.raises(UserError, match=r"a symbolic link to a folder that it lies in: a/b\."):
            load_images("folder", tmp_path, skip_bad=skip_bad)


@pytest.mark.parametrize("target", ["/nowhere/cat", "cat"], ids=["dead", "itself"])
def test_a_link_that_leads_nowhere(tmp_path: Path, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Refused, or left out and counted. Catches a class whose disk is not there, dropped in silence."""
    make(tmp_path, ["dog/0.png"])
    (tmp_path / "cat").symlink_to(target)
    with pytest.raises(UserError, match=r"1 links or folders cannot be followed: cat \(.*skip_bad"):
        load_images("folder", tmp_path)
    assert said(tmp_path, capsys, skip_bad=True).endswith("left out 1 links or folders that cannot be followed")


def test_what_may_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that may not be listed, a file that may not be opened, a root that may not be looked at. Catches a class
    that is dropped in silence, and a traceback."""
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
        server.bind(os.path.relpath(tmp_path / "a/2.png"))  # its path may be longer than a socket's name
        assert said(tmp_path, capsys).endswith("; left out 2 neither file nor folder")


# --- archives ---


def test_members_twice_and_outside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The last of two members counts, as when the archive is unpacked; `..` leads out of it. Catches an image that is
    read twice, and members dropped in silence."""
    white = encoded(Image.new("L", (4, 4), 255))
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        for name, content in (("a/0.png", PNG), ("a/0.png", white), ("../a/1.png", PNG), ("a/\xe9€.png", white)):
            archive.writestr(name, content)
    assert said(tmp_path / "set.zip", capsys) == (
        "2 images, no folders of splits, 1 class; left out 1 named to lie elsewhere (..), 1 replaced by a later member "
        "of the same name"
    )
    assert load_images("folder", tmp_path / "set.zip").images.min() == 255


def test_names_of_old_archives_and_large_ones(tmp_path: Path) -> None:
    """Names in cp437 (no flag for UTF-8), and members with the sizes of ZIP64."""
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        with archive.open("train/b\u00fc/0.png", "w", force_zip64=True) as member:
            member.write(PNG)
        archive.writestr("train/X/1.png", PNG)
    raw = (tmp_path / "set.zip").read_bytes()
    (tmp_path / "set.zip").write_bytes(raw.replace(b"train/X/", b"train/\x81/"))  # cp437 for ü
    assert load_images("folder", tmp_path / "set.zip").classes == ("b\u00fc", "\u00fc")


def test_a_password_and_other_archives(tmp_path: Path) -> None:
    """Say what to do. Catches a password asked of nobody."""
    raw = bytearray(pack(tmp_path / "set.zip", ["a/0.png"]).read_bytes())
    for start, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(start) + at] |= 1
    (tmp_path / "set.zip").write_bytes(raw)
    with pytest.raises(UserError, match=r"a/0\.png \(a password protects it: unpack the archive"):
        load_images("folder", tmp_path / "set.zip")
    import tarfile

    with tarfile.open(tmp_path / "set.tar.gz", "w:gz") as archive:
        archive.add(make(tmp_path / "a", ["0.png"]), "a")
    with pytest.raises(UserError, match=r"neither a folder nor a \.zip file.*Unpack other archives \(\.tar, "):
        load_images("folder", tmp_path / "set.tar.gz")


# --- limits ---


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool) -> None:
    """Unless the limit is raised, as the message says. Catches a member of gigabytes that is unpacked into memory."""
    names = ["a/0.png", "a/1.png"]
    large = PNG + bytes(2000)
    root = pack(tmp_path / "set.zip", names, large) if zipped else make(tmp_path / "set", names, large)
    monkeypatch.setenv("DDPM_MAX_FILE_BYTES", "2_000")
    with pytest.raises(
        UserError, match=rf"2 of 2 .*a/0\.png \({len(large):,} bytes; the limit is 2,000.*DDPM_MAX_FILE_B"
    ):
        load_images("folder", root)
    monkeypatch.setenv("DDPM_MAX_FILE_BYTES", str(len(large)))
    assert len(load_images("folder", root)) == 2
    monkeypatch.setenv("DDPM_MAX_FILE_BYTES", "much")
    with pytest.raises(UserError, match="DDPM_MAX_FILE_BYTES = much must be a whole number"):
        load_images("folder", root)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_member_larger_than_it_says(tmp_path: Path, method: int) -> None:
    """Its 20 MB are not unpacked for the 100 bytes that it declares. Catches `ZipFile.read`, which unpacks all and then
    keeps as much as was declared."""
    root = tmp_path / "set.zip"
    with zipfile.ZipFile(root, "w", method) as archive:
        archive.writestr("a/0.png", bytes(20_000_000))
    raw = bytearray(root.read_bytes())
    struct.pack_into("<L", raw, raw.rindex(b"PK\x01\x02") + 24, 100)  # the size that the archive's list has
    root.write_bytes(raw)
    tracemalloc.start()
    with pytest.raises(UserError, match="1 of 1 images"):
        load_images("folder", root)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6


def test_an_archive_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum over the images that are asked for. Catches many members just below the limit of one."""
    root = pack(tmp_path / "set.zip", [f"a/{i}.png" for i in range(10)])
    monkeypatch.setenv("DDPM_MAX_TOTAL_BYTES", str(9 * len(PNG)))
    with pytest.raises(UserError, match=rf"are {10 * len(PNG):,} bytes once.*DDPM_MAX_TOTAL_BYTES"):
        load_images("folder", root)
    assert len(load_images("folder", root, subset=9)) == 9


@pytest.mark.parametrize("side", [110, 200], ids=["where Pillow warns", "where Pillow refuses"])
def test_an_image_of_too_many_pixels_is_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Left out with `skip_bad`, read if the limit is raised; Pillow's own limit is as it was. Catches a warning that
    nobody acts on."""
    make(tmp_path, ["a/0.png"])
    make(tmp_path, ["a/1.png"], encoded(Image.new("L", (side, side))))
    before = Image.MAX_IMAGE_PIXELS
    monkeypatch.setenv("DDPM_MAX_PIXELS", "10000")
    with pytest.raises(UserError, match=r"1 of 2 .*a/1\.png \(too large: the limit is 10,000 pixels.*DDPM_MAX_PIXELS"):
        load_images("folder", tmp_path)
    assert "left out 1 of 2 images" in said(tmp_path, capsys, skip_bad=True)
    monkeypatch.setenv("DDPM_MAX_PIXELS", "40000")
    assert len(load_images("folder", tmp_path)) == 2
    assert before == Image.MAX_IMAGE_PIXELS


def test_memory_that_does_not_suffice_is_an_unreadable_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a traceback for one image of many."""
    make(tmp_path, ["a/0.png", "a/1.png"])
    decode, sizes = data._decode, iter([MemoryError(), None])

    def scarce(raw: bytes, size: int) -> tuple[torch.Tensor, bool]:
        error = next(sizes)
        if error:
            raise error
        return decode(raw, size)

    monkeypatch.setattr(data, "_decode", scarce)
    assert len(load_images("folder", tmp_path, skip_bad=True, workers=1)) == 1


# --- what images are like inside ---


def read(tmp_path: Path, content: bytes, name: str = "0.png") -> torch.Tensor:
    """The pixels of the one image with these bytes."""
    images: ImageSet = load_images("folder", make(tmp_path / "one", [name], content), quiet=True)
    (tmp_path / "one" / name).unlink()
    return images.images[0]


def tiff(bits: int, white_is_zero: bool, rows: bytes) -> bytes:
    """A grey TIFF of 32 x 32, which Pillow does not write in all forms that it reads."""
    tags = [(256, 32), (257, 32), (258, bits), (259, 1), (262, 0 if white_is_zero else 1), (273, 256), (277, 1)]
    tags += [(278, 32), (279, len(rows))]
    entries = b"".join(struct.pack("<HHLL", tag, 4, 1, value) for tag, value in tags)
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)
    return head.ljust(256, b"\0") + rows


def test_grey_of_12_and_16_bits(tmp_path: Path) -> None:
    """12 bits fill 0 ... 4095, and a TIFF may have white as 0. Catches pictures that are nearly black, and
    negatives."""
    twelve = tiff(12, False, b"\xff\xff\xff" * (32 * 16))
    assert read(tmp_path, twelve, "0.tiff").unique().tolist() == [255]
    sixteen = np.full((32, 32), 200 * 257, "<u2").tobytes()
    assert read(tmp_path, tiff(16, False, sixteen), "0.tif").unique().tolist() == [200]
    assert read(tmp_path, tiff(16, True, sixteen), "0.TIF").unique().tolist() == [55]


def test_colour_models_and_transparency(tmp_path: Path) -> None:
    """Grey becomes colour of three equal parts, CMYK is converted, transparency falls on white in every mode. Catches a
    set whose grey images have one channel, and black where nothing was drawn."""
    assert read(tmp_path, encoded(Image.new("L", (32, 32), 7)))[:, 0, 0].tolist() == [7, 7, 7]
    cmyk = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    assert read(tmp_path, encoded(cmyk, "TIFF"), "0.tif")[:, 0, 0].tolist() == [255, 0, 0]
    assert read(tmp_path, encoded(Image.new("LA", (32, 32), (9, 0))))[:, 0, 0].tolist() == [255, 255, 255]
    palette = Image.new("P", (32, 32), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert read(tmp_path, encoded(palette, transparency=1))[:, 0, 0].tolist() == [255, 255, 255]
    assert read(tmp_path, encoded(palette, transparency=0))[:, 0, 0].tolist() == [10, 20, 30]


def test_a_wrong_ending_and_half_an_image(tmp_path: Path) -> None:
    """The content counts, if the ending is one of images. A file that ends early is no image, and neither is an empty
    one. Catches a lower half of grey that is trained on."""
    photo = Image.fromarray(np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3))
    jpeg = encoded(photo, "JPEG")
    assert torch.equal(read(tmp_path, jpeg, "0.png"), read(tmp_path, jpeg, "0.jpg"))
    for broken in (jpeg[: len(jpeg) // 2], b""):
        with pytest.raises(UserError, match="1 of 1 images"):
            read(tmp_path, broken, "0.jpg")


@pytest.mark.parametrize("cached_from", [2000, 1], ids=["decoded", "cached"])
def test_frames_behind_the_first_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached_from: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the run that decodes them and in the next one. Catches an animation taken for one image without a word, and a
    second frame that spoils the first."""
    monkeypatch.setattr(data, "CACHED_FROM", cached_from)
    film = [Image.new("L", (32, 32), shade) for shade in (5, 100, 200)]
    make(tmp_path / "set", ["a/0.gif"], encoded(film[0], "GIF", save_all=True, append_images=film[1:]))
    make(tmp_path / "set", ["a/1.png", "a/2.png"])
    for _ in range(2):
        assert said(tmp_path / "set", capsys).endswith(
            "1 class; 1 of them hold several frames, of which the first was read"
        )
    assert load_images("folder", tmp_path / "set").images[0].unique().tolist() == [5]
