"""Variance-reduced traces of one fixed operator: the large eigenvalues exactly, the rest by Hutchinson.

They pay if a few eigenvalues dominate the variance (late in training), and otherwise cost precision. `operator`: an
object with `.shape`, `.dtype`, `.device` and `@`: a `Hessian` or a symmetric matrix. Each returns a `TraceEstimate`
whose values are the estimator's own terms. Memory: a few (n, products) blocks. Raises FloatingPointError if a product
that spans the sketch is not finite.
"""

from typing import Protocol

import torch
from torch import Generator, Tensor

from ddpm.curvature.hessian.estimate import TraceEstimate, finite_or_missing


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

    Q spans A S, with products // 3 sign vectors S. values: the first part + g' (I - QQ') A (I - QQ') g, for as many
    further sign vectors g; their spread is the remaining error. Raises ValueError if products < 6.
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
    values_i = tr(P_i A P_i) + w_i' (I - P_i) A (I - P_i) w_i. P_i = Q B_i B_i' Q' with B_i orthonormal and spanning all
    columns of R but the i-th (see `_range`): one direction fewer than Q, or the same number if Y lacks full rank. The
    values share their products, so `sem` is only the authors' error estimate. Raises ValueError if products < 4.
    """
    k = products // 2
    if k < 2:
        raise ValueError(f"XTrace needs at least 4 products for an error estimate, got {products}")
    W = signs(operator, k, rng)
    Y = operator @ W
    Q = _orthonormal(Y)
    H, R, C = _finite(_dot(Q, operator @ Q)), _finite(_dot(Q, Y)), _dot(Q, W)
    bases = [_range(torch.cat([R[:, :i], R[:, i + 1 :]], dim=1), Y.dtype) for i in range(k)]
    caught = torch.stack([(B * (H @ B)).sum() for B in bases])
    C = torch.stack([B @ (B.T @ C[:, i]) for i, B in enumerate(bases)], dim=1)  # coefficients of P_i w_i in Q
    left = (W.double() * Y).sum(0) - 2 * (C * R).sum(0) + (C * (H @ C)).sum(0)
    return TraceEstimate(finite_or_missing((caught + left).cpu())[None])


def _orthonormal(Y: Tensor) -> Tensor:
    """An orthonormal basis of the columns of Y, which may be linearly dependent."""
    Q, R = map(_finite, torch.linalg.qr(_finite(Y)))  # with very large products they are not finite
    turn = _range(R, Y.dtype)
    return Q if turn.shape[1] == Q.shape[1] else Q @ turn


def _range(R: Tensor, dtype: torch.dtype) -> Tensor:
    """An orthonormal basis of the span of R's columns, products of precision `dtype`; a single vector if R = 0.

    Directions with less than sqrt(eps) of the largest singular value are left out: if the columns are dependent, they
    are only rounding. Hutchinson covers a left-out direction, and its variance, the square, is no more than rounding.
    """
    U, scales, _ = torch.linalg.svd(R, full_matrices=False)
    rank = int((scales > torch.finfo(dtype).eps ** 0.5 * scales[0]).sum())
    return U[:, : max(rank, 1)]


def _finite(product: Tensor) -> Tensor:
    if not product.isfinite().all():
        raise FloatingPointError("a product of the operator is not finite")
    return product


def _dot(A: Tensor, B: Tensor) -> Tensor:
    """A' B in float64, column by column, without a float64 copy of A and B."""
    return torch.stack([(A * b[:, None]).sum(0, dtype=torch.float64) for b in B.unbind(1)], dim=1)
