"""Hutchinson's estimate against exact Hessians."""

import itertools

import pytest
import torch
from torch import nn

from ddpm.curvature import TraceEstimate, _quadratic_form, hutchinson_trace


def _net() -> tuple[list[torch.Tensor], torch.Tensor]:
    """A tiny two-layer net in float64 (11 parameters) and its dense Hessian."""
    torch.manual_seed(0)
    x, y = torch.randn(6, 2).double(), torch.randn(6, 1).double()

    def loss(flat: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(x @ flat[:6].reshape(2, 3) + flat[6:9][None, :1])
        return ((hidden @ flat[6:9].reshape(3, 1) + flat[9] - y) ** 2).mean() * (1 + flat[10] ** 2)

    flat = torch.randn(11).double()
    return [flat.clone().requires_grad_()], torch.autograd.functional.hessian(loss, flat), loss  # type: ignore[return-value]


def test_all_sign_vectors_give_the_trace_exactly() -> None:
    """The mean over all 2^n vectors is tr H, and their variance 2 (|H|_F^2 - sum H_ii^2).

    Catches a transposed product, a dropped factor and a gradient in place of a Hessian.
    """
    params, hessian, loss = _net()  # type: ignore[misc]
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=11))).double()
    values = torch.tensor([_quadratic_form(loss(params[0]), params, [v]) for v in signs], dtype=torch.float64)
    assert values.mean().item() == pytest.approx(hessian.trace().item(), rel=1e-10)
    variance = 2 * (hessian.square().sum() - hessian.diagonal().square().sum()).item()
    assert values.var(correction=0).item() == pytest.approx(variance, rel=1e-10)


def test_estimates_of_scaled_losses_share_their_draws() -> None:
    """Each loss gets its own trace from the same v. Catches mixing the columns, or fresh v for each loss."""
    params, hessian, loss = _net()  # type: ignore[misc]
    rng = torch.Generator().manual_seed(0)
    one, three = hutchinson_trace(lambda: torch.stack([loss(params[0]), 3 * loss(params[0])]), params, 400, rng)
    torch.testing.assert_close(three.values, 3 * one.values, rtol=1e-10, atol=0)
    assert abs(one.mean - hessian.trace().item()) < 4 * one.sem
    assert one.std > 0


def test_statistics_of_the_estimate() -> None:
    """Population std, and a standard error with n - 1."""
    estimate = TraceEstimate(torch.tensor([1.0, 2.0, 3.0, 6.0]).double())
    assert estimate.mean == 3
    assert estimate.std == pytest.approx((14 / 4) ** 0.5)
    assert estimate.sem == pytest.approx((14 / 3) ** 0.5 / 2)


def test_nothing_but_its_generator_moves() -> None:
    """Gradients, parameters and the global stream stay bitwise. The study's probe cleared the gradients."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    x = torch.randn(5, 3)
    model(x).square().mean().backward()
    params = list(model.parameters())
    grads, values, stream = (
        [p.grad.clone() for p in params],
        [p.clone() for p in params],
        torch.get_rng_state(),
    )
    hutchinson_trace(lambda: model(x).square().mean()[None], params, 3, torch.Generator().manual_seed(0))
    assert all(torch.equal(p.grad, g) for p, g in zip(params, grads, strict=True))
    assert all(torch.equal(p, v) for p, v in zip(params, values, strict=True))
    assert torch.equal(stream, torch.get_rng_state())


def test_a_linear_loss_has_no_curvature_and_one_probe_no_error_bar() -> None:
    p = torch.ones(3, requires_grad=True)
    rng = torch.Generator().manual_seed(0)
    assert hutchinson_trace(lambda: p.sum()[None], [p], 2, rng)[0].mean == 0
    with pytest.raises(ValueError, match="at least 2"):
        hutchinson_trace(lambda: p.sum()[None], [p], 1, rng)
