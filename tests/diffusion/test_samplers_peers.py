"""Our samplers beside diffusers': the same model outputs and noise must give the same x_t at every step.

The network is a smooth function of x_t and t. diffusers keeps its tables in float32, so each comparison runs twice:

- `float64`: with our alpha_bar in place of its table. Both start from one x_T and then use their own x_t, so a
  difference in any step stays and grows. They agree to 1e-9: the formulas are the same.
- `theirs`: with its own tables, each step from our x_t. They agree to 1e-5, plus the table's own error: an alpha_bar
  near 1 is off by about 2^-24, which is a share 2^-24 / (1 - alpha_bar) of the noise variance. The tolerance adds this
  share: it is 6e-4 at t = 0 and below 1e-6 from t = 74.

The conventions differ in these points:

- Last step of DDPM. diffusers adds noise if t > 0, ours in all steps but the last. Trailing spacing ends at t > 0:
  there fixed_large adds noise to the final image (a separate test shows it; the comparison leaves it out), while
  fixed_small's variance of 0 is clamped to 1e-20. (Its `fixed_small_log` is the same std; `fixed_large_log` is not.)
- Next timestep of DDIM. diffusers goes from t to t - T // steps for every spacing, ours to the chain's next timestep.
  The two differ on linspace with fewer than T steps; there ours gets diffusers' alpha_bar_prev. DDPM has no such gap.
- `set_alpha_to_one=True` (its default) is our convention: DDIM's last step goes to alpha_bar = 1, clean data.
- Clipping in DDIM: ours takes eps from the clipped x_0, diffusers only with `use_clipped_model_output=True`.
- DPMSolverMultistep spaces steps + 1 timesteps and leaves out the cleanest on linspace and leading; here it gets our
  timesteps. Its last step goes to sigma = 0 at first order (`final_sigmas_type="zero"`), as ours does; at order 2
  `lower_order_final` then changes nothing. It rounds x_t to float32 in every step, so the comparison is always step
  by step, at 1e-5. It has no clipping, but thresholding with `sample_max_value=1` does the same.
- HeunDiscrete works on x_t / sqrt(alpha_bar) and steps once per call: every second x_t is ours.
"""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, HeunDiscreteScheduler
from torch import Tensor, nn

from ddpm.diffusion.samplers import LIMITS, ddim, ddpm, dpmpp_2m, dynamic_threshold, heun, limited, model_denoiser
from ddpm.diffusion.schedule import Schedule, make_schedule, spaced_timesteps
from ddpm.names import PREDICTIONS, SPACINGS
from tests.analytic import no_noise, seeded_noise, states_of

FULL = make_schedule("linear")
SHAPE = (2, 3, 4, 4)
CLOSE = 1e-9
THEIR_NAMES = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
CASES = [
    *product((10, 50), SPACINGS, ("none", "clip"), ("float64", "theirs")),
    # at 1000 steps every spacing gives the full chain
    (1000, "linspace", "clip", "float64"),
    (1000, "linspace", "none", "theirs"),
]
cases = pytest.mark.parametrize(("steps", "spacing", "limit", "table"), CASES)
# NumPy warns in the schedulers' constructors
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class _Net(nn.Module):
    """A smooth stand-in network: v = 0.8 sin(2 x_t + t / 100), predicted as v or as the eps or x_0 it implies."""

    def __init__(self, prediction: str) -> None:
        super().__init__()
        self.prediction = prediction

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        ab = FULL.alpha_bar[t].reshape(-1, 1, 1, 1)
        v = 0.8 * torch.sin(2 * x_t + t.reshape(-1, 1, 1, 1) / 100)
        if self.prediction == "v":
            return v
        if self.prediction == "eps":
            return (1 - ab).sqrt() * x_t + ab.sqrt() * v
        return ab.sqrt() * x_t - (1 - ab).sqrt() * v


def _start() -> Tensor:
    return seeded_noise(SHAPE, 1)()


def _chain(steps: int, spacing: str) -> Schedule:
    return FULL.respace(spaced_timesteps(1000, steps, spacing))


def _ours(sampler: Callable[..., Tensor], chain: Schedule, prediction: str, limit: str = "none") -> list[Tensor]:
    """Our x_t after each step."""
    denoise = limited(model_denoiser(_Net(prediction), FULL, prediction), LIMITS[limit])
    return states_of(sampler, denoise, _start(), chain, seeded_noise(SHAPE, 2))


def _theirs(scheduler: Any, prediction: str, along: list[Tensor] | None = None, **step: Any) -> list[Tensor]:
    """diffusers' x_t after each step, for a scheduler with its timesteps set. If `along` is given, each step starts
    from it."""
    net, x = _Net(prediction), _start()
    states: list[Tensor] = []
    for i, t in enumerate(scheduler.timesteps):
        states.append(scheduler.step(net(x, t.expand(len(x))), t, x, return_dict=False, **step)[0])
        x = along[i] if along else states[-1]
    return states


def _agree(ours: list[Tensor], theirs: list[Tensor], tolerance: Tensor) -> None:
    """The states are equal at every step, each within its own tolerance."""
    assert len(ours) == len(theirs) == len(tolerance) > 0
    worst = (torch.stack(ours) - torch.stack(theirs)).abs().flatten(1).amax(1)
    assert (worst <= tolerance).all(), f"off by {worst.tolist()}, allowed {tolerance.tolist()}"


def _stepwise(chain: Schedule) -> Tensor:
    """Each step's tolerance with their float32 tables: 1e-5 plus the error from the smaller noise variance in the
    step."""
    noise = torch.minimum(1 - chain.alpha_bar, (1 - chain.alpha_bar_prev).where(chain.alpha_bar_prev < 1, 1.0))
    return (1e-5 + 2.0**-24 / noise).flip(0)


def _sigmas(chain: Schedule) -> Tensor:
    return ((1 - chain.alpha_bar) / chain.alpha_bar).sqrt().flip(0)


def _compare(
    peer: Any, ours: list[Tensor], chain: Schedule, table: str, prediction: str = "eps", leave_out: int = 0, **step: Any
) -> None:
    if table == "float64":
        peer.alphas_cumprod = FULL.alpha_bar
        theirs, tolerance = _theirs(peer, prediction, **step), torch.full((len(ours),), CLOSE)
    else:
        theirs, tolerance = _theirs(peer, prediction, ours, **step), _stepwise(chain)
    compared = len(ours) - leave_out
    _agree(ours[:compared], theirs[:compared], tolerance[:compared])


@cases
@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm(variance: str, steps: int, spacing: str, limit: str, table: str) -> None:
    """Catches a wrong posterior mean or variance, a variance for its root, and a posterior with the wrong stride."""
    peer = DDPMScheduler(variance_type=f"fixed_{variance}", timestep_spacing=spacing, clip_sample=limit == "clip")
    peer.set_timesteps(steps)
    chain = _chain(steps, spacing)
    ours = _ours(partial(ddpm, variance=variance), chain, "eps", limit)
    last = int(variance == "large" and spacing == "trailing")  # see the next test
    _compare(peer, ours, chain, table, leave_out=last, generator=torch.Generator().manual_seed(2))


def test_ddpm_large_ends_without_noise() -> None:
    """With trailing spacing, diffusers adds noise of std sqrt(1 - alpha_bar) to the final image. Catches ours doing
    so."""
    chain = _chain(10, "trailing")
    peer = DDPMScheduler(variance_type="fixed_large", timestep_spacing="trailing", clip_sample=False)
    peer.set_timesteps(10)
    ours = _ours(partial(ddpm, variance="large"), chain, "eps")
    theirs = _theirs(peer, "eps", ours, generator=torch.Generator().manual_seed(2))
    noise = (theirs[-1] - ours[-1]) / (1 - chain.alpha_bar[0]).sqrt()
    assert noise.std().item() == pytest.approx(1, abs=0.3)  # 96 values: 4 standard errors


@pytest.mark.parametrize(
    ("steps", "spacing", "limit", "table", "eta"),
    [
        (*case, eta)
        for case, eta in product(CASES, (0.0, 0.5, 1.0))  # at 1000 steps, one table each to save time
        if case[0] < 1000 or (case[3] == "float64") == (eta != 0.5)
    ],
)
def test_ddim(steps: int, spacing: str, limit: str, table: str, eta: float) -> None:
    """Catches a wrong share of eps beside eta's noise, and an eps left unchanged although x_0 was clipped."""
    peer = DDIMScheduler(timestep_spacing=spacing, clip_sample=limit == "clip")
    peer.set_timesteps(steps)
    chain = _chain(steps, spacing)
    if spacing == "linspace":
        after = chain.timesteps - 1000 // steps
        chain = Schedule(chain.timesteps, chain.alpha_bar, FULL.alpha_bar[after.clamp(min=0)].where(after >= 0, 1.0))
    ours = _ours(partial(ddim, eta=eta), chain, "eps", limit)
    step = {"eta": eta, "use_clipped_model_output": True, "generator": torch.Generator().manual_seed(2)}
    _compare(peer, ours, chain, table, **step)


@cases
def test_dpmpp_2m(steps: int, spacing: str, limit: str, table: str) -> None:
    """Catches an inverted h / h_last, a lost 1/2, a wrong sign in the exponent, and another order in the first or last
    step."""
    chain = _chain(steps, spacing)
    peer = DPMSolverMultistepScheduler(thresholding=limit == "clip", sample_max_value=1.0, final_sigmas_type="zero")
    peer.set_timesteps(timesteps=chain.timesteps.flip(0).tolist())
    tolerance = _stepwise(chain)
    if table == "float64":
        peer.sigmas = torch.cat([_sigmas(chain), torch.zeros(1)])
        tolerance = torch.full((steps,), 1e-5)
    ours = _ours(dpmpp_2m, chain, "eps", limit)
    _agree(ours, _theirs(peer, "eps", ours), tolerance)


@pytest.mark.parametrize(("steps", "spacing", "limit"), [case[:3] for case in CASES if case[3] == "float64"])
def test_heun(steps: int, spacing: str, limit: str) -> None:
    """Catches one slope taken twice, a step in the wrong variable, and a network that receives t from the wrong end."""
    chain = _chain(steps, spacing)
    peer = HeunDiscreteScheduler(beta_start=1e-4, beta_end=0.02, clip_sample=limit == "clip")
    peer.set_timesteps(timesteps=chain.timesteps.flip(0).tolist())
    sigmas = _sigmas(chain)
    peer.sigmas = torch.cat([sigmas[:1], sigmas[1:].repeat_interleave(2), torch.zeros(1)])
    net, theirs = _Net("eps"), []
    y = _start() / chain.alpha_bar[-1].sqrt()
    for call, t in enumerate(peer.timesteps):
        alpha = FULL.alpha_bar[t.long()].sqrt()
        y = peer.step(net(alpha * y, t.long().expand(len(y))), t, y, return_dict=False)[0]
        if call % 2:  # both slopes are included: this is the state at t
            theirs.append(alpha * y)
    assert len(peer.timesteps) == 2 * steps - 1
    _agree(_ours(heun, chain, "eps", limit), [*theirs, y], torch.full((steps,), CLOSE))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_predictions(sampler: str, prediction: str) -> None:
    """x0 and v networks agree with diffusers' own conversions. Catches a wrong sign or a swapped root in one of
    them."""
    make, function = {"ddpm": (DDPMScheduler, ddpm), "ddim": (DDIMScheduler, ddim)}[sampler]
    peer = make(prediction_type=THEIR_NAMES[prediction], timestep_spacing="trailing", clip_sample=True)
    peer.set_timesteps(10)
    step: dict[str, Any] = {"generator": torch.Generator().manual_seed(2)}
    if sampler == "ddim":
        step["use_clipped_model_output"] = True
    chain = _chain(10, "trailing")
    _compare(peer, _ours(function, chain, prediction, "clip"), chain, "float64", prediction, **step)


@pytest.mark.parametrize("scale", [0.2, 1.0, 3.0])
def test_dynamic_threshold(scale: float) -> None:
    """Catches another percentile, one percentile over the whole batch, and a missing division by s."""
    x_0 = scale * torch.stack([seeded_noise((3, 8, 8), i)() * (i + 1) for i in range(3)])
    theirs = DDPMScheduler(thresholding=True, sample_max_value=float("inf"))._threshold_sample(x_0)
    torch.testing.assert_close(dynamic_threshold(x_0), theirs, rtol=1e-12, atol=0)


def test_the_stand_in_is_no_trivial_network() -> None:
    """Catches comparisons that prove nothing: x_0 must leave [-1, 1], so that clipping acts, and be nonlinear in
    x_t."""
    extremes: list[float] = []
    denoise = model_denoiser(_Net("eps"), FULL)

    def recorded(x_t: Tensor, t: int) -> Tensor:
        x_0 = denoise(x_t, t)
        extremes.append(x_0.abs().max().item())
        return x_0

    ddim(recorded, _start(), _chain(10, "linspace"), no_noise)
    assert max(extremes) > 1.2
    assert not torch.allclose(denoise(2 * _start(), 500), 2 * denoise(_start(), 500), atol=0.1)
