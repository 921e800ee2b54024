"""Known faults of images in five strengths, 0 (none) to 4: what features should rank."""

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.io import decode_jpeg, encode_jpeg
from torchvision.transforms.functional import gaussian_blur

Distort = Callable[[Tensor, int], Tensor]
STRENGTHS = range(5)
# By strength: std in grey levels, std in pixels, quality.
LEVELS: dict[str, tuple[float, ...]] = {
    "noise": (0, 5, 15, 40, 100),
    "blur": (0.0, 0.5, 0.8, 1.2, 2.0),
    "jpeg": (100, 70, 40, 20, 8),
}


def noise(images: Tensor, strength: int) -> Tensor:
    """Gaussian noise of up to 100 grey levels; images (n, 3, H, W) uint8."""
    added = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + LEVELS["noise"][strength] * added).clamp(0, 255).to(torch.uint8)


def blur(images: Tensor, strength: int) -> Tensor:
    """Gaussian blur with a std of up to 2 pixels."""
    sigma = LEVELS["blur"][strength]
    return gaussian_blur(images, [9, 9], [sigma, sigma]) if sigma else images


def jpeg(images: Tensor, strength: int) -> Tensor:
    """JPEG with a quality down to 8."""
    quality = int(LEVELS["jpeg"][strength])
    return torch.stack([decode_jpeg(encode_jpeg(image, quality)) for image in images]) if strength else images


DISTORTIONS: dict[str, Distort] = {"noise": noise, "blur": blur, "jpeg": jpeg}
KEPT_CLASSES = (10, 9, 7, 4, 2)  # classes kept of ten, by strength of class dropping
