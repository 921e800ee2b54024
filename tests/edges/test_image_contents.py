"""Archives that are damaged, hostile or old; limits on what is read; and images in every format."""

import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm.data import images as data
from ddpm.data.images import ImageSet, load_images
from ddpm.errors import UserError
from tests.edges.pictures import PNG, encoded, make, pack, said

# --- archives ---


def test_members_twice_and_outside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The last of two members with one name counts, as when the archive is unpacked. A name with `..` leads out of the
    archive. Catches an image that is read twice, and members that are silently dropped."""
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
    """Names in cp437 (without the UTF-8 flag), and members with ZIP64 sizes."""
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        with archive.open("train/b\u00fc/0.png", "w", force_zip64=True) as member:
            member.write(PNG)
        archive.writestr("train/X/1.png", PNG)
    raw = (tmp_path / "set.zip").read_bytes()
    (tmp_path / "set.zip").write_bytes(raw.replace(b"train/X/", b"train/\x81/"))  # cp437 for ü
    assert load_images("folder", tmp_path / "set.zip").classes == ("b\u00fc", "\u00fc")


def test_a_password_and_other_archives(tmp_path: Path) -> None:
    """The message says what to do. Catches a password prompt that nobody can answer."""
    raw = bytearray(pack(tmp_path / "set.zip", ["a/0.png"]).read_bytes())
    for start, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(start) + at] |= 1
    (tmp_path / "set.zip").write_bytes(raw)
    with pytest.raises(UserError, match=r"a/0\.png \(password protected: unpack the archive"):
        load_images("folder", tmp_path / "set.zip")
    with tarfile.open(tmp_path / "set.tar.gz", "w:gz") as archive:
        archive.add(make(tmp_path / "a", ["0.png"]), "a")
    with pytest.raises(UserError, match=r"neither a folder nor a \.zip file.*Unpack other archives \(\.tar, "):
        load_images("folder", tmp_path / "set.tar.gz")


# --- limits ---


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool) -> None:
    """The limit can be raised, as the message says. Catches a member of gigabytes that is unpacked into memory."""
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
    with pytest.raises(UserError, match="DDPM_MAX_FILE_BYTES = much must be a number of 1 or more"):
        load_images("folder", root)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_member_larger_than_it_says(tmp_path: Path, method: int) -> None:
    """The member declares 100 bytes and unpacks to 20 MB, which are not unpacked. Catches `ZipFile.read`, which unpacks
    everything and then keeps the declared number of bytes."""
    root = tmp_path / "set.zip"
    with zipfile.ZipFile(root, "w", method) as archive:
        archive.writestr("a/0.png", bytes(20_000_000))
    raw = bytearray(root.read_bytes())
    struct.pack_into("<L", raw, raw.rindex(b"PK\x01\x02") + 24, 100)  # the size in the archive's list
    root.write_bytes(raw)
    tracemalloc.start()
    with pytest.raises(UserError, match="1 of 1 images"):
        load_images("folder", root)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6


def test_an_archive_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is on the sum over the requested images. Catches many members that are each just below the limit for
    one."""
    root = pack(tmp_path / "set.zip", [f"a/{i}.png" for i in range(10)])
    monkeypatch.setenv("DDPM_MAX_TOTAL_BYTES", str(9 * len(PNG)))
    with pytest.raises(UserError, match=rf"are {10 * len(PNG):,} bytes once.*DDPM_MAX_TOTAL_BYTES"):
        load_images("folder", root)
    assert len(load_images("folder", root, subset=9)) == 9


@pytest.mark.parametrize("side", [110, 200], ids=["where Pillow warns", "where Pillow refuses"])
def test_an_image_of_too_many_pixels_is_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """`skip_bad` leaves the image out, and a raised limit reads it. Pillow's own limit is unchanged. Catches a warning
    that nobody acts on."""
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


# --- formats ---


def read(tmp_path: Path, content: bytes, name: str = "0.png") -> torch.Tensor:
    """The pixels of the one image with these bytes."""
    images: ImageSet = load_images("folder", make(tmp_path / "one", [name], content), quiet=True)
    (tmp_path / "one" / name).unlink()
    return images.images[0]


def tiff(bits: int, white_is_zero: bool, rows: bytes) -> bytes:
    """A grey TIFF of 32 x 32. Pillow reads some forms that it does not write."""
    tags = [(256, 32), (257, 32), (258, bits), (259, 1), (262, 0 if white_is_zero else 1), (273, 256), (277, 1)]
    tags += [(278, 32), (279, len(rows))]
    entries = b"".join(struct.pack("<HHLL", tag, 4, 1, value) for tag, value in tags)
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)
    return head.ljust(256, b"\0") + rows


def test_grey_of_12_and_16_bits(tmp_path: Path) -> None:
    """12 bits mean 0 ... 4095, and a TIFF may have white as 0. Catches pictures that are nearly black, and
    negatives."""
    twelve = tiff(12, False, b"\xff\xff\xff" * (32 * 16))
    assert read(tmp_path, twelve, "0.tiff").unique().tolist() == [255]
    sixteen = np.full((32, 32), 200 * 257, "<u2").tobytes()
    assert read(tmp_path, tiff(16, False, sixteen), "0.tif").unique().tolist() == [200]
    assert read(tmp_path, tiff(16, True, sixteen), "0.TIF").unique().tolist() == [55]


def test_colour_models_and_transparency(tmp_path: Path) -> None:
    """Grey gets three equal channels, CMYK is converted, and transparency becomes white in every mode. Catches a set
    whose grey images have one channel, and black in transparent areas."""
    assert read(tmp_path, encoded(Image.new("L", (32, 32), 7)))[:, 0, 0].tolist() == [7, 7, 7]
    cmyk = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    assert read(tmp_path, encoded(cmyk, "TIFF"), "0.tif")[:, 0, 0].tolist() == [255, 0, 0]
    assert read(tmp_path, encoded(Image.new("LA", (32, 32), (9, 0))))[:, 0, 0].tolist() == [255, 255, 255]
    palette = Image.new("P", (32, 32), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert read(tmp_path, encoded(palette, transparency=1))[:, 0, 0].tolist() == [255, 255, 255]
    assert read(tmp_path, encoded(palette, transparency=0))[:, 0, 0].tolist() == [10, 20, 30]


def test_a_wrong_ending_and_half_an_image(tmp_path: Path) -> None:
    """The content decides, if the ending is one of images. A truncated or empty file is unreadable. Catches a training
    on images with a grey lower half."""
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
    """The run that decodes them says so, and so does the next one. Catches an animation that is silently taken for one
    image, and a second frame that spoils the first."""
    monkeypatch.setattr(data, "CACHED_FROM", cached_from)
    film = [Image.new("L", (32, 32), shade) for shade in (5, 100, 200)]
    make(tmp_path / "set", ["a/0.gif"], encoded(film[0], "GIF", save_all=True, append_images=film[1:]))
    make(tmp_path / "set", ["a/1.png", "a/2.png"])
    for _ in range(2):
        assert said(tmp_path / "set", capsys).endswith("1 class; 1 of them have several frames; the first was read")
    assert load_images("folder", tmp_path / "set").images[0].unique().tolist() == [5]
