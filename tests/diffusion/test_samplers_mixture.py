"""The samplers on Gaussian mixtures with their exact denoisers: how the distance to the data falls with NFE.

In one dimension a deterministic sampler is a function of x_T, and the exact flow is monotone. So evenly spaced
quantiles of x_T give, once the outputs are sorted, the output's quantiles without sampling noise. W1 is their mean
distance to the data's own quantiles.
"""

import math
from functools import cache

import pytest
import torch
from torch import Tensor

from ddpm.diffusion.samplers import SAMPLERS, make_chain
from ddpm.diffusion.schedule import Schedule, make_schedule
from tests.analytic import Mixture, no_noise, seeded_noise, sliced_w1


def _f64(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


LINEAR = make_schedule("linear")
LEVELS = (torch.arange(500, dtype=torch.float64) + 0.5) / 500
LINE = Mixture(_f64(0.3, 0.5, 0.2), _f64([-0.9], [0.1], [0.8]), _f64(0.2, 0.25, 0.15))
PLANE = Mixture(_f64(0.3, 0.5, 0.2), _f64([-0.9, 0], [0.5, 0.7], [0.4, -0.8]), _f64(0.15, 0.25, 0.1))
N = 3000


def _w1(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().mean().item()


def _quantiles(schedule: Schedule, sampler: str, chain: Schedule) -> Tensor:
    """Quantiles of the sampler's output for x_T from N(0, 1)."""
    x_T = torch.special.ndtri(LEVELS)[:, None]
    out = SAMPLERS[sampler].function(LINE.denoiser(schedule), x_T, chain, no_noise)
    return out.sort(0).values


def _even_in_log_snr() -> Schedule:
    """4097 steps from log SNR 10 to -10 (alpha_bar 0.99995 to 4.5e-5): equal strides are equal steps to the solvers."""
    alpha_bar = torch.linspace(10, -10, 4097, dtype=torch.float64).sigmoid()
    return Schedule(torch.arange(4097), alpha_bar, torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]]))


EVEN = _even_in_log_snr()


def _strided(strides: int) -> Schedule:
    return EVEN.respace(torch.arange(0, 4097, 4096 // strides))


@cache
def _converged() -> Tensor:
    return _quantiles(EVEN, "heun", _strided(1024))


def test_the_mixture_is_exact() -> None:
    """The denoiser agrees with the noisy density's score, and the quantiles with samples. Catches a wrong denoiser."""
    ab = LINEAR.alpha_bar[300]
    x_t = seeded_noise((20, 2))().requires_grad_()
    noisy = PLANE.noisy(ab)
    normal = torch.distributions.Normal(noisy.means, noisy.stds[:, None])
    log_p = (noisy.weights.log() + normal.log_prob(x_t[:, None, :]).sum(-1)).logsumexp(1)
    (score,) = torch.autograd.grad(log_p.sum(), x_t)
    tweedie = (x_t + (1 - ab) * score) / ab.sqrt()
    torch.testing.assert_close(PLANE.denoiser(LINEAR)(x_t, 300), tweedie, rtol=1e-10, atol=1e-10)
    levels = _f64(0.01, 0.5, 0.99)
    below = (LINE.sample(100_000, 0) < LINE.quantiles(levels).T).double().mean(0)
    torch.testing.assert_close(below, levels, rtol=0, atol=0.008)


def test_the_converged_flow_ends_on_the_data() -> None:
    """W1 to the exact quantiles is 3e-4. This floor exists because x_T is N(0, 1) (alpha_bar_T > 0) and alpha_bar_0 <
    1.

    Catches a bias that all deterministic samplers share: comparing them with each other cannot show it.
    """
    assert _w1(_converged(), LINE.quantiles(LEVELS)) < 5e-4


@pytest.mark.parametrize(("sampler", "order"), [("ddim", 1), ("dpmpp_2m", 2), ("heun", 2)])
def test_the_order_of_convergence(sampler: str, order: int) -> None:
    """Fits the slope of log W1 against log steps, from 32 to 256. Catches a second-order term that is lost or wrong.

    W1 is to the converged flow (heun, 1024 strides). This removes the floor of the test above and leaves only the
    discretisation error.
    """
    strides = (32, 64, 128, 256)
    errors = [_w1(_quantiles(EVEN, sampler, _strided(n)), _converged()) for n in strides]
    x = torch.tensor([math.log(n) for n in strides])
    y = torch.tensor([math.log(error) for error in errors])
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    assert -slope.item() == pytest.approx(order, abs=0.1)
    assert errors[0] < {1: 0.05, 2: 0.01}[order]


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "heun"])
def test_on_the_linear_schedule_more_calls_come_closer(sampler: str) -> None:
    """W1 to the data falls at NFE 25, 50, 100, 250; second-order samplers end below ddim. Catches a chain for another
    NFE.

    With linspace, dpmpp_2m needs about 50 calls to beat ddim: its last strides to t = 0 are long in log SNR.
    """
    exact = LINE.quantiles(LEVELS)
    errors = [_w1(_quantiles(LINEAR, sampler, make_chain(LINEAR, sampler, nfe)), exact) for nfe in (25, 50, 100, 250)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < {"ddim": 6e-3, "dpmpp_2m": 1.2e-3, "heun": 5e-4}[sampler]


@cache
def _floor() -> float:
    """The greatest distance of 4 other real sample sets to the real one."""
    return max(sliced_w1(PLANE.sample(N, 0), PLANE.sample(N, seed)) for seed in range(1, 5))


def _distance(sampler: str, nfe: int) -> float:
    """Sliced W1 between N samples in the plane and N real ones."""
    x_T, noise = seeded_noise((N, 2), 11)(), seeded_noise((N, 2), 12)
    chain = make_chain(LINEAR, sampler, nfe)
    out = SAMPLERS[sampler].function(PLANE.denoiser(LINEAR), x_T, chain, noise)
    return sliced_w1(PLANE.sample(N, 0), out)


@pytest.mark.parametrize("sampler", ["ddpm", "ddpm_large"])
def test_ancestral_sampling_comes_down_to_the_floor(sampler: str) -> None:
    """The distance is 0.29 (small) or 0.21 (large) at NFE 5, 0.12 at 10, and at 250 within 1.3 times real to real.

    Catches a posterior that is right only for a Gaussian.
    """
    at_5, at_10, at_50, at_250 = (_distance(sampler, nfe) for nfe in (5, 10, 50, 250))
    assert at_5 > 1.5 * at_10 > 3 * at_50
    assert at_50 > 0.9 * at_250
    assert at_250 < 1.3 * _floor()


def test_the_studys_sampler_stays_noise_until_nfe_is_near_its_length() -> None:
    """Sliced W1 is 0.36, 0.30, 0.15 at NFE 5, 50, 250, ten times the floor. Catches a silent fix of the fault."""
    at_5, at_50, at_250 = (_distance("ddpm_adjacent_posterior", nfe) for nfe in (5, 50, 250))
    assert at_5 > at_50 > 0.75 * at_5
    assert at_50 > 5 * _distance("ddpm", 50)
    assert at_250 > 4 * _floor()
