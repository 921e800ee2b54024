"""Predictions and weightings: the same objective in x_0 and in eps space."""

import pytest
import torch

from ddpm.loss import WEIGHTINGS, eps_mse, eps_weights, make_weighting
from ddpm.prediction import add_noise, eps_from_x0, x0_from_eps
from ddpm.schedule import make_schedule


def _draw() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    x_0 = torch.randn(40, 3, 4, 4, generator=rng, dtype=torch.float64)
    eps = torch.randn(40, 3, 4, 4, generator=rng, dtype=torch.float64)
    return x_0, eps, torch.randint(0, 1000, (40,), generator=rng)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_conversions_invert(schedule: str) -> None:
    """Catches swapped roots of alpha_bar and 1 - alpha_bar."""
    x_0, eps, t = _draw()
    ab = make_schedule(schedule).alpha_bar[t]
    x_t = add_noise(x_0, eps, ab)
    # The error of x_0 is round-off amplified by 1 / sqrt(alpha_bar), at most 2e4 (cosine).
    torch.testing.assert_close(x0_from_eps(x_t, eps, ab), x_0, rtol=0, atol=1e-10)
    torch.testing.assert_close(eps_from_x0(x_t, x_0, ab), eps, rtol=0, atol=1e-12)


def test_a_scalar_alpha_bar_means_the_same_as_a_batch_of_it() -> None:
    x_0, eps, _ = _draw()
    ab = torch.tensor(0.3, dtype=torch.float64)
    assert torch.equal(add_noise(x_0, eps, ab), add_noise(x_0, eps, ab.expand(40)))


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_weighted_errors_agree_in_both_spaces(name: str) -> None:
    """w_eps |d eps|^2 = w_x0 |d x_0|^2 for any error. Catches a weighting stated in the wrong space."""
    x_0, eps, t = _draw()
    schedule = make_schedule("linear")
    ab, snr = schedule.alpha_bar[t], schedule.snr
    weighting = make_weighting(name, 5.0)
    eps_hat = eps + 0.1 * torch.randn(eps.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x_t = add_noise(x_0, eps, ab)
    x_0_hat = x0_from_eps(x_t, eps_hat, ab)
    in_eps = eps_weights(weighting, snr)[t] * eps_mse(eps_hat, eps)
    in_x0 = weighting(snr)[t] * (x_0_hat - x_0).square().flatten(1).mean(1)
    torch.testing.assert_close(in_eps, in_x0, rtol=1e-9, atol=0)


def test_minsnr_matches_the_original_study() -> None:
    """Its logged curve: 5.00133e-4 at the first t, 1 from the 131st, mean 0.9130731. Catches gamma misplaced."""
    w = eps_weights(make_weighting("minsnr", 5.0), make_schedule("linear").snr)
    # The study computed in float32, where 1 - alpha_bar at the first t (1e-4) carries a relative error up to 6e-4.
    assert w[0].item() == pytest.approx(0.000500132970046252, rel=6e-4)
    assert w.mean().item() == pytest.approx(0.9130731603326858, rel=1e-6)
    assert (w[:130] < 1).all()
    assert (w[130:] == 1).all()


def test_constant_weights_are_exactly_one() -> None:
    """The trained loss is then bit for bit the unweighted one, and the probe measures it once."""
    for name in ("linear", "cosine"):
        assert (eps_weights(make_weighting("constant"), make_schedule(name).snr) == 1).all()
