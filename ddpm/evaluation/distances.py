"""The Frechet distance between two sets of features, each treated as a Gaussian."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gaussian:
    """mean (d,) and covariance (d, d), float64, of `count` features."""

    mean: Tensor
    covariance: Tensor
    count: int


def finite(*gaussians: Gaussian) -> bool:
    """Whether all means and covariances are finite numbers."""
    return all(bool(part.isfinite().all()) for g in gaussians for part in (g.mean, g.covariance))


class GaussianSum:
    """Mean and covariance of features (B, d) that arrive in batches; memory does not grow with their number.

    Sums are in float64 about `origin`, by default the first batch's mean, so a large common offset costs no digits.
    """

    def __init__(self, origin: Tensor | None = None) -> None:
        self._count = 0
        self._origin = origin
        self._sum: Tensor | float = 0.0
        self._products: Tensor | float = 0.0

    def add(self, features: Tensor) -> None:
        """Take in a batch (B, d)."""
        features = features.double().cpu()
        if self._origin is None:
            self._origin = features.mean(0)
        centred = features - self._origin
        self._count += len(features)
        self._sum = self._sum + centred.sum(0)
        self._products = self._products + centred.T @ centred

    def add_up(self, total: Callable[[Tensor], Tensor]) -> None:
        """Take in what the other processes gathered. `total` adds a tensor up over all processes.

        Raises ValueError if no `origin`, common to all, was given.
        """
        if self._origin is None:
            raise ValueError("sums about different origins do not add up: give all processes the same origin")
        d = len(self._origin)
        mine = (torch.tensor(float(self._count)), torch.as_tensor(self._sum), torch.as_tensor(self._products))
        # The sums of a process without features are still scalar zeros.
        sizes = ((1,), (d,), (d, d))
        flat = torch.cat([x.double().expand(size).reshape(-1) for x, size in zip(mine, sizes, strict=True)])
        count, self._sum, products = total(flat).split([1, d, d * d])
        self._count, self._products = int(count), products.reshape(d, d)

    def result(self) -> Gaussian:
        """The statistics, with the unbiased covariance (n - 1). Raises ValueError below two features."""
        if self._origin is None or self._count < 2:
            raise ValueError(f"a covariance needs at least 2 features, got {self._count}")
        mean = torch.as_tensor(self._sum) / self._count
        covariance = (torch.as_tensor(self._products) - self._count * torch.outer(mean, mean)) / (self._count - 1)
        return Gaussian(self._origin + mean, covariance, self._count)


def gaussian_of(features: Tensor) -> Gaussian:
    """The statistics of features (n, d)."""
    found = GaussianSum()
    found.add(features)
    return found.result()


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) (Dowson & Landau 1982; Heusel et al. 2017, eq. 6).

    tr (S_a S_b)^(1/2) is the sum of the singular values of S_a^(1/2) S_b^(1/2). These are symmetric roots, so a
    singular covariance (fewer features than dimensions) needs no jitter, and nothing becomes complex.

    NaN if a mean or a covariance is not finite.
    """
    if not finite(a, b):
        return math.nan
    cross = torch.linalg.svdvals(symmetric_root(a.covariance) @ symmetric_root(b.covariance)).sum()
    shift = (a.mean - b.mean).square().sum()
    return (shift + a.covariance.trace() + b.covariance.trace() - 2 * cross).item()


def symmetric_root(covariance: Tensor) -> Tensor:
    """The symmetric square root (d, d) of a covariance.

    Eigenvalues up to d eps times the largest count as 0: rounding turns a zero into as much, of either sign. Its root
    would be 1e-8 of the largest, far above rounding, and differ between processors.
    """
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    rounding = len(values) * torch.finfo(values.dtype).eps * values[-1].clamp(min=0)
    return (vectors * torch.where(values > rounding, values, 0).sqrt()) @ vectors.T
