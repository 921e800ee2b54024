"""Weightings: the same objective in three spaces, and each weighting's closed form."""

import math

import pytest
import torch
from torch import Tensor

from ddpm.diffusion.prediction import add_noise, eps_from_x0, target, to_x0
from ddpm.diffusion.schedule import SCHEDULES, Schedule, make_schedule
from ddpm.diffusion.weighting import make_weighting, squared_error, weights
from ddpm.names import PREDICTIONS, WEIGHTINGS
from tests.analytic import seeded_noise

every_weighting = pytest.mark.parametrize("name", WEIGHTINGS)


def _at(*snr: float) -> Schedule:
    """A schedule with the given SNRs, which must fall."""
    ab = torch.tensor(snr, dtype=torch.float64)
    ab = ab / (1 + ab)
    return Schedule(torch.arange(len(ab)), ab, torch.cat([ab.new_ones(1), ab[:-1]]))


@every_weighting
@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("schedule_name", ["linear", "cosine"])
def test_weighted_errors_agree_in_all_spaces(name: str, kind: str, schedule_name: str) -> None:
    """w_eps |d eps|^2 = w_x0 |d x_0|^2 = w_v |d v|^2 for any error in any space, at every t.

    Catches a weighting in the wrong space, and SNR in place of SNR + 1.
    """
    schedule = make_schedule(schedule_name)
    ab = schedule.alpha_bar
    x_0, eps, error = (seeded_noise((1000, 2, 2, 2), seed)() for seed in range(3))
    x_t = add_noise(x_0, eps, ab)
    wrong = target(kind, x_0, eps, ab) + 0.1 * error
    x_0_hat = to_x0(kind, wrong, x_t, ab)
    eps_hat = wrong if kind == "eps" else eps_from_x0(x_t, x_0_hat, ab)
    v, v_hat = target("v", x_0, eps, ab), target("v", x_0_hat, eps_hat, ab)
    weighting = make_weighting(name)
    in_x0 = weights(weighting, schedule, "x0") * squared_error(x_0_hat, x_0)
    in_eps = weights(weighting, schedule, "eps") * squared_error(eps_hat, eps)
    in_v = weights(weighting, schedule, "v") * squared_error(v_hat, v)
    torch.testing.assert_close(in_eps, in_x0, rtol=1e-9, atol=0)
    torch.testing.assert_close(in_v, in_x0, rtol=1e-9, atol=0)


# w_x0 at SNR = 20, 5, 1, 0.25, with gamma = 5, k = 1 and p2's gamma = 1.
CLOSED = {
    "constant": (20, 5, 1, 0.25),
    "snr": (20, 5, 1, 0.25),
    "minsnr": (5, 5, 1, 0.25),
    # minsnr / mean(0.25, 1, 1, 1)
    "minsnr_norm": (5 / 0.8125, 5 / 0.8125, 1 / 0.8125, 0.25 / 0.8125),
    "soft_minsnr": (4, 2.5, 5 / 6, 1.25 / 5.25),
    "truncated_snr": (20, 5, 1, 1),
    "p2": (20 / 21, 5 / 6, 1 / 2, 0.2),
}


@every_weighting
def test_closed_forms(name: str) -> None:
    """Computed by hand in the three spaces. Catches min for max, a misplaced gamma or k, and a weighting without a
    test."""
    assert name in CLOSED, f"{name} has no line in CLOSED of {__file__}: its w_x0 at SNR = 20, 5, 1, 0.25, by hand"
    schedule, snr = _at(20, 5, 1, 0.25), torch.tensor([20, 5, 1, 0.25], dtype=torch.float64)
    w_x0 = torch.tensor(CLOSED[name], dtype=torch.float64)
    weighting = make_weighting(name)
    for kind, expected in (("x0", w_x0), ("eps", w_x0 / snr), ("v", w_x0 / (snr + 1))):
        torch.testing.assert_close(weights(weighting, schedule, kind), expected, rtol=1e-12, atol=0)


def test_the_parameters_of_minsnr_and_p2() -> None:
    """At SNR 3: min(3, 2), 6/5, and 3 / (0.5 + 3)^2. Catches a parameter that is ignored, or k and gamma swapped."""
    for name, expected in (("minsnr", 2), ("soft_minsnr", 6 / 5), ("p2", 3 / 3.5**2)):
        weighting = make_weighting(name, minsnr_gamma=2.0, p2_k=0.5, p2_gamma=2.0)
        assert weights(weighting, _at(3), "x0").item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("gamma", [1.0, 5.0, 20.0])
def test_minsnr_norm_has_mean_one(schedule: str, zero: bool, gamma: float) -> None:
    """It has Min-SNR's shape and mean 1 over the schedule. Catches the mean of w_x0 taken for the mean of w_eps."""
    chain = make_schedule(schedule, zero_terminal_snr=zero)
    w = weights(make_weighting("minsnr_norm", gamma), chain)
    assert w.mean().item() == pytest.approx(1, rel=1e-13)
    ratio = w / weights(make_weighting("minsnr", gamma), chain)
    torch.testing.assert_close(ratio, ratio[:1].expand(1000), rtol=1e-12, atol=0)


def test_soft_minsnr_lies_below_minsnr_and_meets_it_at_both_ends() -> None:
    """At SNR = gamma it is half of Min-SNR. Catches a sum of SNR and gamma in place of the sum of their inverses."""
    schedule = _at(5e7, 500, 5, 0.05, 5e-7)
    soft, hard = (weights(make_weighting(name), schedule, "x0") for name in ("soft_minsnr", "minsnr"))
    assert (soft < hard).all()
    assert soft[2] / hard[2] == pytest.approx(0.5, rel=1e-12)
    assert soft[0] / hard[0] == pytest.approx(1, abs=1e-6)
    assert soft[-1] / hard[-1] == pytest.approx(1, abs=1e-6)


def test_minsnr_matches_the_original_study() -> None:
    """The study's logged curve is 5.00133e-4 at the first t, 1 from the 131st, mean 0.9130731. Catches a misplaced
    gamma."""
    w = weights(make_weighting("minsnr", 5.0), make_schedule("linear"))
    # The study used float32: its 1 - alpha_bar at the first t (1e-4) has a relative error up to 6e-4.
    assert w[0].item() == pytest.approx(0.000500132970046252, rel=6e-4)
    assert w.mean().item() == pytest.approx(0.9130731603326858, rel=1e-6)
    assert (w[:130] < 1).all()
    assert (w[130:] == 1).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", ["constant", "snr"])
def test_constant_weights_are_exactly_one(name: str, schedule: str) -> None:
    """The trained loss is then bitwise the unweighted one, and the probe measures it once. Catches round-off."""
    for zero in (False, True):
        assert (weights(make_weighting(name), make_schedule(schedule, zero_terminal_snr=zero)) == 1).all()


@every_weighting
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_weights_are_finite_at_zero_terminal_snr(name: str, kind: str) -> None:
    """Weights are finite and not negative, and reach their limits at SNR = 0. Catches 0 / 0 in w_x0 / SNR.

    There truncated_snr weights x_0 by 1 and eps by 1 / SNR. That is huge, but an eps-prediction gives no x_0 there.
    """
    schedule = make_schedule("linear", zero_terminal_snr=True)
    w = weights(make_weighting(name), schedule, kind)
    assert w.isfinite().all()
    assert (w >= 0).all()
    limit = {
        "constant": {"eps": 1.0, "x0": 0.0, "v": 0.0},
        "minsnr_norm": {"eps": w[-2].item(), "x0": 0.0, "v": 0.0},
        "truncated_snr": {"eps": 1e20, "x0": 1.0, "v": 1.0},
    }.get(name, {"eps": 1.0, "x0": 0.0, "v": 0.0})
    assert w[-1].item() == pytest.approx(limit[kind], rel=1e-12, abs=1e-15)


def test_squared_error_is_the_mean_over_one_image() -> None:
    """Catches a mean over the batch, a sum, a missing square, and float16 outputs squared in float16."""
    expected = torch.zeros(2, 3, 4, 4)
    output = expected.clone()
    output[0, 0] = 2.0
    assert squared_error(output, expected).tolist() == [pytest.approx(4 / 3), 0.0]
    large: Tensor = squared_error(torch.full((1, 3, 4, 4), 1000.0, dtype=torch.float16), torch.zeros(1, 3, 4, 4))
    assert large.dtype == torch.float32
    assert large.item() == pytest.approx(1e6)
    assert math.isfinite(large.item())
