"""Samplers with perfect denoisers for known data: closed forms at any NFE.

Each of these mutations of ddpm/ was tried by hand on a copy. The named test failed, and often others too.

schedule.py
    respace keeps adjacent betas             test_ddim_on_a_standard_normal_has_the_closed_form_gain
    keep_adjacent respaces                   test_the_studys_posterior_leaves_the_noise_in
    respace names positions as timesteps     test_respacing_twice_is_respacing_once
    SNR over alpha_bar_prev                  test_snr_log_snr_and_beta_invert_alpha_bar
    log SNR with half of log alpha_bar       test_snr_log_snr_and_beta_invert_alpha_bar
    cosine one step late; its cap 0.99       test_betas_equal_those_of_diffusers
    scaled_linear without its roots          test_betas_equal_those_of_diffusers
    zero terminal SNR without the root       test_zero_terminal_snr_against_diffusers
    trailing, leading off by one             test_spacings_equal_those_of_diffusers
prediction.py
    1 - alpha_bar without its root           test_a_target_in_closed_form
    sign of v                                test_a_target_in_closed_form
    eps_from_v with swapped roots            test_conversions_invert_at_every_t
    root after the cast to float32           test_float32_images_stay_float32_with_roots_in_float64
loss.py
    eps weighted by w_x0; v by w_x0 / SNR    test_weighted_errors_agree_in_all_spaces
    minsnr clamps from below; truncated_snr from above
                                             test_closed_forms
    minsnr_norm by the mean of w_x0          test_minsnr_norm_has_mean_one
    soft_minsnr without gamma above          test_soft_minsnr_lies_below_minsnr_and_meets_it_at_both_ends
    p2: k and gamma swapped                  test_the_parameters_of_minsnr_and_p2
    SNR of 0 not held off                    test_weights_are_finite_at_zero_terminal_snr
    squared error of the batch               test_squared_error_is_the_mean_over_one_image
samplers.py
    ddpm: alpha_bar for alpha_bar_prev       test_a_point_mass_is_recovered_exactly
    ddpm: a missing root before x_t          test_large_variance_keeps_a_standard_normal
    ddpm: small and large swapped; variance for std
                                             test_ddpm_reaches_the_variance_of_its_posterior
    ddpm: noise in the last step, or not in the first
                                             test_ancestral_samplers_draw_noise_in_all_steps_but_the_last
    ddim: eps not reduced by s^2; s of the wrong alpha_bar
                                             test_ddim_with_eta_one_is_ddpm
    ddim: eps at alpha_bar_prev              test_ddim_on_a_standard_normal_has_the_closed_form_gain
    dpmpp_2m: h / h_last inverted, its 1/2 lost, signs of the difference and of the exponent, lambda without its half,
      the last estimate not kept             test_dpmpp_2m_on_a_gaussian_by_scalar_recursion
    heun: Euler's slope, the 1/2 lost, the stride's sign, the near end's t for the network
                                             test_heun_on_a_gaussian_by_scalar_recursion
    limited: an estimate not limited         test_every_estimate_is_limited
    t off by one; the position for t         test_the_network_is_told_the_full_chains_t
    make_chain: steps rounded down; calls per step ignored
                                             test_no_sampler_makes_more_calls_than_nfe
    make_chain: spacing ignored              test_make_chain_respaces_for_all_but_the_studys_sampler
    dynamic_threshold: s below 1, no division, s of the batch
                                             test_dynamic_threshold_properties
    model_denoiser: another alpha_bar; prediction ignored
                                             test_the_networks_denoiser_reads_its_prediction
    noise by place in the batch              test_images_do_not_depend_on_the_batch_size_or_the_global_stream
    draw: limit ignored                      test_draw_uses_its_sampler_and_its_limit
ema.py
    decay and 1 - decay swapped; weights shared with the model
                                             test_closed_form_and_independence
    buffers left behind                      test_buffers_are_copied
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from ddpm.diffusion.prediction import target
from ddpm.diffusion.samplers import (
    LIMITS,
    SAMPLERS,
    ImageNoise,
    clip_to_data,
    ddim,
    ddpm,
    dpmpp_2m,
    draw,
    dynamic_threshold,
    heun,
    limited,
    make_chain,
    model_denoiser,
)
from ddpm.diffusion.schedule import SCHEDULES, Schedule, make_schedule, spaced_timesteps
from ddpm.names import PREDICTIONS, SPACINGS
from tests.analytic import gaussian_denoiser, no_noise, seeded_noise, states_of

FULL = make_schedule("linear")
CPU = torch.device("cpu")
DETERMINISTIC = ("ddim", "dpmpp_2m", "heun")
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS)


def _chain(nfe: int, schedule: Schedule = FULL, spacing: str = "linspace") -> Schedule:
    return schedule.respace(spaced_timesteps(1000, nfe, spacing))


def _scalars(chain: Schedule) -> Iterator[tuple[int, float, float, float]]:
    """(position, alpha_bar, alpha_bar_prev, beta) of each step, in sampling order."""
    for i in reversed(range(len(chain))):
        yield i, chain.alpha_bar[i].item(), chain.alpha_bar_prev[i].item(), chain.beta[i].item()


@pytest.mark.parametrize(("nfe", "gain"), [(50, 0.96338), (1000, 0.99812)])
def test_ddim_on_a_standard_normal_has_the_closed_form_gain(nfe: int, gain: float) -> None:
    """On N(0, I), DDIM multiplies by the product of cos(theta_t - theta_s), theta = arccos sqrt(alpha_bar).

    Catches an off-by-one in t, a swapped alpha and a missing last step.
    """
    chain = _chain(nfe)
    theta = torch.cat([torch.zeros(1, dtype=torch.float64), chain.alpha_bar.sqrt().acos()])
    product = torch.cos(theta.diff()).prod().item()
    x_T = torch.ones(1, dtype=torch.float64)
    out = ddim(gaussian_denoiser(FULL, 1.0), x_T, chain, no_noise).item()
    assert out == pytest.approx(product, rel=1e-12)
    assert out == pytest.approx(gain, abs=5e-6)


@pytest.mark.parametrize("nfe", [2, 3, 20])
def test_dpmpp_2m_on_a_gaussian_by_scalar_recursion(nfe: int) -> None:
    """Uses lambda = log(alpha / sigma) and r = h_last / h as in the paper. Catches r inverted and a lost 1/2."""
    chain, std = _chain(nfe), 0.5
    x, last, h_last = 1.0, 0.0, math.nan
    for i, ab, ab_prev, _ in _scalars(chain):
        x_0 = math.sqrt(ab) * std**2 / (ab * std**2 + 1 - ab) * x
        if i == 0:
            x = x_0
            break
        lam, lam_prev = (math.log(math.sqrt(a / (1 - a))) for a in (ab, ab_prev))
        h = lam_prev - lam
        r = h_last / h
        d = x_0 if i == nfe - 1 else (1 + 1 / (2 * r)) * x_0 - 1 / (2 * r) * last
        x = math.sqrt((1 - ab_prev) / (1 - ab)) * x - math.sqrt(ab_prev) * (math.exp(-h) - 1) * d
        last, h_last = x_0, h
    out = dpmpp_2m(gaussian_denoiser(FULL, std), torch.ones(1, dtype=torch.float64), chain, no_noise)
    assert out.item() == pytest.approx(x, rel=1e-10)


def test_heun_on_a_gaussian_by_scalar_recursion() -> None:
    """With y = x / alpha and s = sigma / alpha: dy / ds = y s / (std^2 + s^2). Catches one slope in place of the
    mean."""
    chain, std = _chain(20), 0.5
    s = [math.sqrt((1 - ab) / ab) for _, ab, _, _ in _scalars(chain)]
    y = 1 / math.sqrt(chain.alpha_bar[-1].item())
    for here, ahead in pairwise(s):
        slope = y * here / (std**2 + here**2)
        slope_ahead = (y + (ahead - here) * slope) * ahead / (std**2 + ahead**2)
        y += (ahead - here) * (slope + slope_ahead) / 2
    expected = y * std**2 / (std**2 + s[-1] ** 2)  # the last step returns the x_0 estimate
    out = heun(gaussian_denoiser(FULL, std), torch.ones(1, dtype=torch.float64), chain, no_noise)
    assert out.item() == pytest.approx(expected, rel=1e-10)


def _std_by_recursion(chain: Schedule, std: float, variance: str = "small") -> float:
    """The final std of ancestral sampling with the perfect denoiser for N(0, std^2)."""
    v = 1.0
    for i, ab, ab_prev, beta in _scalars(chain):
        gain = math.sqrt(ab) * std**2 / (ab * std**2 + 1 - ab)  # the x_0 estimate per x_t
        gain = math.sqrt(ab_prev) * beta / (1 - ab) * gain + math.sqrt(1 - beta) * (1 - ab_prev) / (1 - ab)
        added = {"small": beta * (1 - ab_prev) / (1 - ab), "large": beta}[variance]
        v = gain**2 * v + (added if i else 0)
    return math.sqrt(v)


@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("nfe", [2, 50, 1000])
def test_ddpm_reaches_the_variance_of_its_posterior(nfe: int, variance: str) -> None:
    """The Monte-Carlo std is within 4 standard errors of the recursion. Catches a wrong posterior mean or variance."""
    n = 20_000 if nfe < 1000 else 5_000
    x_T, noise = seeded_noise((n,), 1)(), seeded_noise((n,), 2)
    out = ddpm(gaussian_denoiser(FULL, 0.5), x_T, _chain(nfe), noise, variance=variance)
    expected = _std_by_recursion(_chain(nfe), 0.5, variance)
    assert out.std().item() == pytest.approx(expected, abs=4 * expected / math.sqrt(2 * n))


def test_ddpm_at_50_steps_removes_the_noise() -> None:
    """The std ends at 0.4432 (small) and 0.5176 (large) on data with std 0.5. Catches a posterior with the wrong
    stride."""
    assert _std_by_recursion(_chain(50), 0.5) == pytest.approx(0.443193, abs=1e-6)
    assert _std_by_recursion(_chain(50), 0.5, "large") == pytest.approx(0.517574, abs=1e-6)
    assert _std_by_recursion(_chain(1000), 0.5) == pytest.approx(0.496110, abs=1e-6)


@pytest.mark.parametrize(("variance", "std"), [("small", 0.936163), ("large", 0.936493)])
def test_the_studys_posterior_leaves_the_noise_in(variance: str, std: float) -> None:
    """50 strides with adjacent steps' posteriors end at std 0.936 on data with std 0.5. Catches a silent fix of the
    fault.

    The exact recursion gives both; the Monte-Carlo check uses the registered sampler (small).
    """
    chain = make_chain(FULL, "ddpm_adjacent_posterior", 50)
    assert _std_by_recursion(chain, 0.5, variance) == pytest.approx(std, abs=1e-6)
    if variance == "small":
        n = 20_000
        function = SAMPLERS["ddpm_adjacent_posterior"].function
        out = function(gaussian_denoiser(FULL, 0.5), seeded_noise((n,), 1)(), chain, seeded_noise((n,), 2))
        assert out.std().item() == pytest.approx(std, abs=4 * std / math.sqrt(2 * n))


def test_the_studys_posterior_at_every_step_is_ddpm() -> None:
    """At NFE = T it is bitwise ddpm. Catches a fault beyond the stride."""
    denoise, x_T = gaussian_denoiser(FULL, 0.5), seeded_noise((4,))()
    outs = []
    for name in ("ddpm", "ddpm_adjacent_posterior"):
        outs.append(SAMPLERS[name].function(denoise, x_T, make_chain(FULL, name, 1000), seeded_noise((4,), 1)))
    assert torch.equal(*outs)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("nfe", [1, 2, 10, 50, 1000])
def test_large_variance_keeps_a_standard_normal(nfe: int, spacing: str) -> None:
    """On N(0, I) each step but the last keeps variance 1: x_{t-1} = sqrt(1 - b) x_t + sqrt(b) z. The last step adds no
    noise and leaves variance alpha_bar of the cleanest timestep. The test follows each step without Monte Carlo: x_t
    and z add in quadrature.

    Catches the small variance in its place, at any number of steps.
    """
    chain = _chain(nfe, spacing=spacing)
    # Column k holds the k-th independent normal's share in x_t: x_T, then each fresh noise.
    x, fresh = torch.zeros(nfe, dtype=torch.float64), iter(range(1, nfe))
    x[0] = 1.0

    def unit() -> Tensor:
        return nn.functional.one_hot(torch.tensor(next(fresh)), nfe).double()

    states = states_of(SAMPLERS["ddpm_large"].function, gaussian_denoiser(FULL, 1.0), x, chain, unit)
    variances = [x_t.square().sum().item() for x_t in states]
    assert variances[:-1] == pytest.approx([1.0] * (nfe - 1), rel=1e-10)
    assert variances[-1] == pytest.approx(chain.alpha_bar[0].item(), rel=1e-10)


@every_sampler
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("nfe", [1, 2, 10, 51])
def test_a_point_mass_is_recovered_exactly(sampler: str, spacing: str, nfe: int) -> None:
    """With x_0 known, every chain ends on it. Catches noise in the last step and wrong coefficients for x_0.

    The study's sampler does not if its chain stops short of t = 0: its last posterior still goes to t - 1.
    """
    if sampler == "ddpm_adjacent_posterior" and (spacing == "trailing" or nfe == 1):
        spacing, nfe = "linspace", max(nfe, 2)
    chain = make_chain(FULL, sampler, nfe, spacing)
    x_T, noise = seeded_noise((5,))(), seeded_noise((5,), 3)
    out = SAMPLERS[sampler].function(lambda x, t: torch.full_like(x, 0.3), x_T, chain, noise)
    torch.testing.assert_close(out, torch.full_like(out, 0.3), rtol=0, atol=1e-12)


def test_ddim_with_eta_one_is_ddpm() -> None:
    """Equal noise gives equal output. Catches a wrong sigma in either."""
    denoise, x_T = gaussian_denoiser(FULL, 0.7, 0.2), seeded_noise((64,), 5)()
    a = ddim(denoise, x_T, _chain(20), seeded_noise((64,), 6), eta=1.0)
    b = ddpm(denoise, x_T, _chain(20), seeded_noise((64,), 6))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("nfe", [1, 2, 10])
@pytest.mark.parametrize("sampler", ["ddpm", "ddpm_large", "ddim", "ddpm_adjacent_posterior"])
def test_zero_terminal_snr(sampler: str, nfe: int, name: str) -> None:
    """alpha_bar_T = 0 is the limit of alpha_bar_T = 1e-30. Catches 0 / 0 and the root of a negative round-off.

    The denoiser depends on x_t. Otherwise it would hide NaN, as the last step returns its estimate.
    """
    full = make_schedule(name, zero_terminal_snr=True)
    small = full.alpha_bar.clone()
    small[-1] = 1e-30
    outs = []
    for schedule in (full, Schedule(full.timesteps, small, full.alpha_bar_prev)):
        chain = make_chain(schedule, sampler, nfe)
        x_T, noise = seeded_noise((5,))(), seeded_noise((5,), 3)
        outs.append(SAMPLERS[sampler].function(gaussian_denoiser(schedule, 0.5, 0.2), x_T, chain, noise))
    assert outs[0].isfinite().all()
    torch.testing.assert_close(*outs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("nfe", [2, 5, 50])
def test_dpmpp_2m_at_zero_terminal_snr(nfe: int) -> None:
    """An infinite first stride gives x = sigma' x_T + alpha' x_0, and the second stride cannot extrapolate.

    Catches inf / inf in h / h_last.
    """
    full = make_schedule("linear", zero_terminal_snr=True)
    chain, denoise, x_T = make_chain(full, "dpmpp_2m", nfe), gaussian_denoiser(full, 0.5, 0.2), seeded_noise((5,))()
    rest = full.respace(chain.timesteps[:-1])
    ab = rest.alpha_bar[-1]
    x = (1 - ab).sqrt() * x_T + ab.sqrt() * denoise(x_T, 999)
    out = dpmpp_2m(denoise, x_T, chain, no_noise)
    torch.testing.assert_close(out, dpmpp_2m(denoise, x, rest, no_noise), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_zero_terminal_snr_with_eta_one(name: str) -> None:
    """1 - alpha_bar_prev - s^2 is 0 there except for round-off. Catches the root of -1e-16."""
    full = make_schedule(name, zero_terminal_snr=True)
    for steps in range(2, 60):
        x_T, noise = seeded_noise((5,))(), seeded_noise((5,), 3)
        assert ddim(lambda x, t: 0.3 * x, x_T, _chain(steps, full), noise, eta=1.0).isfinite().all()


def test_heun_refuses_zero_terminal_snr() -> None:
    """Catches NaN images without an error."""
    full = make_schedule("linear", zero_terminal_snr=True)
    with pytest.raises(ValueError, match="zero terminal SNR"):
        heun(lambda x, t: x, torch.ones(1), _chain(5, full), no_noise)


@every_sampler
@pytest.mark.parametrize("spacing", SPACINGS)
def test_no_sampler_makes_more_calls_than_nfe(sampler: str, spacing: str) -> None:
    """Samplers make exactly nfe calls. Heun makes 2 S - 1 for S steps, so one fewer if nfe is even. Catches a free
    second call."""
    for nfe in (1, 2, 3, 10, 49, 50):
        told: list[int] = []

        def denoise(x: Tensor, t: int, told: list[int] = told) -> Tensor:
            told.append(t)
            return 0 * x

        chain = make_chain(FULL, sampler, nfe, spacing)
        SAMPLERS[sampler].function(denoise, torch.ones(2), chain, lambda: torch.zeros(2))
        if sampler == "heun":
            assert len(told) == 2 * len(chain) - 1 == nfe - (nfe % 2 == 0)
        else:
            assert len(told) == len(chain) == nfe
        assert told == sorted(told, reverse=True)
        assert told[0] == chain.timesteps[-1]
        assert told[-1] == chain.timesteps[0]


def test_heun_can_spend_more_calls_than_there_are_timesteps() -> None:
    """Over 1000 timesteps heun can spend 1999 calls but not 2001; other samplers cannot spend 1001."""
    assert len(make_chain(FULL, "heun", 1999)) == 1000
    for sampler, nfe in (("heun", 2001), ("ddpm", 1001), ("ddim", 0), ("heun", 0)):
        with pytest.raises(ValueError, match="T = 1000"):
            make_chain(FULL, sampler, nfe)
    with pytest.raises(ValueError, match="spacing"):
        make_chain(FULL, "ddim", 10, "karras")


@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_chain_can_begin_later(spacing: str) -> None:
    """A chain that begins at t_start is that of a schedule that ends there. Catches a start that is off by one, and a
    chain that keeps the first steps of the long one."""
    short = FULL.respace(torch.arange(400))
    for sampler in ("ddpm", "heun", "ddpm_adjacent_posterior"):
        begun, whole = make_chain(FULL, sampler, 20, spacing, t_start=399), make_chain(short, sampler, 20, spacing)
        assert torch.equal(begun.timesteps, whole.timesteps) and torch.equal(begun.alpha_bar, whole.alpha_bar)
        assert torch.equal(begun.alpha_bar_prev, whole.alpha_bar_prev)
    assert len(make_chain(FULL, "ddpm", 400, "linspace", 399)) == 400
    for t_start, nfe, said in ((1000, 10, "0 ... T - 1 = 999"), (-1, 10, "0 ... T - 1"), (399, 401, "T = 400 steps")):
        with pytest.raises(ValueError, match=said):
            make_chain(FULL, "ddpm", nfe, spacing, t_start)


def test_make_chain_respaces_for_all_but_the_studys_sampler() -> None:
    """Catches the study's fault in other samplers, and a spacing that is ignored."""
    for sampler, spacing in ((s, p) for s in SAMPLERS for p in SPACINGS):
        positions = spaced_timesteps(1000, 25, spacing)
        chain = make_chain(FULL, sampler, 49 if sampler == "heun" else 25, spacing)
        assert torch.equal(chain.timesteps, positions)
        expected = FULL.alpha_bar_prev[positions] if "adjacent" in sampler else FULL.respace(positions).alpha_bar_prev
        assert torch.equal(chain.alpha_bar_prev, expected)


@every_sampler
def test_every_estimate_is_limited(sampler: str) -> None:
    """Each network estimate passes the limit once. Catches an estimate that is left unlimited."""
    estimated, seen = [], []

    def denoise(x: Tensor, t: int) -> Tensor:
        estimated.append(3 * x)
        return estimated[-1]

    def limit(x_0: Tensor) -> Tensor:
        seen.append(x_0)
        return x_0.clamp(-1, 1)

    chain, within = make_chain(FULL, sampler, 9), limited(denoise, limit)
    out = SAMPLERS[sampler].function(within, torch.ones(2), chain, lambda: torch.ones(2))
    assert len(seen) == len(estimated) == 9
    assert all(a is b for a, b in zip(seen, estimated, strict=True))
    assert not torch.allclose(out, SAMPLERS[sampler].function(denoise, torch.ones(2), chain, lambda: torch.ones(2)))


@pytest.mark.parametrize("sampler", DETERMINISTIC)
def test_deterministic_samplers_ask_for_no_noise(sampler: str) -> None:
    """Catches noise that is drawn and thrown away, which would shift later draws from the stream."""
    SAMPLERS[sampler].function(lambda x, t: 0.5 * x, torch.ones(2), make_chain(FULL, sampler, 10), no_noise)


@pytest.mark.parametrize("sampler", ["ddpm", "ddpm_large", "ddpm_adjacent_posterior"])
def test_ancestral_samplers_draw_noise_in_all_steps_but_the_last(sampler: str) -> None:
    """Catches noise drawn for the last step, and another step without noise."""
    drawn: list[int] = []

    def noise() -> Tensor:
        drawn.append(1)
        return torch.zeros(2)

    SAMPLERS[sampler].function(lambda x, t: 0.5 * x, torch.ones(2), make_chain(FULL, sampler, 10), noise)
    assert len(drawn) == 9


def test_clipping() -> None:
    """Catches another range than [-1, 1]."""
    assert clip_to_data(torch.tensor([-3.0, -1.0, 0.5, 1.5])).tolist() == [-1, -1, 0.5, 1]
    assert LIMITS["clip"] is clip_to_data
    assert LIMITS["dynamic"] is dynamic_threshold
    assert LIMITS["none"] is None


def test_dynamic_threshold_properties() -> None:
    """The result lies within [-1, 1] and is odd and monotone; each image has its own s, and s = 1 changes nothing.
    Catches s below 1, and one s for the batch."""
    inside = torch.linspace(-0.9, 0.9, 48).reshape(1, 3, 4, 4)
    assert torch.equal(dynamic_threshold(inside), inside)
    beyond = 4 * inside
    # s is the 99.5th percentile of 48 values, evenly spaced in pairs: it lies between the two largest
    s = beyond.abs().flatten().quantile(0.995).item()
    torch.testing.assert_close(dynamic_threshold(beyond), beyond.clamp(-s, s) / s)
    together = dynamic_threshold(torch.cat([inside, beyond]))
    assert torch.equal(together, torch.cat([dynamic_threshold(inside), dynamic_threshold(beyond)]))
    assert together.abs().max() == 1
    assert (dynamic_threshold(beyond).flatten().diff() >= 0).all()
    torch.testing.assert_close(dynamic_threshold(-beyond), -dynamic_threshold(beyond))
    # one pixel in a thousand exceeds the percentile: it is cut, and the rest stays
    outlier = torch.full((1, 1000), 0.5)
    outlier[0, 0] = 50.0
    assert dynamic_threshold(outlier).tolist()[0][:2] == [1.0, 0.5]


class _Halve(nn.Module):
    """A stand-in network that records the t it receives."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[int] = []

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (len(x),)
        assert (t == t[0]).all()
        self.told.append(int(t[0]))
        return 0.5 * x


def test_the_network_is_told_the_full_chains_t() -> None:
    """Catches a network that receives the position in the short chain."""
    model = _Halve()
    ddim(model_denoiser(model, FULL), torch.ones(1, 3, 2, 2), _chain(3), no_noise)
    assert model.told == [999, 500, 0]


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_the_networks_denoiser_reads_its_prediction(kind: str) -> None:
    """A network that predicts the truth gives x_0 back. Catches v read as eps, and alpha_bar at another t."""
    x_0, eps = seeded_noise((2, 3, 2, 2), 1)(), seeded_noise((2, 3, 2, 2), 2)()

    class Truth(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return target(kind, x_0, eps, FULL.alpha_bar[t])

    ab = FULL.alpha_bar[400]
    denoise = model_denoiser(Truth(), FULL, kind)
    torch.testing.assert_close(denoise(ab.sqrt() * x_0 + (1 - ab).sqrt() * eps, 400), x_0, rtol=0, atol=1e-12)


def _draw(
    sampler: str, batch_size: int, seed: int = 7, limit: Callable[[Tensor], Tensor] | None = clip_to_data
) -> Tensor:
    chain, denoise = make_chain(FULL, sampler, 5), model_denoiser(_Halve(), FULL)
    options = {"seed": seed, "shape": (3, 4, 4), "batch_size": batch_size, "device": CPU, "limit": limit}
    return torch.cat(list(draw(sampler, denoise, chain, 6, **options)))


@every_sampler
def test_images_do_not_depend_on_the_batch_size_or_the_global_stream(sampler: str) -> None:
    """Noise belongs to (seed, image). Catches one generator for a batch, and a reseeded global stream."""
    before = torch.get_rng_state()
    a, b = _draw(sampler, 6), _draw(sampler, 4)
    assert torch.equal(before, torch.get_rng_state())
    torch.testing.assert_close(a, b)
    assert torch.equal(a, _draw(sampler, 6))
    assert a.shape == (6, 3, 4, 4)
    assert a.dtype == torch.float32
    assert not torch.allclose(a, _draw(sampler, 6, seed=8))
    assert not torch.allclose(a[0], a[1])


def test_draw_uses_its_sampler_and_its_limit() -> None:
    """Catches an argument that has no effect."""
    images = [_draw(name, 6) for name in SAMPLERS]
    assert all(not torch.allclose(a, b) for i, a in enumerate(images) for b in images[:i])
    assert _draw("ddim", 6).abs().max() <= 1
    assert _draw("ddim", 6, limit=None).abs().max() > 1.5


def test_draw_leaves_its_caller_out_of_inference_mode() -> None:
    """A generator that yields inside inference mode would switch its caller's gradients off. Catches such a yield."""
    chain = make_chain(FULL, "ddim", 2)
    batches = draw("ddim", model_denoiser(_Halve(), FULL), chain, 4, seed=0, shape=(3, 4, 4), batch_size=2, device=CPU)
    next(batches)
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()


def test_image_noise_differs_between_seeds_and_images() -> None:
    """Streams of neighbouring (seed, i) must not be shifted copies of each other."""
    noise = torch.cat([ImageNoise(s, range(3), (50,), CPU)() for s in (0, 1)])
    correlation = torch.corrcoef(noise) - torch.eye(6)
    assert correlation.abs().max() < 0.6  # 50 values: 4 standard errors
