"""Images from every source, and their order in training."""

import hashlib
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm.data import shapes as embedded
from ddpm.data.batches import Batches
from ddpm.data.images import load_images, to_model, to_uint8, training_positions
from ddpm.data.unseen import load_unseen
from ddpm.errors import UserError


def _write_images(root: Path, split: str = "train", size: tuple[int, int] = (32, 32), suffix: str = ".png") -> None:
    """Two classes of three flat-coloured images."""
    for kind, colour in (("cat", (250, 10, 20)), ("dog", (5, 100, 200))):
        folder = root / split / kind
        folder.mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", size, (colour[0], colour[1], colour[2] + i)).save(folder / f"{i}{suffix}")


def _zip(root: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(root.rglob("*")):
            archive.write(path, path.relative_to(root).as_posix())
    return target


def test_pixels_survive_the_way_to_the_model_and_back() -> None:
    """All 256 values return bitwise. Catches values rounded down, and a range of [0, 1]."""
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_model(values)), values)
    assert to_model(values).min() == -1
    assert to_model(values).max() == 1


def test_embedded_images_are_deterministic_varied_and_prefix_stable() -> None:
    """Catches a set that depends on its length or the global stream, or that repeats itself."""
    torch.manual_seed(0)
    images, labels = embedded.render(1100, seed=0)
    torch.manual_seed(1)
    again, _ = embedded.render(300, seed=0)
    assert torch.equal(images[:300], again)
    assert images.shape == (1100, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert set(labels.tolist()) == set(range(10))
    assert len({i.numpy().tobytes() for i in images}) == 1100
    other, _ = embedded.render(300, seed=1)
    assert not torch.equal(other, again)


def test_no_embedded_image_is_in_both_splits() -> None:
    """Takes more images than one chunk draws. Catches a test split that repeats the training images."""
    splits = [load_images("embedded", split=split, subset=embedded.CHUNK + 20) for split in ("train", "test")]
    train, test = ({image.numpy().tobytes() for image in split.images} for split in splits)
    assert len(train) == len(test) == embedded.CHUNK + 20 and not train & test
    assert [split.name for split in splits] == ["embedded-train", "embedded-test"]


def test_an_embedded_image_is_painted_where_it_should_be() -> None:
    """Paints a disc with radius 0.85 * 0.4, right of the middle and above it, in one colour on grey. A pixel well
    inside has the colour, darker by 1 / 8 per unit downwards; a pixel well outside is grey. Catches an image that is
    transposed or upside down, channels in another order, and a shape in another place."""
    n = torch.zeros(1, dtype=torch.float64)
    front, grey = torch.tensor([[0.9, 0.6, 0.2]], dtype=torch.float64), n + 0.4
    disc = torch.tensor([embedded.CLASSES.index("disc")])
    (image,) = embedded._paint(disc, n + 0.4, n, n + 0.5, n - 0.25, n, front, grey, grey)
    assert image.shape == (3, 32, 32)
    inside = outside = 0
    for row in range(32):
        for column in range(32):
            x, y = (2 * column + 1) / 32 - 1, (2 * row + 1) / 32 - 1
            away = ((x - 0.5) ** 2 + (y + 0.25) ** 2) ** 0.5
            if away < 0.34 - 0.1:
                inside += 1
                want = [255 * value * (1 - (y + 1) / 8) for value in (0.9, 0.6, 0.2)]
                assert image[:, row, column].tolist() == pytest.approx(want, abs=0.51)
            elif away > 0.34 + 0.1:
                outside += 1
                assert image[:, row, column].tolist() == [102] * 3
    assert inside > 30 and outside > 800


def test_every_shape_covers_its_own_part_of_the_frame() -> None:
    """Catches a shape that draws nothing, everything, or the same as another shape."""
    axis = (torch.arange(64) + 0.5) / 32 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    masks = {kind: embedded.signed_distance(kind, x, y) < 0 for kind in embedded.CLASSES}
    for kind, mask in masks.items():
        assert 0.1 < mask.float().mean() < 0.8, kind
    assert len({m.numpy().tobytes() for m in masks.values()}) == 10


@pytest.mark.parametrize("zipped", [False, True])
def test_class_folders_in_a_directory_and_in_a_zip(tmp_path: Path, zipped: bool) -> None:
    """Catches wrong channels, a swapped split and a wrong class order."""
    _write_images(tmp_path / "set")
    _write_images(tmp_path / "set", "test", suffix=".webp")
    root = _zip(tmp_path / "set", tmp_path / "set.zip") if zipped else tmp_path / "set"
    images = load_images("folder", root)
    assert images.classes == ("cat", "dog")
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert images.images[4, :, 5, 7].tolist() == [5, 100, 201]
    assert len(load_images("folder", root, split="test")) == 6


def test_other_sizes_are_cut_and_resized(tmp_path: Path) -> None:
    """A 64 x 48 image with red outer columns, and one with red outer rows, each keep the middle square."""
    folder = tmp_path / "a"
    folder.mkdir()
    image = Image.new("RGB", (64, 48), (255, 0, 0))
    image.paste((0, 0, 255), (8, 0, 56, 48))
    image.save(folder / "x.png")
    image.transpose(Image.Transpose.ROTATE_90).save(folder / "y.png")
    for out in load_images("folder", tmp_path).images:
        assert out.shape == (3, 32, 32)
        assert out[2].min() == 255
        assert out[0].max() == 0


def test_subset_is_fixed_and_spread(tmp_path: Path) -> None:
    """Every run takes the same images, not only from the first class."""
    _write_images(tmp_path)
    a, b = (load_images("folder", tmp_path, subset=4) for _ in range(2))
    assert a.digest == b.digest
    assert len(a) == 4
    assert set(a.labels.tolist()) == {0, 1}


def test_a_corrupt_image_is_named_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Loading stops, or with skip_bad goes on and says what it left out."""
    _write_images(tmp_path)
    good = (tmp_path / "train/dog/1.png").read_bytes()
    (tmp_path / "train/dog/1.png").write_bytes(good[: len(good) // 2])
    (tmp_path / "train/cat/9.jpg").write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"2 of 7 images.*train/cat/9\.jpg.*train/dog/1\.png.*skip_bad"):
        load_images("folder", tmp_path)
    assert len(load_images("folder", tmp_path, skip_bad=True)) == 5
    assert "left out 2 of 7" in capsys.readouterr().out


def test_skipping_bad_images_of_a_subset(tmp_path: Path) -> None:
    """The subset is chosen before it is decoded; its unreadable images are left out."""
    _write_images(tmp_path)
    (tmp_path / "train/cat/0.png").write_bytes(b"x")
    assert len(load_images("folder", tmp_path, subset=6, skip_bad=True)) == 5


@pytest.mark.parametrize("zipped", [False, True])
def test_folders_around_the_splits_are_passed_over(tmp_path: Path, zipped: bool) -> None:
    """Archives often hold name/train/.... Hidden files are not images. Catches training on the test images too."""
    _write_images(tmp_path / "set/name")
    _write_images(tmp_path / "set/name", "test")
    (tmp_path / "set/name/train/cat/._0.png").write_bytes(b"x")
    (tmp_path / "set/.thumbs").mkdir()
    (tmp_path / "set/.thumbs/0.png").write_bytes(b"x")
    root = _zip(tmp_path / "set", tmp_path / "set.zip") if zipped else tmp_path / "set"
    for split in ("train", "test"):
        images = load_images("folder", root, split=split)
        assert (len(images), images.classes) == (6, ("cat", "dog"))


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    """Images directly in the root form one class."""
    for kind in ("car", "train"):
        (tmp_path / kind).mkdir()
        Image.new("RGB", (32, 32)).save(tmp_path / kind / "0.png")
    assert load_images("folder", tmp_path).classes == ("car", "train")
    assert load_images("folder", tmp_path / "car").classes == ("images",)


def test_pixels_are_what_a_viewer_shows(tmp_path: Path) -> None:
    """16-bit grey is scaled, transparency shows white, EXIF rotates. Pixels without a known range are refused."""
    (tmp_path / "a").mkdir()

    def loaded(name: str) -> torch.Tensor:
        (image,) = load_images("folder", tmp_path).images
        (tmp_path / "a" / name).unlink()
        return image

    Image.fromarray(np.full((32, 32), 257 * 200, np.uint16)).save(tmp_path / "a/grey.png")
    assert loaded("grey.png").unique().tolist() == [200]
    Image.new("RGBA", (32, 32), (10, 20, 30, 0)).save(tmp_path / "a/clear.png")
    assert loaded("clear.png").unique().tolist() == [255]
    turned = Image.new("RGB", (32, 32))
    turned.paste((255, 255, 255), (0, 0, 32, 16))  # the upper half; orientation 3 means upside down
    exif = Image.Exif()
    exif[274] = 3
    turned.save(tmp_path / "a/turned.png", exif=exif)
    assert loaded("turned.png")[0, 31, 0] == 255
    Image.fromarray(np.zeros((32, 32), np.float32)).save(tmp_path / "a/float.tiff")
    with pytest.raises(UserError, match="no known range"):
        load_images("folder", tmp_path)


def test_archives_damaged_in_many_ways_are_explained(tmp_path: Path) -> None:
    """Changes every seventh byte of a small zip in turn: it gives an image set or a UserError, never another
    exception."""
    _write_images(tmp_path / "set")
    whole = _zip(tmp_path / "set", tmp_path / "set.zip").read_bytes()
    outcomes = set()
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 0x5A
        (tmp_path / "set.zip").write_bytes(damaged)
        try:
            outcomes.add(len(load_images("folder", tmp_path / "set.zip", skip_bad=True)))
        except UserError:
            outcomes.add(0)
    assert {0, 5} <= outcomes <= set(range(7))


def test_bad_roots(tmp_path: Path) -> None:
    """Each error says what is wrong and what would be right."""
    with pytest.raises(UserError, match="does not exist"):
        load_images("folder", tmp_path / "none")
    with pytest.raises(UserError, match="has no images"):
        load_images("folder", tmp_path)
    (tmp_path / "x.zip").write_bytes(b"PK nonsense")
    with pytest.raises(UserError, match=r"neither a folder nor a \.zip"):
        load_images("folder", tmp_path / "x.zip")
    (tmp_path / "x.zip").unlink()
    _write_images(tmp_path)
    with pytest.raises(UserError, match="more images than"):
        load_images("folder", tmp_path, subset=7)
    with pytest.raises(UserError, match="cannot be read"):  # no image would be left
        for path in tmp_path.rglob("*.png"):
            path.write_bytes(b"x")
        load_images("folder", tmp_path, skip_bad=True)


def test_cifar10_without_a_download_gives_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", refuse)
    with pytest.raises(UserError, match=r"no route to host.*data\.dataset=folder"):
        load_images("cifar10", tmp_path)


def _value(image: int, channel: int, row: int, column: int) -> int:
    """A synthetic image's pixel: it differs for each turn, flip, channel order and image."""
    return (17 * image + 101 * channel + 5 * row + 3 * column) % 256


def _pixels(image: int) -> torch.Tensor:
    """(3, 32, 32) uint8, computed value by value."""
    values = [[[_value(image, c, r, k) for k in range(32)] for r in range(32)] for c in range(3)]
    return torch.tensor(values, dtype=torch.uint8)


def test_a_pixel_is_where_it_is_in_the_file(tmp_path: Path) -> None:
    """Checks red, green and blue at every (row, column) of asymmetric images, in a folder and in a .zip, in both
    splits. Catches an image that is transposed, mirrored or has its channels in another order, and the other split's
    image."""
    for number, split in enumerate(("train", "test")):
        folder = tmp_path / "set" / split / "a"
        folder.mkdir(parents=True)
        picture = Image.new("RGB", (32, 32))
        for row in range(32):
            for column in range(32):
                colour = tuple(_value(number, channel, row, column) for channel in range(3))
                picture.putpixel((column, row), colour)  # Pillow's x comes first
        picture.save(folder / "0.png")
    for root in (tmp_path / "set", _zip(tmp_path / "set", tmp_path / "set.zip")):
        for number, split in enumerate(("train", "test")):
            (image,) = load_images("folder", root, split=split).images
            assert torch.equal(image, _pixels(number)), (root.name, split)


@pytest.fixture
def cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `cifar-10-python.tar.gz`, as after a download by hand. Each of the five training batches holds two
    images, numbered 0 ... 9; the test batch holds images 10 and 11. Image i has the class (3 * i + 1) % 10.

    The format is from https://www.cs.toronto.edu/~kriz/cifar.html: a row has 3072 values, first red, then green, then
    blue, each row by row.
    """
    from torchvision.datasets import CIFAR10

    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    contents: dict[str, dict[str, object]] = {"batches.meta": {"label_names": names}}
    for batch, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        numbers = (2 * batch, 2 * batch + 1)
        rows = np.stack([_pixels(number).flatten().numpy() for number in numbers])
        contents[name] = {"data": rows, "labels": [(3 * number + 1) % 10 for number in numbers]}
    folder, archive = tmp_path / "made/cifar-10-batches-py", tmp_path / "root/cifar-10-python.tar.gz"
    folder.mkdir(parents=True)
    archive.parent.mkdir()
    md5s = {}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content))
        md5s[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5] for name, md5 in md5s.items() if "data" in name])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5s["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": md5s["batches.meta"]})
    return archive.parent


def test_cifar10_is_read_pixel_by_pixel(cifar10: Path) -> None:
    """The first call unpacks the archive. Checks every value of both splits, the labels and the labels' names. Catches
    transposed images, another image's class, and swapped splits."""
    for split, numbers in (("train", range(10)), ("test", (10, 11))):
        found = load_images("cifar10", cifar10, split=split)
        assert torch.equal(found.images, torch.stack([_pixels(number) for number in numbers])), split
        assert found.images.is_contiguous()
        assert found.labels.tolist() == [(3 * number + 1) % 10 for number in numbers]
        assert (found.classes[3], len(found.classes), found.name) == ("cat", 10, f"cifar10-{split}")


def test_unseen_images_of_cifar10_are_its_other_splits(cifar10: Path) -> None:
    """Catches the training batches, and more images than there are."""
    for split, numbers in (("train", [10, 11]), ("test", [0, 4, 9])):
        found = load_unseen(3, "cifar10", cifar10, split=split)
        assert torch.equal(found, torch.stack([_pixels(i) for i in numbers]))


def test_a_subset_of_cifar10_keeps_labels_beside_images(cifar10: Path) -> None:
    """Takes five of ten images, each once and with its own label, and the same ones again. Catches the first five
    labels."""
    found = load_images("cifar10", cifar10, subset=5)
    numbers = [next(n for n in range(10) if torch.equal(image, _pixels(n))) for image in found.images]
    assert len(set(numbers)) == 5 and numbers != list(range(5))
    assert found.labels.tolist() == [(3 * number + 1) % 10 for number in numbers]
    assert torch.equal(load_images("cifar10", cifar10, subset=5).images, found.images)
    with pytest.raises(UserError, match=r"data\.subset = 3 asks for more images than cifar10-test has \(2\)"):
        load_images("cifar10", cifar10, split="test", subset=3)


def test_batches_visit_every_image_once_an_epoch() -> None:
    """5 batches of 4 over 10 images are two epochs. Catches dropped and repeated images."""
    images = torch.arange(10, dtype=torch.uint8).reshape(10, 1, 1, 1)
    batches = Batches(images, 4, seed=3)
    seen = torch.cat([batches.next_indices() for _ in range(5)]).tolist()
    assert sorted(seen[:10]) == list(range(10)) == sorted(seen[10:])
    assert seen[:10] != seen[10:]
    assert next(Batches(images, 4, seed=3)).flatten().tolist() == to_model(images[seen[:4]]).flatten().tolist()


def test_batches_larger_than_the_set_and_unshuffled() -> None:
    images = torch.zeros(3, 1, 1, 1, dtype=torch.uint8)
    assert Batches(images, 7, seed=0, shuffle=False).next_indices().tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_batches_continue_from_their_state() -> None:
    images = torch.zeros(10, 1, 1, 1, dtype=torch.uint8)
    a, b = Batches(images, 4, seed=1), Batches(images, 4, seed=2)
    a.next_indices()
    b.load_state_dict(a.state_dict())
    for _ in range(6):
        assert torch.equal(a.next_indices(), b.next_indices())


def test_values_outside_are_cut_and_a_subset_keeps_the_order() -> None:
    """Catches 8-bit values that wrap around, and a subset in another order than its set."""
    assert to_uint8(torch.tensor([-3.0, 1.5]).reshape(2, 1, 1, 1)).flatten().tolist() == [0, 255]
    chosen = training_positions(50, 20, 0, "it")
    assert chosen == sorted(set(chosen)) == training_positions(50, 20, 0, "it") and len(chosen) == 20


def test_a_larger_image_is_averaged(tmp_path: Path) -> None:
    """A checkerboard at half size is grey. Catches a resize that keeps every other pixel."""
    (tmp_path / "train/a").mkdir(parents=True)
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / "train/a/board.png")
    pixels = load_images("folder", tmp_path, quiet=True).images.float()
    assert pixels[..., 4:-4, 4:-4].sub(127.5).abs().max() < 30
