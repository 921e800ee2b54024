"""Eigenvalues of a large symmetric operator from a few products: Lanczos, and its quadrature of the spectrum.

m steps from a start v give an orthonormal V (n, m) and a tridiagonal T = V' A V. Eigenvalues of T (Ritz values)
converge to the ends of A's spectrum first, and with the squared first components of T's eigenvectors as weights they
are the Gauss quadrature of v' f(A) v / |v|^2, exact for polynomials up to degree 2m - 1 (Golub & Meurant 2010, ch. 6).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ddpm.curvature.hessian.sketch import Operator, signs


@dataclass(frozen=True)
class RitzValue:
    """An approximate eigenvalue; a true one lies within `residual`. products: how many were taken, one per step."""

    value: float
    residual: float
    products: int


@dataclass(frozen=True)
class SpectralDensity:
    """An estimate of the distribution of n eigenvalues, with a quadrature for each start vector.

    nodes, weights: (starts, steps) float64. The weights of a start sum to 1; a start that ended early is padded with
    weight 0.
    """

    nodes: Tensor
    weights: Tensor
    n: int

    def moment(self, power: int) -> tuple[float, float]:
        """(sum of the eigenvalues' powers, its standard error over the starts): the trace for 1, |A|_F^2 for 2."""
        values = self.n * (self.weights * self.nodes**power).sum(1)
        return values.mean().item(), values.std(correction=1).item() / len(values) ** 0.5


def top_eigenvalue(operator: Operator | Tensor, steps: int, rng: Generator) -> RitzValue:
    """The largest eigenvalue, from below, after at most `steps` products. Raises ValueError if steps < 1."""
    alpha, beta = lanczos(operator, signs(operator, 1, rng)[:, 0], steps)
    ritz, vectors = torch.linalg.eigh(_tridiagonal(alpha, beta))
    return RitzValue(ritz[-1].item(), (beta[-1] * vectors[-1, -1]).abs().item(), len(alpha))


def spectral_density(operator: Operator | Tensor, steps: int, starts: int, rng: Generator) -> SpectralDensity:
    """Stochastic Lanczos quadrature (Ubaru, Chen & Saad 2017) from `starts` sign vectors, `steps` products each.

    Raises ValueError if starts < 2 (one start has no error bar) or steps < 1.
    """
    if starts < 2:
        raise ValueError(f"starts must be at least 2 for an error bar, got {starts}")
    nodes, weights = torch.zeros(2, starts, steps, dtype=torch.float64)
    for k in range(starts):
        alpha, beta = lanczos(operator, signs(operator, 1, rng)[:, 0], steps)
        ritz, vectors = torch.linalg.eigh(_tridiagonal(alpha, beta))
        nodes[k, : len(ritz)], weights[k, : len(ritz)] = ritz, vectors[0].square()
    return SpectralDensity(nodes, weights, operator.shape[0])


def lanczos(operator: Operator | Tensor, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """(alpha, beta), float64: the diagonal of T and what is below it, the last beta being the residual's norm.

    At most `steps` of each, and at most n; fewer if the start's Krylov space is exhausted (see `_is_rounding`). Every
    vector is orthogonalised against all before it, twice, so all are kept: steps * n numbers. Raises ValueError if
    steps < 1 and FloatingPointError if a product is not finite.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    basis = [start / start.norm()]
    alpha: list[float] = []
    beta: list[float] = []
    for _ in range(min(steps, operator.shape[0])):
        w = (operator @ basis[-1][:, None])[:, 0]
        alpha.append((w.double() @ basis[-1].double()).item())
        w = _orthogonal(w, basis)
        beta.append(w.double().norm().item())
        if not (abs(alpha[-1]) < float("inf") and beta[-1] < float("inf")):
            raise FloatingPointError("a product of the operator is not finite")
        if len(alpha) == operator.shape[0] or _is_rounding(operator, basis, w, max(map(abs, alpha + beta))):
            break
        basis.append(w / beta[-1])
    return torch.tensor(alpha, dtype=torch.float64), torch.tensor(beta, dtype=torch.float64)


def _orthogonal(w: Tensor, basis: Sequence[Tensor]) -> Tensor:
    """w, made orthogonal to the basis twice: once leaves rounding."""
    for _ in range(2):
        for u in basis:
            w = w - (w.double() @ u.double()).to(w.dtype) * u
    return w


def _is_rounding(operator: Operator | Tensor, basis: Sequence[Tensor], residual: Tensor, scale: float) -> bool:
    """Whether the residual of the last basis vector v is only rounding: the Krylov space is exhausted.

    scale: the largest entry of T, as an estimate of |A|. The relative accuracy rho of a product depends on n, on the
    precision and on the operator, so it is measured: A (0.7 v) / 0.7 rounds differently from A v, and their components
    outside the basis differ by about rho |A|.

    The threshold is rho^(2/3) |A|. The recurrence amplifies the rounding of its first steps: with gaps g (relative to
    |A|) between the eigenvalues in the start, an exhausted space leaves about (rho / g) |A|. Ending at a residual of
    tau |A| moves a Ritz value by about (tau^2 / g) |A|. Down to g = rho^(1/3) the first is below the threshold, and the
    second is no more than rounding. With closer eigenvalues, steps may continue into rounding: their Ritz values lie
    within the spectrum and have almost no weight.

    The second product is skipped if it cannot matter: an operator accurate to half of its digits, such as differences,
    has rho = sqrt(eps).
    """
    eps, size = torch.finfo(residual.dtype).eps, residual.double().norm().item()
    if size > eps ** (1 / 3) * scale:
        return False
    again = _orthogonal((operator @ (0.7 * basis[-1])[:, None])[:, 0] / 0.7, basis)
    rho = max((again - residual).double().norm().item() / scale, eps) if scale else 0.0
    return size <= rho ** (2 / 3) * scale


def _tridiagonal(alpha: Tensor, beta: Tensor) -> Tensor:
    return alpha.diag() + beta[:-1].diag(1) + beta[:-1].diag(-1)
