"""The best denoiser's error: closed forms, small sets by hand, and that no denoiser beats it."""

import math
from unittest import mock

import pytest
import torch
from torch import Tensor

from ddpm.data.images import ImageSet, to_model
from ddpm.evaluation.floor import cached_floor, floor

SNR = torch.tensor([math.exp(level) for level in (-8, -3, -1, 0, 1, 3, 8)], dtype=torch.float64)
# The mean of the images is in float32, and they are a few units wide: what is left of an error of 0.
ROUNDING = SNR.max().item() * (4 * torch.finfo(torch.float32).eps) ** 2


def _normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _levels(n: int, snr: Tensor = SNR) -> Tensor:
    return snr.expand(n, -1)


def _by_hand(images: Tensor, own: Tensor, eps: Tensor, snr: Tensor) -> Tensor:
    """(n, L): the definition. x_t from x_0 and eps, the posterior's weights from |x_t - sqrt(ab) x_j|^2, eps_hat from
    their mean."""
    errors = torch.zeros(len(own), len(snr), dtype=torch.float64)
    for i, k in enumerate(own.tolist()):
        for j, ratio in enumerate(snr):
            ab = ratio / (1 + ratio)
            x_t = ab.sqrt() * images[k] + (1 - ab).sqrt() * eps[i]
            away = (x_t - ab.sqrt() * images).flatten(1).square().sum(1)
            p = (-away / (2 * (1 - ab))).softmax(0)
            mean = (p[:, None, None, None] * images).sum(0)
            errors[i, j] = (eps[i] - (x_t - ab.sqrt() * mean) / (1 - ab).sqrt()).square().mean()
    return errors


def test_for_gaussian_data_it_is_the_closed_form() -> None:
    """For N(0, s^2) the best denoiser's eps error is ab s^2 / (ab s^2 + 1 - ab): with many images, their floor is that
    within four standard errors. Image by image it is the error of the closed-form denoiser up to what the sample's
    spread makes of it. Catches a wrong exponent, and a sum over pixels for a mean."""
    s, n = 0.7, 400
    images, eps = s * _normal(5000, 2, 1, 1, seed=1), _normal(n, 2, 1, 1, seed=2)
    snr = SNR[1:5]
    found = floor(images[:n], eps, _levels(n, snr), torch.arange(n), images.float().split(2000))
    ab = snr / (1 + snr)
    expected = ab * s**2 / (ab * s**2 + 1 - ab)
    error = found.std(0) / math.sqrt(n)
    assert ((found.mean(0) - expected).abs() < 4 * error).all()
    x_t = ab.sqrt() * images[:n] + (1 - ab).sqrt() * eps  # (n, 2, 1, L)
    eps_hat = (1 - ab).sqrt() / (ab * s**2 + 1 - ab) * x_t
    closed = (eps - eps_hat).square().mean((1, 2))
    # the mean of k images near x_t has an error of about the posterior's std / sqrt(k), k in the hundreds
    assert ((found - closed).mean(0).abs() < error).all()


@pytest.mark.parametrize("count", [1, 2, 7])
def test_small_sets_by_hand(count: int) -> None:
    """One, two and seven images, one of them twice, at noise levels from end to end. Catches an image that counts
    twice in its own posterior, a cancelled difference, and exponents that overflow."""
    images = (0.6 * _normal(count, 3, 2, 2, seed=3)).float().double()
    images[-1] = images[0]
    own = torch.arange(count)
    eps = _normal(count, 3, 2, 2, seed=4)
    found = floor(images, eps, _levels(count), own, [images.float()])
    assert found == pytest.approx(_by_hand(images, own, eps, SNR), rel=1e-5, abs=ROUNDING)


@pytest.mark.parametrize("size", [1, 3, 50])
def test_the_parts_do_not_matter(size: int) -> None:
    """Catches a part whose largest exponent is above those before, sums in another unit, and an image that is looked
    for at the wrong place."""
    images, eps = (0.6 * _normal(50, 1, 3, 3, seed=5)).float().double(), _normal(4, 1, 3, 3, seed=6)
    own = torch.tensor([0, 17, 30, 49])
    whole = _by_hand(images, own, eps, SNR)
    for order in (torch.arange(50), torch.arange(50).flip(0)):
        at = torch.stack([(order == k).nonzero()[0, 0] for k in own])
        found = floor(images[own], eps, _levels(4), at, images[order].float().split(size))
        assert found == pytest.approx(whole, rel=1e-5, abs=ROUNDING)


def test_no_denoiser_is_better() -> None:
    """Over all images and many noises, other denoisers err more by |eps_hat - eps*|^2: the mean of the images, and the
    best one of a Gaussian with the images' mean and std. Catches a floor of other images or of other x_t."""
    images = 0.4 * _normal(12, 1, 2, 2, seed=7) + 0.2
    own = torch.arange(12).repeat(400)
    x_0, eps, snr = images[own], _normal(len(own), 1, 2, 2, seed=8), torch.tensor([0.5, 2.0, 8.0], dtype=torch.float64)
    best = floor(x_0, eps, _levels(len(own), snr), own, [images.float()])
    mean, variance = images.mean(), images.var(correction=0)
    for j, ratio in enumerate(snr):
        ab = ratio / (1 + ratio)
        x_t = ab.sqrt() * x_0 + (1 - ab).sqrt() * eps
        gain = ab.sqrt() * variance / (ab * variance + 1 - ab)
        for guess in (images.mean(0).expand_as(x_0), mean + gain * (x_t - ab.sqrt() * mean)):
            excess = (ratio * (guess - x_0).square()).flatten(1).mean(1) - best[:, j]
            assert excess.mean() > 4 * excess.std() / math.sqrt(len(own))


def test_it_is_computed_once() -> None:
    """The second call computes nothing; other noise, other levels, other positions or other images are another floor.
    100 images are more than one block of queries."""
    rng = torch.Generator().manual_seed(9)
    pixels = torch.randint(256, (100, 3, 4, 4), generator=rng, dtype=torch.uint8)
    training = ImageSet(pixels, torch.zeros(100, dtype=torch.int64), ("a",), "set")
    own, eps, snr = torch.arange(100), _normal(100, 3, 4, 4, seed=1).float(), _levels(100, SNR[2:4])
    first = cached_floor(training, own, eps, snr)
    at_once = floor(to_model(pixels), eps, snr, own, [to_model(pixels)])
    assert first == pytest.approx(at_once, rel=1e-5)
    with mock.patch("ddpm.evaluation.floor.floor", side_effect=AssertionError("computed again")):
        assert torch.equal(cached_floor(training, own, eps, snr), first)
        others = ImageSet(255 - pixels, training.labels, ("a",), "set")
        for changed in (
            (training, own.flip(0), eps, snr),
            (training, own, -eps, snr),
            (training, own, eps, snr * 2),
            (others, own, eps, snr),
        ):
            with pytest.raises(AssertionError, match="computed again"):
                cached_floor(*changed)
