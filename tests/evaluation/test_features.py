"""Feature nets: the embedded net ranks faults, and Inception reads the file it names."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.distortions import DISTORTIONS, KEPT_CLASSES, STRENGTHS, Distort
from ddpm.data.images import ImageSet, load_images
from ddpm.errors import UserError
from ddpm.evaluation import scores
from ddpm.evaluation.distances import Gaussian, GaussianSum, frechet_distance
from ddpm.evaluation.features import INCEPTION_FILE, LEGACY_FILE, Features, at_once, make_features
from ddpm.evaluation.reference import make_reference, outside_reference, published_reference, uniform_noise

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def shapes() -> tuple[ImageSet, ImageSet, Features]:
    """Two sets of 600 embedded images, one from each split, and the net."""
    train, test = (load_images("embedded", split=split, subset=600) for split in ("train", "test"))
    return train, test, make_features("embedded", CPU)


def _gaussian(features: torch.Tensor) -> Gaussian:
    total = GaussianSum()
    total.add(features)
    return total.result()


@pytest.mark.parametrize("distort", DISTORTIONS.values(), ids=DISTORTIONS)
def test_embedded_features_rank_distortions_by_their_strength(
    shapes: tuple[ImageSet, ImageSet, Features], distort: Distort
) -> None:
    """Each of five strengths, from none to strong, scores worse than the one before. Catches weights that are not the
    trained ones, and features that ignore a fault. (`benchmarks.evaluation --root` does this with photographs.)"""
    train, test, features = shapes
    real = _gaussian(features.extract(train.images[:300]))
    distorted = [_gaussian(features.extract(distort(test.images[:300], strength))) for strength in STRENGTHS]
    distances = [frechet_distance(real, gaussian) for gaussian in distorted]
    assert distances == sorted(distances) and len(set(distances)) == 5, distances


def test_embedded_features_rank_missing_classes(shapes: tuple[ImageSet, ImageSet, Features]) -> None:
    """The score worsens as more of the ten shapes are missing. With all shapes it is below 5 % of uniform noise's."""
    train, test, features = shapes
    real, found = _gaussian(features.extract(train.images)), features.extract(test.images)
    distances = [frechet_distance(real, _gaussian(found[test.labels < kept])) for kept in KEPT_CLASSES]
    assert distances == sorted(distances)
    noise = _gaussian(features.extract(torch.cat(list(uniform_noise(300, (3, 32, 32))))))
    assert distances[0] < 0.05 * frechet_distance(real, noise)


def test_embedded_weights_are_small_and_ship() -> None:
    from importlib.resources import files

    weights = files("ddpm.evaluation") / "embedded_features.safetensors"
    assert len(weights.read_bytes()) < 2_000_000


def test_missing_inception_weights_are_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The error names the file, the folder and the alternative. No empty file stays behind that looks like the
    weights."""
    import urllib.request

    def refuse(*args: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(UserError, match=rf"ddpm-cache/{INCEPTION_FILE} is missing.*no route.*features=embedded"):
        make_features("inception", CPU)
    assert not list((tmp_path / "ddpm-cache").iterdir())


def test_damaged_inception_weights_are_explained(tmp_path: Path) -> None:
    (tmp_path / "ddpm-cache").mkdir()
    (tmp_path / "ddpm-cache" / INCEPTION_FILE).write_bytes(b"half a file")
    with pytest.raises(UserError, match="is damaged"):
        make_features("inception", CPU)


class _Layers(nn.Module):
    """Takes (B, 3, 299, 299) around 0 and returns 2048 numbers: the colour means, repeated."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)).repeat(1, 683)[:, :2048]


class _StandIn(nn.Module):
    """A TorchScript file with the signature of clean-fid's Inception. It tests the path, not the features."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = _Layers()

    def forward(self, x: torch.Tensor, return_features: bool = True) -> torch.Tensor:
        return self.layers(x)


def test_inception_reads_the_file_from_the_cache(tmp_path: Path) -> None:
    """Images are resized to 299 and scaled to [-1, 1] as in clean-fid. Catches a wrong channel order or range."""
    (tmp_path / "ddpm-cache").mkdir()
    torch.jit.script(_StandIn()).save(str(tmp_path / "ddpm-cache" / INCEPTION_FILE))
    features = make_features("inception", CPU)
    images = torch.tensor([0, 128, 255], dtype=torch.uint8)[None, :, None, None].expand(2, 3, 32, 32)
    out = features.extract(images)
    assert out.shape == (2, features.dim)
    torch.testing.assert_close(out[0, :3], torch.tensor([-1.0, 0.0, 127 / 128]), atol=1e-4, rtol=0)


def test_batches_are_resized_ahead_and_come_out_in_order(tmp_path: Path) -> None:
    """When the first features come out, the second batch has started and the third is not yet drawn. Catches a batch
    that is lost, repeated or out of order, and resizing that waits for the net."""
    (tmp_path / "ddpm-cache").mkdir()
    torch.jit.script(_StandIn()).save(str(tmp_path / "ddpm-cache" / INCEPTION_FILE))
    features = make_features("inception", CPU)
    images = torch.arange(0, 210, 30, dtype=torch.uint8)[:, None, None, None].expand(7, 3, 8, 8)
    drawn = []

    def batches() -> Iterator[torch.Tensor]:
        for batch in images.split(2):
            drawn.append(len(batch))
            yield batch

    found = features.of(batches())
    parts = [next(found)]
    assert len(drawn) == 2
    parts += found
    assert [len(part) for part in parts] == drawn == [2, 2, 2, 1]
    torch.testing.assert_close(torch.cat(parts), features.extract(images))
    assert list(features.of([])) == []


def test_tensorflows_mode_leaves_the_resize_to_the_net(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It calls the whole file with pixels in 0 ... 255 at their own size, under another name. A file other than
    clean-fid's gives a warning. Catches a second resize, and two modes whose numbers look alike."""
    (tmp_path / "ddpm-cache").mkdir()
    torch.jit.script(_StandIn()).save(str(tmp_path / "ddpm-cache" / INCEPTION_FILE))
    features, clean = make_features("inception_legacy_tensorflow", CPU), make_features("inception", CPU)
    images = torch.tensor([0, 128, 255], dtype=torch.uint8)[None, :, None, None].expand(2, 3, 32, 32)
    torch.testing.assert_close(features.extract(images)[0, :3], torch.tensor([0.0, 128.0, 255.0]))
    assert (features.mode, features.resize) == ("legacy_tensorflow", "inside")
    assert features.name.removeprefix("inception-legacy_tensorflow") == clean.name.removeprefix("inception-clean")
    assert "is not the file that clean-fid downloads" in capsys.readouterr().out


class _Colours(nn.Module):
    """Stands for pytorch-fid's Inception: one output, (B, 2048, 1, 1), for images in [0, 1]."""

    def __init__(self, output_blocks: list[int], resize_input: bool):
        super().__init__()
        from cleanfid import inception_pytorch

        state = inception_pytorch.load_state_dict_from_url("an address", progress=True)
        self.scale = nn.Parameter(state["scale"])
        assert output_blocks == [3] and not resize_input

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        assert x.shape[2:] == (299, 299)
        return [(self.scale * x[:, :, :10, :10].mean((2, 3))).repeat(1, 683)[:, :2048, None, None]]


def test_pytorchs_mode_reads_its_weights_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It uses clean-fid's own resize and scale and the weights file in the cache folder, without a download. Catches
    another resize (align_corners, antialiasing), the other mode's weights, and a file with code that is unpickled."""
    from cleanfid import inception_pytorch
    from cleanfid.resize import build_resizer

    path = tmp_path / "ddpm-cache" / LEGACY_FILE
    path.parent.mkdir()
    torch.save({"scale": torch.tensor(3.0)}, path)
    original = inception_pytorch.load_state_dict_from_url
    monkeypatch.setattr(inception_pytorch, "InceptionV3", _Colours)
    features = make_features("inception_legacy_pytorch", CPU)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    resize = build_resizer("legacy_pytorch")
    expected = [3 * resize(image.permute(1, 2, 0).numpy())[:10, :10].mean((0, 1)) / 255 for image in images]
    torch.testing.assert_close(features.extract(images)[:, :3], torch.tensor(np.stack(expected)), rtol=1e-5, atol=1e-5)
    assert features.resize == "torch-bilinear-299" and inception_pytorch.load_state_dict_from_url is original
    torch.save({"scale": pytest.approx(1)}, path)  # a class instance
    with pytest.raises(UserError, match="is damaged"):
        make_features("inception_legacy_pytorch", CPU)


class _Means(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


class _Map(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_a_torchscript_file_by_its_path(tmp_path: Path) -> None:
    """It gets pixels in 0 ... 255. The features' name holds its name and content, and its width is measured. A file
    that returns no vectors, is not TorchScript or does not exist is refused."""
    torch.jit.script(_Means()).save(str(tmp_path / "means.pt"))
    features = make_features(str(tmp_path / "means.pt"), CPU)
    images = torch.tensor([0, 128, 255], dtype=torch.uint8)[None, :, None, None].expand(2, 3, 32, 32)
    assert features.extract(images).tolist() == [[0.0, 128.0, 255.0]] * 2
    assert re.fullmatch("means-[0-9a-f]{6}", features.name) and features.dim == 3
    torch.jit.script(_Map()).save(str(tmp_path / "map.pt"))
    (tmp_path / "bytes.pt").write_bytes(b"x")
    for name, message in (
        ("map", r"returns \(2, 3, 32, 32\) for two images, not \(2, dim\)"),
        ("bytes", "is not a TorchScript file"),
        ("none", "there is no TorchScript file"),
    ):
        with pytest.raises(UserError, match=message):
            make_features(str(tmp_path / f"{name}.pt"), CPU)


def test_published_statistics_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user puts clean-fid's file for the features' mode there by hand; KID also needs its features, of which it
    takes evenly spaced rows. Catches another mode's statistics, own and published statistics under one protocol, memory
    that grows with the file, and scores from two feature files under one key."""
    folder = tmp_path / "ddpm-cache" / "clean-fid"
    folder.mkdir(parents=True)
    torch.jit.script(_StandIn()).save(str(folder.parent / INCEPTION_FILE))
    features = make_features("inception", CPU)
    mean, covariance = np.linspace(0, 1, 2048), np.eye(2048)
    np.savez(folder / "cifar10_clean_train_32.npz", mu=mean, sigma=covariance)
    found = published_reference("cifar10-train", features, with_rows=False)
    assert found.gaussian.mean.tolist() == mean.tolist() and found.gaussian.count == 50_000
    assert found.gaussian.covariance.dtype == torch.float64 and found.rows is None
    assert (found.name, len(found.digest)) == ("clean-fid-cifar10-train", 12)
    kid = folder / "cifar10_clean_train_32_kid.npz"
    monkeypatch.setattr(scores, "ROWS", 3)
    keys = {found.key}
    for last in (6.0, 7.0):
        np.savez(kid, feats=np.array([0, 1, 2, 3, 4, 5, last], np.float32)[:, None].repeat(2048, 1))
        known = published_reference("cifar10-train", features, with_rows=True)
        assert known.rows is not None and known.rows[:, 0].tolist() == [0, 3, last] and known.digest == found.digest
        keys |= {known.key, known.rows_digest}
    assert len(keys) == 5 and found.rows_digest is None
    for shape in ((3, 5), (2048,)):
        np.savez(kid, feats=np.ones(shape, np.float32))
        with pytest.raises(UserError, match=r"_kid.npz has features of shape .* not \(n, 2048\)"):
            published_reference("cifar10-train", features, with_rows=True)
    other = make_features("inception_legacy_tensorflow", CPU)
    with pytest.raises(UserError, match=r"eval\.reference_stats = cifar10-train are statistics of clean-fid"):
        published_reference("cifar10-train", make_features("embedded", CPU), with_rows=False)
    (folder / "cifar10_legacy_tensorflow_train_32.npz").write_bytes(b"half")
    with pytest.raises(UserError, match=r"legacy_tensorflow_train_32.npz is damaged.*On a machine with internet"):
        published_reference("cifar10-train", other, with_rows=False)
    np.savez(folder / "cifar10_clean_test_32.npz", mu=mean[:5], sigma=covariance[:5, :5])
    with pytest.raises(UserError, match=r"a mean of shape \(5,\)"):
        published_reference("cifar10-test", features, with_rows=False)


def test_missing_statistics_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the file, its folder and the alternative, and no partial file stays. Catches an empty file that
    clean-fid would later take for the statistics."""
    import urllib.request

    def refuse(*args: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    features = Features("inception-clean-abc", "none", 2048, at_once(lambda x: x), "clean")
    with pytest.raises(UserError, match=r"cifar10_clean_test_32.npz is missing.*no route.*reference_stats=null"):
        published_reference("cifar10-test", features, with_rows=False)
    assert not [path for path in (tmp_path / "ddpm-cache").rglob("*") if path.is_file()]


def test_published_references_are_those_of_the_config() -> None:
    """Catches a name that the config accepts but nothing publishes, and the reverse."""
    from typing import get_args

    from ddpm.config.sections import Eval
    from ddpm.evaluation import reference

    annotation = Eval.model_fields["reference_stats"].annotation
    assert {name for part in get_args(annotation) for name in get_args(part)} == set(reference.PUBLISHED)
    assert Eval(features="nets/mine.pt").features == "nets/mine.pt"
    with pytest.raises(ValueError, match="Did you mean inception"):
        Eval(features="inceptoin")


def test_too_few_reference_images_are_refused() -> None:
    """A covariance of 64 dimensions needs more than 64 images."""
    features = make_features("embedded", CPU)
    assert re.fullmatch("embedded64-[0-9a-f]{6}", features.name)  # other weights have another name
    with pytest.raises(UserError, match=r"has 64 images.*64 dimensions"):
        make_reference(features, load_images("embedded", subset=64), None)
    assert make_reference(features, load_images("embedded", subset=300), 65).gaussian.count == 65


def test_the_reference_is_spread_over_the_whole_set() -> None:
    """Sets come sorted by class. Catches a reference with the first n images, which come from one class."""
    pixels = torch.arange(200, dtype=torch.uint8)[:, None, None, None].expand(200, 3, 2, 2)
    images = ImageSet(pixels, torch.zeros(200, dtype=torch.int64), ("a",), "ramp")
    features = Features("mean", "none", 1, at_once(lambda batch: batch.float().mean((1, 2, 3))[:, None]))
    assert make_reference(features, images, 20).gaussian.mean.item() == pytest.approx(99.5, abs=1)


def _numbered(n: int) -> ImageSet:
    """n images; each has one grey value, its number."""
    pixels = torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, 3, 2, 2)
    return ImageSet(pixels, torch.zeros(n, dtype=torch.int64), ("a",), "ramp")


def test_images_outside_the_reference_are_not_in_it() -> None:
    """Of ten images the reference takes four: 0, 3, 6 and 9. Images outside come evenly spaced from the other six if
    there are enough. Catches a floor from the reference's own images, and one from the first images."""
    images, seen = _numbered(10), []

    def extract(batch: torch.Tensor) -> torch.Tensor:
        seen.extend(batch[:, 0, 0, 0].tolist())
        return batch.float().mean((1, 2, 3))[:, None]

    make_reference(Features("mean", "none", 1, at_once(extract)), images, 4)
    assert set(seen) == {0, 3, 6, 9}

    def outside(reference_n: int | None, n: int) -> list[int]:
        return outside_reference(images, reference_n, n).tolist()

    assert outside(4, 6) == [1, 2, 4, 5, 7, 8]
    assert outside(4, 2) == [1, 8]
    assert outside(9, 1) == [
        5
    ]  # nine evenly spaced in 0 ... 9: 0, 1.125, 2.25, 3.375, 4.5 (to 4), 5.625, 6.75, 7.875, 9
    # if too few or none are left: over the whole set, repeatedly if needed
    assert outside(4, 7) == [0, 2, 3, 4, 6, 8, 9]
    assert outside(None, 2) == outside(10, 2) == outside(99, 2) == [0, 9]
    assert len(outside(None, 15)) == 15 and set(outside(None, 15)) == set(range(10))
