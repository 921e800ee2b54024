"""The embedded feature net: a small classifier whose weights ship with the package, so FID needs no download.

Its distances are on another scale than Inception's. They have their own protocol and compare only with each other.
`python -m ddpm.evaluation.train_embedded_features` trained it.
"""

import hashlib
from importlib.resources import files

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WEIGHTS = "embedded_features.safetensors"
DIM = 64


class _Residual(nn.Module):
    """conv-BN-ReLU-conv-BN plus a 1x1 skip; the first conv and the skip have `stride`."""

    def __init__(self, c_in: int, c_out: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(c_out)
        self.skip = nn.Conv2d(c_in, c_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(h + self.skip(x))


class EmbeddedFeatures(nn.Module):
    """Maps (B, 3, 32, 32) in [-1, 1] to (B, 64) features: a linear map of the pooled last stage."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            _Residual(32, 64, stride=2),
            _Residual(64, 128, stride=2),
            _Residual(128, 128, stride=2),
        )
        self.project = nn.Linear(128, DIM)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.stages(x).mean((2, 3)))


def load_embedded_features() -> tuple[EmbeddedFeatures, str]:
    """The net with its shipped weights (stored in float16, used in float32), in eval mode; and its name.

    The name contains a digest of the weights: distances under other weights do not compare.
    """
    from safetensors.torch import load

    raw = (files("ddpm.evaluation") / WEIGHTS).read_bytes()
    state = load(raw)
    net = EmbeddedFeatures()
    net.load_state_dict({k: v.to(torch.float32) if v.is_floating_point() else v for k, v in state.items()})
    return net.eval().requires_grad_(False), f"embedded{DIM}-{hashlib.sha256(raw).hexdigest()[:6]}"
