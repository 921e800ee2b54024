"""Samplers with perfect denoisers of known data: closed forms at any NFE."""

import math

import pytest
import torch

from ddpm.samplers import ImageNoise, ddim, ddpm, draw, eps_denoiser
from ddpm.schedule import Schedule, even_timesteps, make_schedule
from tests.analytic import gaussian_denoiser, no_noise, seeded_noise

FULL = make_schedule("linear")


def _chain(nfe: int, schedule: Schedule = FULL) -> Schedule:
    return schedule.respace(even_timesteps(1000, nfe))


@pytest.mark.parametrize(("nfe", "gain"), [(50, 0.96338), (1000, 0.99812)])
def test_ddim_on_a_standard_normal_has_the_closed_form_gain(nfe: int, gain: float) -> None:
    """On N(0, I), DDIM multiplies by the product of cos(theta_t - theta_s), theta = arccos sqrt(alpha_bar).

    Catches an off-by-one in t, a swapped alpha and a missing last step.
    """
    chain = _chain(nfe)
    theta = torch.cat([torch.zeros(1, dtype=torch.float64), chain.alpha_bar.sqrt().acos()])
    product = torch.cos(theta.diff()).prod().item()
    x_T = torch.ones(1, dtype=torch.float64)
    out = ddim(gaussian_denoiser(FULL, 1.0), x_T, chain, no_noise, clip=False).item()
    assert out == pytest.approx(product, rel=1e-12)
    assert out == pytest.approx(gain, abs=5e-6)


def _ddpm_variance(chain: Schedule, std: float) -> float:
    """Output variance of ancestral sampling with the perfect denoiser of N(0, std^2), by scalar recursion."""
    variance = 1.0
    for i in reversed(range(len(chain))):
        ab, ab_prev, beta = (x[i].item() for x in (chain.alpha_bar, chain.alpha_bar_prev, chain.beta))
        gain = math.sqrt(ab) * std**2 / (ab * std**2 + 1 - ab)  # x_0 estimate per x_t
        gain = math.sqrt(ab_prev) * beta / (1 - ab) * gain + math.sqrt(1 - beta) * (1 - ab_prev) / (1 - ab)
        variance = gain**2 * variance + (beta * (1 - ab_prev) / (1 - ab) if i else 0)
    return variance


@pytest.mark.parametrize("nfe", [2, 50, 1000])
def test_ddpm_reaches_the_variance_of_its_posterior(nfe: int) -> None:
    """Monte-Carlo std within 4 standard errors of the recursion. Catches a wrong posterior mean or variance."""
    n = 20_000
    x_T = seeded_noise((n,), 1)()
    out = ddpm(gaussian_denoiser(FULL, 0.5), x_T, _chain(nfe), seeded_noise((n,), 2), clip=False)
    expected = math.sqrt(_ddpm_variance(_chain(nfe), 0.5))
    assert out.std().item() == pytest.approx(expected, abs=4 * expected / math.sqrt(2 * n))


def test_ddpm_at_50_steps_removes_the_noise() -> None:
    """Close to the data's std of 0.5, from below. The study's adjacent-step posterior on 50 strides ends at 0.936."""
    at_50, at_1000 = (math.sqrt(_ddpm_variance(_chain(nfe), 0.5)) for nfe in (50, 1000))
    assert 0.43 < at_50 < at_1000 < 0.5
    assert at_1000 == pytest.approx(0.496, abs=5e-4)


@pytest.mark.parametrize("nfe", [1, 10, 50])
@pytest.mark.parametrize("sampler", [ddpm, ddim])
def test_a_point_mass_is_recovered_exactly(sampler, nfe: int) -> None:  # type: ignore[no-untyped-def]
    """With x_0 known, every chain ends on it. Catches noise in the last step and wrong coefficients of x_0."""
    x_T = seeded_noise((5,))()
    out = sampler(lambda x, t: torch.full_like(x, 0.3), x_T, _chain(nfe), seeded_noise((5,), 3))
    torch.testing.assert_close(out, torch.full_like(out, 0.3), rtol=0, atol=1e-12)


def test_ddim_with_eta_one_is_ddpm() -> None:
    """Equal noise, equal output. Catches a wrong sigma in either."""
    denoise, x_T = gaussian_denoiser(FULL, 0.7, 0.2), seeded_noise((64,), 5)()
    a = ddim(denoise, x_T, _chain(20), seeded_noise((64,), 6), eta=1.0)
    b = ddpm(denoise, x_T, _chain(20), seeded_noise((64,), 6))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_the_callback_sees_every_step_and_clip_bounds_the_estimate() -> None:
    seen = []

    def record(done: int, x_t: torch.Tensor, x_0: torch.Tensor) -> None:
        seen.append((done, x_0.abs().max().item()))

    ddim(lambda x, t: 3 * x, seeded_noise((8,))(), _chain(10), no_noise, callback=record)
    assert [done for done, _ in seen] == list(range(1, 11))
    assert max(bound for _, bound in seen) <= 1


class _Halve(torch.nn.Module):
    """A stand-in for the network that notes the t it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[int] = []

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        self.told.append(int(t[0]))
        return 0.5 * x


def test_the_network_is_told_the_full_chains_t() -> None:
    """Catches handing it the position in the short chain."""
    model = _Halve()
    ddim(eps_denoiser(model, FULL), torch.ones(1, 3, 2, 2), _chain(3), no_noise)
    assert model.told == [999, 500, 0]


@pytest.mark.parametrize("sampler", [ddpm, ddim])
def test_images_do_not_depend_on_the_batch_size_or_the_global_stream(sampler) -> None:  # type: ignore[no-untyped-def]
    """Noise belongs to (seed, image). Catches one generator for a batch, and reseeding of the global stream."""
    device = torch.device("cpu")

    def images(batch_size: int, seed: int = 7) -> torch.Tensor:
        denoise = eps_denoiser(_Halve(), FULL)
        parts = draw(sampler, denoise, _chain(5), 6, seed=seed, shape=(3, 4, 4), batch_size=batch_size, device=device)
        return torch.cat(list(parts))

    before = torch.get_rng_state()
    a, b = images(6), images(4)
    assert torch.equal(before, torch.get_rng_state())
    torch.testing.assert_close(a, b)
    assert a.shape == (6, 3, 4, 4)
    assert not torch.allclose(a, images(6, seed=8))
    assert not torch.allclose(a[0], a[1])


def test_image_noise_differs_between_seeds_and_images() -> None:
    """Streams of neighbouring (seed, i) must not be shifted copies of each other."""
    noise = torch.cat([ImageNoise(s, range(3), (50,), torch.device("cpu"))() for s in (0, 1)])
    correlation = torch.corrcoef(noise) - torch.eye(6)
    assert correlation.abs().max() < 0.6  # 50 values: 4 standard errors
