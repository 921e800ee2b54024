"""Feature nets: the shipped one ranks faults, Inception's path reads the file that it names."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from ddpm.data import ImageSet, load_images
from ddpm.errors import UserError
from ddpm.evaluation.distances import GaussianSum, frechet_distance
from ddpm.evaluation.features import INCEPTION_FILE, Features, make_features
from ddpm.evaluation.reference import make_reference

CPU = torch.device("cpu")


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    features = make_features("embedded", CPU)
    sums = GaussianSum(), GaussianSum()
    for total, images in zip(sums, (a, b), strict=True):
        total.add(features.extract(images))
    return frechet_distance(sums[0].result(), sums[1].result())


def test_embedded_features_rank_noise_by_its_strength() -> None:
    """Real < slightly noisy < noisy < pure noise. Catches weights that are not the trained ones."""
    real = load_images("embedded", subset=500).images
    fresh = load_images("embedded", split="test", subset=500).images
    noise = torch.randn(real.shape)
    distances = [_distance(real, (fresh + s * noise).clamp(0, 255).to(torch.uint8)) for s in (0, 10, 40, 100)]
    assert distances == sorted(distances)
    uniform = _distance(real, torch.randint(0, 256, real.shape, dtype=torch.uint8))
    assert distances[0] < 0.05 * uniform


def test_embedded_weights_are_small_and_ship() -> None:
    from importlib.resources import files

    weights = files("ddpm.evaluation") / "embedded_features.safetensors"
    assert len(weights.read_bytes()) < 2_000_000


def test_missing_inception_weights_are_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Names the file, the folder and the alternative, and leaves no empty file behind that looks like the weights."""
    import urllib.request

    def refuse(*args: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(UserError, match=rf"ddpm-cache/{INCEPTION_FILE} is not there.*no route.*features=embedded"):
        make_features("inception", CPU)
    assert not list((tmp_path / "ddpm-cache").iterdir())


def test_damaged_inception_weights_are_explained(tmp_path: Path) -> None:
    (tmp_path / "ddpm-cache").mkdir()
    (tmp_path / "ddpm-cache" / INCEPTION_FILE).write_bytes(b"half a file")
    with pytest.raises(UserError, match="is damaged"):
        make_features("inception", CPU)


class _Layers(nn.Module):
    """Takes (B, 3, 299, 299) around 0 and gives 2048 numbers: the colour means, repeated."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)).repeat(1, 683)[:, :2048]


class _StandIn(nn.Module):
    """A TorchScript file of the same signature as clean-fid's Inception. It proves the path, not the features."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = _Layers()

    def forward(self, x: torch.Tensor, return_features: bool = True) -> torch.Tensor:
        return self.layers(x)


def test_inception_reads_the_file_from_the_cache(tmp_path: Path) -> None:
    """Resized to 299 and scaled to [-1, 1] as clean-fid does. Catches wrong channel order and range."""
    (tmp_path / "ddpm-cache").mkdir()
    torch.jit.script(_StandIn()).save(str(tmp_path / "ddpm-cache" / INCEPTION_FILE))
    features = make_features("inception", CPU)
    images = torch.tensor([0, 128, 255], dtype=torch.uint8)[None, :, None, None].expand(2, 3, 32, 32)
    out = features.extract(images)
    assert out.shape == (2, features.dim)
    torch.testing.assert_close(out[0, :3], torch.tensor([-1.0, 0.0, 127 / 128]), atol=1e-4, rtol=0)


def test_too_few_reference_images_are_refused() -> None:
    """A covariance of 64 dimensions needs more than 64 images."""
    features = make_features("embedded", CPU)
    assert re.fullmatch("embedded64-[0-9a-f]{6}", features.name)  # other weights, other name
    with pytest.raises(UserError, match=r"rest on 64 images.*64 dimensions"):
        make_reference(features, load_images("embedded", subset=64), None)
    assert make_reference(features, load_images("embedded", subset=300), 65).gaussian.count == 65


def test_the_reference_is_spread_over_the_whole_set() -> None:
    """Sets come sorted by class. Catches a reference that is the first n images, of one class alone."""
    pixels = torch.arange(200, dtype=torch.uint8)[:, None, None, None].expand(200, 3, 2, 2)
    images = ImageSet(pixels, torch.zeros(200, dtype=torch.int64), ("a",), "ramp")
    features = Features("mean", "none", 1, lambda batch: batch.float().mean((1, 2, 3))[:, None])
    assert make_reference(features, images, 20).gaussian.mean.item() == pytest.approx(99.5, abs=1)
