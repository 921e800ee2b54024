"""Variance-reduced traces of one fixed operator: the large eigenvalues exactly, the rest by Hutchinson.

They pay where a few eigenvalues hold the variance (late in training) and cost precision where none do. `operator`: what
has `.shape`, `.dtype`, `.device` and `@`: a `Hessian`, or a symmetric matrix. Each returns a `TraceEstimate` whose
values are the estimator's own terms. Memory: a few (n, products) blocks. FloatingPointError is raised where a product
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
    values_i = tr(P_i A P_i) + w_i' (I - P_i) A (I - P_i) w_i. P_i = Q B_i B_i' Q' with B_i orthonormal and spanning all
    columns of R but the i-th (see `_range`): one direction less than Q, or none less if Y has not its full rank. The
    values share their products: `sem` is the authors' error estimate and no more. Raises ValueError if products < 4.
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
    """An orthonormal basis of the columns of Y; they may depend on each other."""
    Q, R = map(_finite, torch.linalg.qr(_finite(Y)))  # of very large products they are not
    turn = _range(R, Y.dtype)
    return Q if turn.shape[1] == Q.shape[1] else Q @ turn


def _range(R: Tensor, dtype: torch.dtype) -> Tensor:
    """An orthonormal basis of what the columns of R span, products of precision `dtype`; of zeros it is one vector.

    Directions with less than sqrt(eps) of the largest singular value are left out. If the columns depend on each other,
    rounding alone says where those point. Hutchinson takes what a left-out direction holds, and its share of the
    variance, the square, is no more than rounding.
    """
    U, scales, _ = torch.linalg.svd(R, full_matrices=False)
    rank = int((scales > torch.finfo(dtype).eps ** 0.5 * scales[0]).sum())
    return U[:, : max(rank, 1)]


def _finite(product: Tensor) -> Tensor:
    if not product.isfinite().all():
        raise FloatingPointError("a product of the operator is not finite")
    return product


def _dot(A: Tensor, B: Tensor) -> Tensor:
    """A' B in float64, column by column, without a float64 copy of both."""
    return torch.stack([(A * b[:, None]).sum(0, dtype=torch.float64) for b in B.unbind(1)], dim=1)
