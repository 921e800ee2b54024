"""Checks schedules and spacings against published values, diffusers and the identities of respacing."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from torch import Tensor

from ddpm.diffusion.schedule import (
    SCHEDULES,
    Schedule,
    cosine_match_linear_betas,
    from_betas,
    linear_betas,
    make_schedule,
    spaced_timesteps,
    with_zero_terminal_snr,
)
from ddpm.names import SPACINGS

# name: diffusers' name and its beta_start, beta_end
THEIRS = {
    "linear": ("linear", 1e-4, 0.02),
    "scaled_linear": ("scaled_linear", 0.00085, 0.012),
    "sigmoid": ("sigmoid", 1e-4, 0.02),
    "cosine": ("squaredcos_cap_v2", 0.0, 0.0),
}
every_schedule = pytest.mark.parametrize("name", SCHEDULES)
every_spacing = pytest.mark.parametrize("spacing", SPACINGS)


@pytest.mark.parametrize(
    ("name", "last", "first_below_5"),
    # alpha_bar_T, and the first t (counted from 1) whose SNR is below 5
    [("linear", 4.0358297653756754e-05, 131), ("cosine", 2.4287669070348567e-09, 262)],
)
def test_published_values(name: str, last: float, first_below_5: int) -> None:
    """Catches an off-by-one in t, a wrong beta range, and another cosine offset."""
    schedule = make_schedule(name)
    assert schedule.alpha_bar[-1].item() == pytest.approx(last, rel=1e-5)
    assert int((schedule.snr < 5).nonzero()[0]) + 1 == first_below_5


@pytest.mark.parametrize("name", THEIRS)
def test_betas_equal_those_of_diffusers(name: str) -> None:
    """The betas agree within 80 float32 roundings. diffusers computes in float32, where about 10 roundings add up,
    depending on the processor. Catches a wrong range, a missing square or root, and cosine's index and cap."""
    kind, start, end = THEIRS[name]
    theirs = DDPMScheduler(beta_schedule=kind, beta_start=start, beta_end=end).betas.double()
    # cosine: theirs is the rounded float64 value, ours is 1 - ab / ab_prev with an absolute error of 2^-53
    torch.testing.assert_close(SCHEDULES[name](1000), theirs, rtol=5e-6, atol=1e-12)


def test_cosine_match_linear_has_the_sum_of_the_linear_betas() -> None:
    """The betas also have the cosine's shape. Catches an inverted ratio, or a match of something other than the sum."""
    betas = cosine_match_linear_betas(1000)
    assert betas.sum().item() == pytest.approx(linear_betas(1000).sum().item(), rel=1e-12)
    ratio = betas / SCHEDULES["cosine"](1000)
    torch.testing.assert_close(ratio, ratio[:1].expand(1000), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["linear", "sigmoid", "scaled_linear"])
def test_another_length_covers_the_same_noise(name: str) -> None:
    """log alpha_bar_T changes by less than 2 % from 1000 to 4000 steps. Catches betas that do not scale as 1 / T."""
    at_1000, at_4000 = (make_schedule(name, T).alpha_bar[-1].log().item() for T in (1000, 4000))
    assert at_4000 == pytest.approx(at_1000, rel=0.02)


@every_schedule
@pytest.mark.parametrize("zero", [False, True])
def test_every_schedule_is_a_chain(name: str, zero: bool) -> None:
    """alpha_bar falls within [0, 1), from nearly clean to nearly noise, in float64. Catches betas out of range."""
    schedule = make_schedule(name, zero_terminal_snr=zero)
    assert schedule.alpha_bar.dtype == torch.float64
    assert schedule.timesteps.tolist() == list(range(1000))
    assert (schedule.alpha_bar.diff() < 0).all()
    assert schedule.alpha_bar[0] > 0.999
    assert 0 <= schedule.alpha_bar[-1] < 0.01
    assert schedule.alpha_bar_prev[0] == 1
    assert torch.equal(schedule.alpha_bar_prev[1:], schedule.alpha_bar[:-1])


def test_snr_log_snr_and_beta_invert_alpha_bar() -> None:
    """Catches an inverted SNR, a log SNR with another factor or sign, and a beta from the wrong neighbour."""
    schedule = make_schedule("linear")
    torch.testing.assert_close(schedule.snr / (1 + schedule.snr), schedule.alpha_bar, rtol=1e-12, atol=0)
    torch.testing.assert_close(schedule.log_snr, schedule.snr.log(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(schedule.log_snr.sigmoid(), schedule.alpha_bar, rtol=1e-12, atol=0)
    torch.testing.assert_close(schedule.beta, linear_betas(1000), rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", THEIRS)
def test_zero_terminal_snr_against_diffusers(name: str) -> None:
    """Catches a rescaling of alpha_bar instead of its root, or at the wrong end."""
    schedule = make_schedule(name)
    ours = with_zero_terminal_snr(schedule)
    theirs = torch.cumprod(1 - rescale_zero_terminal_snr(schedule.beta), 0)  # float64 in, float64 out
    # theirs goes through betas: each of up to 1000 factors 1 - beta has a round-off of 2^-53
    torch.testing.assert_close(ours.alpha_bar, theirs, rtol=1e-10, atol=1e-15)


@every_schedule
def test_zero_terminal_snr_at_its_ends(name: str) -> None:
    """The last alpha_bar is exactly 0, the first is unchanged. Catches a shift that leaves a remainder or moves the
    clean end."""
    schedule = make_schedule(name)
    zero = make_schedule(name, zero_terminal_snr=True)
    assert zero.alpha_bar[-1] == 0
    assert zero.snr[-1] == 0
    assert zero.log_snr[-1] == -torch.inf
    assert zero.beta[-1] == 1
    # The square doubles the roundings of a root, a product and a quotient, and adds its own: 7 * 2^-53 = 0.8e-15.
    torch.testing.assert_close(zero.alpha_bar[0], schedule.alpha_bar[0], rtol=1e-15, atol=0)


@every_schedule
@every_spacing
@pytest.mark.parametrize("steps", [1, 7, 50, 1000])
def test_a_respaced_chain_keeps_the_marginals(name: str, spacing: str, steps: int) -> None:
    """The respaced betas multiply to the same alpha_bar. Catches the study's fault: betas of adjacent steps."""
    full = make_schedule(name)
    chain = full.respace(spaced_timesteps(1000, steps, spacing))
    assert len(chain) == steps
    torch.testing.assert_close(torch.cumprod(1 - chain.beta, 0), chain.alpha_bar, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(chain.alpha_bar, full.alpha_bar[chain.timesteps], rtol=0, atol=0)
    assert chain.alpha_bar_prev[0] == 1
    assert torch.equal(chain.alpha_bar_prev[1:], chain.alpha_bar[:-1])


def test_respacing_to_every_step_changes_nothing() -> None:
    """Catches a chain that loses its first or last step."""
    full = make_schedule("linear")
    assert _same(full.respace(torch.arange(1000)), full)


def test_respacing_twice_is_respacing_once() -> None:
    """Positions index the chain, timesteps name the original t. Catches a network that receives the position."""
    full = make_schedule("linear")
    first, second = torch.arange(5, 1000, 10), torch.tensor([0, 3, 50, 99])
    twice = full.respace(first).respace(second)
    assert twice.timesteps.tolist() == [5, 35, 505, 995]
    assert _same(twice, full.respace(first[second]))


def test_keep_adjacent_keeps_the_betas_of_the_full_chain() -> None:
    """Catches a silent fix of the study's fault, which this method demonstrates, and betas shifted by one."""
    full = make_schedule("linear")
    positions = spaced_timesteps(1000, 50)
    adjacent = full.keep_adjacent(positions)
    torch.testing.assert_close(adjacent.beta, full.beta[positions], rtol=0, atol=0)
    assert torch.equal(adjacent.alpha_bar, full.alpha_bar[positions])
    assert torch.equal(adjacent.timesteps, positions)
    assert (adjacent.beta[1:] < full.respace(positions).beta[1:]).all()
    assert _same(full.keep_adjacent(torch.arange(1000)), full)


@pytest.mark.parametrize("positions", [[], [3, 3], [5, 2], [-1, 4], [0, 1000]])
@pytest.mark.parametrize("method", ["respace", "keep_adjacent"])
def test_respacing_refuses_what_is_no_chain(method: str, positions: list[int]) -> None:
    """Catches negative positions that silently wrap around, and a stride of 0."""
    with pytest.raises(ValueError, match="increase strictly"):
        getattr(make_schedule("linear"), method)(torch.tensor(positions, dtype=torch.int64))


@every_spacing
@pytest.mark.parametrize("steps", [10, 50, 1000])
@pytest.mark.parametrize("peer", [DDPMScheduler, DDIMScheduler])
def test_spacings_equal_those_of_diffusers(peer: type, steps: int, spacing: str) -> None:
    """Reverses diffusers' order, which falls, and sets steps_offset = 0. Catches a stride or an end that is off by
    one."""
    scheduler = peer(timestep_spacing=spacing, steps_offset=0)
    scheduler.set_timesteps(steps)
    assert spaced_timesteps(1000, steps, spacing).tolist() == scheduler.timesteps.flip(0).tolist()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # NumPy warns in the constructor
@pytest.mark.parametrize("steps", [10, 50])
def test_dpm_solver_of_diffusers_spaces_one_step_more(steps: int) -> None:
    """Its N steps are our N + 1 without the cleanest; trailing agrees as it is. Catches its chain taken for ours."""
    for spacing in SPACINGS:
        scheduler = DPMSolverMultistepScheduler(timestep_spacing=spacing)
        scheduler.set_timesteps(steps)
        trailing = spacing == "trailing"
        ours = spaced_timesteps(1000, steps if trailing else steps + 1, spacing)[0 if trailing else 1 :]
        assert ours.tolist() == scheduler.timesteps.flip(0).tolist()


@every_spacing
def test_every_number_of_steps_is_a_chain(spacing: str) -> None:
    """Catches rounding that repeats a timestep or leaves 0 ... T-1, and wrong ends for the spacing.

    With one step, linspace and trailing take T-1, and leading takes 0 (diffusers' linspace takes 0, from which nothing
    can be drawn). If a timestep falls on a half, rounding may put it one away from diffusers'. diffusers' trailing
    sometimes makes one step too many (62 for 61).
    """
    for steps in range(1, 1001):
        t = spaced_timesteps(1000, steps, spacing)
        assert len(t) == steps
        assert t.dtype == torch.int64
        assert t[0] >= 0
        assert t[-1] <= 999
        assert (t.diff() > 0).all()
        if spacing != "leading":
            assert t[-1] == 999
        if spacing == "leading" or (spacing == "linspace" and steps > 1):
            assert t[0] == 0
        if steps > 1:
            stride = {"linspace": 999 / (steps - 1), "leading": 1000 // steps, "trailing": 1000 / steps}[spacing]
            assert (t.diff() - stride).abs().max() < 1


@every_spacing
@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_steps_outside_the_chain(steps: int, spacing: str) -> None:
    """Catches an empty chain, and a chain longer than the schedule."""
    with pytest.raises(ValueError, match="T = 1000 steps"):
        spaced_timesteps(1000, steps, spacing)


def test_an_unknown_spacing() -> None:
    """Catches a silent default."""
    with pytest.raises(ValueError, match="linspace, leading, trailing"):
        spaced_timesteps(1000, 10, "karras")


@pytest.mark.parametrize("betas", [[0.1, 1.0], [0.1, 2.0], [0.0, 0.1], [-0.1, 0.1], [0.1, float("nan")]])
def test_betas_out_of_range(betas: list[float]) -> None:
    """Catches a negative alpha_bar, which the linear betas of a 10-step chain would give."""
    with pytest.raises(ValueError, match="within"):
        from_betas(torch.tensor(betas))
    with pytest.raises(ValueError, match="10 steps"):
        make_schedule("linear", 10)


def test_a_chain_from_given_betas() -> None:
    """alpha_bar = (0.9, 0.72, 0.36) by hand, in float64 from float32 betas. Catches a product that starts at the wrong
    beta."""
    schedule = from_betas(torch.tensor([0.1, 0.2, 0.5]))
    assert schedule.alpha_bar.dtype == torch.float64
    torch.testing.assert_close(schedule.alpha_bar, _f64(0.9, 0.72, 0.36), rtol=1e-7, atol=0)
    torch.testing.assert_close(schedule.alpha_bar_prev, _f64(1, 0.9, 0.72), rtol=1e-7, atol=0)
    torch.testing.assert_close(schedule.snr, _f64(9, 0.72 / 0.28, 0.5625), rtol=1e-6, atol=0)


def _f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _same(a: Schedule, b: Schedule) -> bool:
    return (
        torch.equal(a.timesteps, b.timesteps)
        and torch.equal(a.alpha_bar, b.alpha_bar)
        and torch.equal(a.alpha_bar_prev, b.alpha_bar_prev)
    )
