"""eps, x_0 and v: each conversion inverts the others, and reports if a value cannot be recovered."""

import math

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from ddpm.diffusion.prediction import (
    add_noise,
    eps_from_x0,
    target,
    to_x0,
    v_from,
    x0_from_eps,
    x0_from_v,
)
from ddpm.diffusion.schedule import SCHEDULES, make_schedule
from ddpm.names import PREDICTIONS
from tests.analytic import seeded_noise

SHAPE = (1000, 3, 2, 2)
ZERO, ONE = torch.tensor(0.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
every_prediction = pytest.mark.parametrize("kind", PREDICTIONS)


def _draw() -> tuple[Tensor, Tensor]:
    return seeded_noise(SHAPE, 0)(), seeded_noise(SHAPE, 1)()


def _per_image(value: Tensor) -> Tensor:
    return value.reshape(-1, 1, 1, 1)


def _close(a: Tensor, b: Tensor, ab: Tensor, divisor: Tensor) -> None:
    """Equal to round-off: 16 units of 2^-53 times values below 10, divided by the conversion's divisor."""
    allowed = 16 * 10 * 2.0**-53 / _per_image(divisor)
    assert ((a - b).abs() <= allowed).all(), ((a - b).abs() / allowed).max()


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("zero", [False, True])
def test_conversions_invert_at_every_t(name: str, zero: bool) -> None:
    """Checks all 1000 t in float64 with their own error bounds. Catches swapped roots of alpha_bar and 1 -
    alpha_bar."""
    x_0, eps = _draw()
    ab = make_schedule(name, zero_terminal_snr=zero).alpha_bar
    x_t, v = add_noise(x_0, eps, ab), v_from(x_0, eps, ab)
    signal, noise = ab.sqrt(), (1 - ab).sqrt()
    _close(x0_from_v(x_t, v, ab), x_0, ab, torch.ones_like(ab))
    _close(eps_from_x0(x_t, x_0, ab), eps, ab, noise)
    known = slice(None, -1) if zero else slice(None)  # at alpha_bar = 0 eps does not determine x_0
    _close(x0_from_eps(x_t, eps, ab)[known], x_0[known], ab[known], signal[known])


@every_prediction
def test_target_then_back(kind: str) -> None:
    """A perfect prediction gives x_0 and eps back. Catches a target of one kind that is read as another."""
    x_0, eps = _draw()
    ab = make_schedule("linear").alpha_bar
    x_t, told = add_noise(x_0, eps, ab), target(kind, x_0, eps, ab)
    x_0_hat = to_x0(kind, told, x_t, ab)
    torch.testing.assert_close(x_0_hat, x_0, rtol=0, atol=1e-11)
    torch.testing.assert_close(eps_from_x0(x_t, x_0_hat, ab), eps, rtol=0, atol=1e-11)


@every_prediction
def test_any_output_is_the_target_of_its_own_x_0_and_eps(kind: str) -> None:
    """x_0 follows from the output, eps from x_0 and x_t. Catches conversions that hold only for the true output."""
    x_0, eps = _draw()
    ab = make_schedule("linear").alpha_bar
    x_t, output = add_noise(x_0, eps, ab), seeded_noise(SHAPE, 2)()
    x_0_hat = to_x0(kind, output, x_t, ab)
    again = target(kind, x_0_hat, eps_from_x0(x_t, x_0_hat, ab), ab)
    torch.testing.assert_close(again, output, rtol=0, atol=1e-11)


@every_prediction
def test_a_target_in_closed_form(kind: str) -> None:
    """x_0 = 2, eps = 3, alpha_bar = 0.36: x_t = 3.6, v = 0.6 * 3 - 0.8 * 2 = 0.2. Catches the sign of v."""
    x_0, eps, ab = (torch.tensor(value, dtype=torch.float64) for value in (2.0, 3.0, 0.36))
    assert add_noise(x_0, eps, ab).item() == pytest.approx(3.6, rel=1e-14)
    assert target(kind, x_0, eps, ab).item() == pytest.approx({"eps": 3.0, "x0": 2.0, "v": 0.2}[kind], rel=1e-13)


def test_mixing_and_v_are_those_of_diffusers() -> None:
    """diffusers gets our alpha_bar, because its own tables are float32. Catches another convention for v."""
    peer = DDPMScheduler()
    ab = make_schedule("linear").alpha_bar
    peer.alphas_cumprod = ab
    x_0, eps = _draw()
    t = torch.arange(1000)
    torch.testing.assert_close(add_noise(x_0, eps, ab), peer.add_noise(x_0, eps, t), rtol=0, atol=1e-14)
    torch.testing.assert_close(v_from(x_0, eps, ab), peer.get_velocity(x_0, eps, t), rtol=0, atol=1e-14)


def test_pure_noise() -> None:
    """At alpha_bar = 0, x_t = eps and v = -x_0. Outputs v and x0 determine x_0; eps does not. Catches a silent inf."""
    x_0, eps = (x[:3] for x in _draw())
    x_t, v = add_noise(x_0, eps, ZERO), v_from(x_0, eps, ZERO)
    assert torch.equal(x_t, eps)
    assert torch.equal(v, -x_0)
    assert torch.equal(to_x0("v", v, x_t, ZERO), x_0)
    assert torch.equal(to_x0("x0", x_0, x_t, ZERO), x_0)
    assert torch.equal(eps_from_x0(x_t, x_0, ZERO), eps)
    with pytest.raises(ValueError, match="alpha_bar = 0"):
        to_x0("eps", eps, x_t, ZERO)
    assert not to_x0("eps", eps, x_t, ZERO.expand(3)).isfinite().any()


def test_clean_data() -> None:
    """At alpha_bar = 1, x_t = x_0 and v = eps. Outputs v and eps determine eps; x_0 does not. Catches a silent inf."""
    x_0, eps = (x[:3] for x in _draw())
    x_t, v = add_noise(x_0, eps, ONE), v_from(x_0, eps, ONE)
    assert torch.equal(x_t, x_0)
    assert torch.equal(v, eps)
    for kind, output in (("v", v), ("x0", x_0), ("eps", eps)):
        assert torch.equal(to_x0(kind, output, x_t, ONE), x_0)
    with pytest.raises(ValueError, match="alpha_bar = 1"):
        eps_from_x0(x_t, x_0, ONE)
    assert not eps_from_x0(x_t, x_0, ONE.expand(3)).isfinite().any()


def test_a_scalar_alpha_bar_means_the_same_as_a_batch_of_it() -> None:
    """Catches a batch broadcast along the wrong axis (here the batch size equals the image width)."""
    x_0, eps = (x.reshape(-1, 3, 4, 4)[:4] for x in _draw())
    ab = torch.tensor(0.3, dtype=torch.float64)
    for mix in (add_noise, v_from, x0_from_eps, eps_from_x0, x0_from_v):
        assert torch.equal(mix(x_0, eps, ab), mix(x_0, eps, ab.expand(4)))
        several = torch.tensor([0.1, 0.3, 0.5, 0.7], dtype=torch.float64)
        assert torch.equal(mix(x_0, eps, several)[2], mix(x_0[2], eps[2], several[2]))


def test_float32_images_stay_float32_with_roots_in_float64() -> None:
    """At alpha_bar = 1 - 1e-9, 1 - alpha_bar is 0 in float32. Catches a cast before the root."""
    x_0, eps = (x.float()[:2] for x in _draw())
    ab = torch.tensor(1 - 1e-9, dtype=torch.float64)
    x_t = add_noise(torch.zeros_like(x_0), eps, ab)
    assert x_t.dtype == torch.float32
    torch.testing.assert_close(x_t, math.sqrt(1e-9) * eps, rtol=1e-6, atol=0)


def test_an_unknown_prediction() -> None:
    """Catches a silent default to eps."""
    x_0, eps = (x[:2] for x in _draw())
    for convert in (target, to_x0):
        with pytest.raises(KeyError):
            convert("score", x_0, eps, torch.tensor(0.5))
