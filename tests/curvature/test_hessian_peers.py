"""Compares our Hessians with curvlinops' and, if it is installed, PyHessian's, for the same loss."""

import warnings
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from ddpm.curvature.hessian import Hessian, LeastSquares, least_squares_trace
from ddpm.models.unet import UNetCifar32


class _OnPairs(nn.Module):
    """The network as a function of one input (x, t), as the peers call it."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        return self.net(*pair)


def _problem(channels: int) -> tuple[UNetCifar32, LeastSquares]:
    rng = Generator().manual_seed(1)
    x_t, eps = torch.randn(2, 2, 3, 32, 32, generator=rng)
    data = LeastSquares((x_t, torch.tensor([30, 700])), eps, torch.ones(1, 2))
    return UNetCifar32(channels, time_dim=32, gn_groups=min(channels, 32)).eval(), data


def _curvlinops(model: nn.Module, data: LeastSquares):  # type: ignore[no-untyped-def]
    import curvlinops

    pairs = _OnPairs(model)
    params = list(pairs.parameters())
    batch = (data.inputs, data.target)
    return curvlinops.HessianLinearOperator(
        pairs, nn.MSELoss(), params, [batch], check_deterministic=False, batch_size_fn=lambda _: len(data.target)
    )


# Under torch.no_grad, its forward-over-reverse product cannot pass torch's SiLU and GroupNorm.
_no_grad_off = mock.patch("curvlinops.hessian.no_grad", lambda: lambda function: function)


def test_products_are_those_of_curvlinops() -> None:
    """H v agrees entry by entry in float64, for the same network and batch. Catches parameters in another order, a
    wrong factor, and a mean for a sum."""
    model, data = _problem(8)
    model.double()
    x_t, t = data.inputs
    data = LeastSquares((x_t.double(), t), data.target.double(), data.weights)
    H = Hessian(lambda: (model(*data.inputs) - data.target).square().mean(), list(model.parameters()))
    v = torch.randn(H.shape[0], 2, generator=Generator().manual_seed(0), dtype=torch.float64)
    with _no_grad_off:
        theirs = _curvlinops(model, data) @ v
    torch.testing.assert_close(H @ v, torch.as_tensor(np.asarray(theirs.detach())), rtol=1e-8, atol=1e-10)


def test_the_trace_of_unet_cifar32_is_that_of_curvlinops() -> None:
    """Both estimate the trace on one batch with different vectors: ours by differences, theirs by products. Our plain
    and improved estimates are within 4 combined standard errors. Catches a bias in the differences or in the closed
    form at the study's network size."""
    import curvlinops

    model, data = _problem(32)
    ours = least_squares_trace(model, lambda *_: data, 16, Generator().manual_seed(0), head=model.head, per_draw=16)[0]
    assert not ours.exact and ours.improved
    torch.manual_seed(3)
    with _no_grad_off:
        theirs = float(curvlinops.hutchinson_trace(_curvlinops(model, data), num_matvecs=16))
    assert abs(ours.plain.mean - theirs) < 4 * 2**0.5 * ours.plain.sem
    # Their error is about the error of our plain estimate, which uses as many vectors.
    assert abs(ours.improved.mean - theirs) < 4 * (ours.plain.sem**2 + ours.improved.sem**2) ** 0.5


def test_the_trace_of_unet_cifar32_is_that_of_pyhessian() -> None:
    """Our plain estimate agrees with PyHessian's within 4 combined standard errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pyhessian = pytest.importorskip("pyhessian")
    model, data = _problem(32)
    ours = least_squares_trace(model, lambda *_: data, 16, Generator().manual_seed(0), head=model.head, per_draw=16)[0]
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        operator = pyhessian.hessian(_OnPairs(model), nn.MSELoss(), data=(data.inputs, data.target), cuda=False)
        values = operator.trace(8, tol=float("-inf"))
    for p in model.parameters():
        p.grad = None  # PyHessian leaves a graph in .grad that refers to itself
    assert abs(ours.plain.mean - float(np.mean(values))) < 4 * (1 + 16 / 8) ** 0.5 * ours.plain.sem
