"""The cache on disk that runs share: results have the same bits as without it, are computed once, and a broken cache
stops no run."""

from pathlib import Path
from unittest import mock

import pytest
import torch
from PIL import Image

from ddpm.data import images as data
from ddpm.data.images import load_images
from ddpm.errors import UserError
from ddpm.evaluation.features import make_features
from ddpm.evaluation.reference import make_reference
from ddpm.runtime.cache import cache_dir, cached
from ddpm.training.setup import Training
from tests.training.test_train import tiny

CPU = torch.device("cpu")


def _never() -> dict[str, torch.Tensor]:
    raise AssertionError("made again")


def test_made_once_and_again_where_the_file_is_damaged() -> None:
    """Catches a cache that is not read, one that returns another key's content, and a damaged file that ends a run."""
    made = {"x": torch.arange(3.0, dtype=torch.float64)}
    assert cached("kind", "a", lambda: made) is made
    assert torch.equal(cached("kind", "a", _never)["x"], made["x"])
    assert torch.equal(cached("kind", "b", lambda: {"x": torch.zeros(1)})["x"], torch.zeros(1))
    (path,) = cache_dir().glob("kind/a.*")
    path.write_bytes(path.read_bytes()[:-5])
    assert cached("kind", "a", lambda: made) is made
    assert torch.equal(cached("kind", "a", _never)["x"], made["x"])
    assert len(list(cache_dir().rglob("*"))) == 3, "nothing is left aside"


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "file"))
    assert cached("kind", "a", lambda: {"x": torch.ones(1)})["x"] == 1


def test_the_environment_then_the_config_then_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a configured folder that is ignored, and one that stays in effect in the process after its run."""
    configured = Training(tiny(tmp_path, f"--cache_dir={tmp_path / 'configured'}"))
    assert cache_dir() == tmp_path / "ddpm-cache"  # the tests set DDPM_CACHE
    monkeypatch.delenv("DDPM_CACHE")
    assert cache_dir() == tmp_path / "configured"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    other = Training(tiny(tmp_path))
    assert cache_dir() == tmp_path / "own/ddpm" and list(cache_dir().rglob("*.safetensors"))
    assert other.cfg.run_id == configured.cfg.run_id


def test_reference_statistics_are_bitwise_the_same_from_the_cache() -> None:
    """Another count or other images give other statistics. Catches a cache key that leaves out what the statistics
    depend on."""
    features, images = make_features("embedded", CPU), load_images("embedded", subset=300)
    first = make_reference(features, images, 200)
    with mock.patch("ddpm.evaluation.reference.FeatureSums", None):  # this class would compute them again
        again = make_reference(features, images, 200)
        for other in ((features, images, 201), (features, load_images("embedded", subset=301), 200)):
            with pytest.raises(TypeError):
                make_reference(*other)
    assert torch.equal(first.gaussian.mean, again.gaussian.mean)
    assert torch.equal(first.gaussian.covariance, again.gaussian.covariance)
    assert first.gaussian.count == again.gaussian.count == 200


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_decoded_images_are_the_same_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Images are decoded once. They are decoded again if an image has changed or is unreadable, and an unreadable image
    is still reported. Catches stale images, and an error that only the first run reports."""
    import shutil

    monkeypatch.setattr(data, "CACHED_FROM", 3)
    for name, shade in (("a/0", 10), ("a/1", 20), ("b/0", 30)):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (shade, 0, 0)).save(tmp_path / "set" / f"{name}.png")

    def load() -> data.ImageSet:
        root = tmp_path / "set"
        if kind == "zip":
            root = Path(shutil.make_archive(str(tmp_path / "set"), "zip", root))
        return load_images("folder", root)

    first = load()
    with mock.patch("ddpm.data.images._decode", side_effect=AssertionError):
        again = load()
    assert (again.digest, again.classes, again.labels.tolist()) == (first.digest, ("a", "b"), [0, 0, 1])
    Image.new("RGB", (32, 32), (40, 0, 0)).save(tmp_path / "set/b/0.png")
    assert load().images[:, 0, 0, 0].tolist() == [10, 20, 40]
    (tmp_path / "set/b/0.png").write_bytes(b"x")
    for _ in range(2):
        with pytest.raises(UserError, match="1 of 3 images"):
            load()
