"""Variance-reduced traces of one fixed operator: the large eigenvalues exactly, the rest by Hutchinson.

They pay where a few eigenvalues hold the variance (late in training) and cost precision where none do. `operator`: what
has `.shape`, `.dtype`, `.device` and `@`: a `Hessian`, or a symmetric matrix. Each returns a `TraceEstimate` whose
values are the estimator's own terms. Memory: a few (n, products) blocks. FloatingPointError is raised where a product
that spans the sketch is not finite.
"""

from typing import Protocol

import torch
from torch import Generator, Tensor

from ddpm.hessian.estimate import TraceEstimate, finite_or_missing


class Operator(Protocol):
    """A symmetric linear map of n-vectors."""

    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device

    def __matmul__(self, V: Tensor) -> Tensor: ...


def signs(operator: Operator | Tensor, columns: int, rng: Generator) -> Tensor:
    """(n, columns) independent signs."""
    drawn = torch.randint(0, 2, (operator.shape[0], columns), generator=rng, dtype=torch.int8)
    return drawn.to(operator.device, operator.dtype) * 2 - 1


def hutchpp_trace(operator: Operator | Tensor, products: int, rng: Generator) -> TraceEstimate:
    """tr(Q' A Q) + tr((I - QQ') A (I - QQ')), the second part by Hutchinson (Meyer et al. 2021, algorithm 1).

    Q spans A S of products // 3 sign vectors S. values: the first part + g' (I - QQ') A (I - QQ') g of each of as many
    further ones, so that their spread is the error that is left. Raises ValueError where products < 6.
    """
    k = products // 3
    if k < 2:
        raise ValueError(f"Hutch++ needs at least 6 products (3 sets of 2) for an error bar, got {products}")
    Q = _orthonormal(operator @ signs(operator, k, rng))
    caught = _finite(_dot(Q, operator @ Q)).diagonal().sum()
    G = signs(operator, k, rng)
    G = G - Q @ (Q.T @ G)
    left = (G.double() * (operator @ G)).sum(0)
    return TraceEstimate(finite_or_missing((caught + left).cpu())[None])


def xtrace(operator: Operator | Tensor, products: int, rng: Generator) -> TraceEstimate:
    """XTrace (Epperly, Tropp & Webber 2024, section 2.1): Hutch++ with each test vector left out of Q in turn.

    With k = products // 2 sign vectors w_i, Y = A W = QR and P_i the projector on all columns of Y but the i-th,
    values_i = tr(P_i A P_i) + w_i' (I - P_i) A (I - P_i) w_i. P_i = Q (I - s_i s_i') Q' with s_i the direction that
    only y_i adds, orthogonal to all other columns of R. The values share their products: `sem` is the authors' error
    estimate and no more. Raises ValueError where products < 4.
    """
    k = products // 2
    if k < 2:
        raise ValueError(f"XTrace needs at least 4 products for an error estimate, got {products}")
    W = signs(operator, k, rng)
    Y = operator @ W
    Q = _orthonormal(Y)
    H, R, C = _finite(_dot(Q, operator @ Q)), _finite(_dot(Q, Y)), _dot(Q, W)
    S = torch.stack([torch.linalg.svd(_without(R, i)).U[:, -1] for i in range(k)], dim=1)
    caught = H.diagonal().sum() - (S * (H @ S)).sum(0)
    C = C - S * (S * C).sum(0)  # coefficients of P_i w_i in Q
    left = (W.double() * Y).sum(0) - 2 * (C * R).sum(0) + (C * (H @ C)).sum(0)
    return TraceEstimate(finite_or_missing((caught + left).cpu())[None])


def _without(R: Tensor, i: int) -> Tensor:
    return torch.cat([R[:, :i], R[:, i + 1 :]], dim=1)


def _orthonormal(Y: Tensor) -> Tensor:
    Q = torch.linalg.qr(_finite(Y)).Q
    return _finite(Q)  # of very large products it is not


def _finite(product: Tensor) -> Tensor:
    if not product.isfinite().all():
        raise FloatingPointError("a product of the operator is not finite")
    return product


def _dot(A: Tensor, B: Tensor) -> Tensor:
    """A' B in float64, column by column, without a float64 copy of both."""
    return torch.stack([(A * b[:, None]).sum(0, dtype=torch.float64) for b in B.unbind(1)], dim=1)
