"""The standard error and interval of a Frechet distance from n samples, and its limit for infinite n."""

import torch
from torch import Generator, Tensor

from ddpm.evaluation.distances import Gaussian, finite, frechet_distance, gaussian_of, symmetric_root
from ddpm.metrics import Z95

EXTRAPOLATED_FROM = 5  # subset sizes; more cost more distances and add little


def frechet_influence(samples: Gaussian, reference: Gaussian, rows: Tensor) -> Tensor:
    """(n,) contribution of each sample, features rows (n, d), to the Frechet distance to a fixed reference.

    The influence function (linear term) of the distance as a function of the samples' mean m and covariance S:
    2 (m - m_r)'(x - m) + (x - m)'(I - A)(x - m), minus its mean. A = S_r^(1/2) (S_r^(1/2) S S_r^(1/2))^(-1/2) S_r^(1/2)
    is the optimal transport map from N(0, S) to N(0, S_r), half the gradient of 2 tr (S S_r)^(1/2). NaN if an input is
    not finite.
    """
    if not (finite(samples, reference) and rows.isfinite().all()):
        return torch.full((len(rows),), torch.nan, dtype=torch.float64)
    left, scales, right = torch.linalg.svd(symmetric_root(samples.covariance) @ symmetric_root(reference.covariance))
    del left
    # Directions without samples (fewer samples than dimensions) have no gradient.
    kept = scales > scales[0] * len(scales) * torch.finfo(scales.dtype).eps
    transport = symmetric_root(reference.covariance) @ right.T[:, kept] / scales[kept].sqrt()
    away = rows.double() - samples.mean
    influence = 2 * away @ (samples.mean - reference.mean)
    influence += away.square().sum(1) - (away @ transport).square().sum(1)
    return influence - influence.mean()


def frechet_error(samples: Gaussian, reference: Gaussian, rows: Tensor) -> float:
    """The standard error of the samples' Frechet distance to a fixed reference: std of the influence / sqrt(count).

    rows (n, d): the samples' features, or a representative part. The error is the spread over other noise with the
    same number of samples. For the effect of that number see `extrapolate`.
    """
    return error_of(frechet_influence(samples, reference, rows), samples.count)


def error_of(influence: Tensor, n: int) -> float:
    """The standard error of a Frechet distance from the influence of its n samples, or of some of them."""
    return (influence.std() / n**0.5).item()


def fid_interval(fid: float, error: float) -> tuple[float, float]:
    """The 95 % interval of a Frechet distance with standard error `error`. It covers other noise, not other seeds."""
    return fid - Z95 * error, fid + Z95 * error


def extrapolate(rows: Tensor, reference: Gaussian, seed: int = 0) -> float:
    """The Frechet distance extrapolated to infinitely many samples (Chong & Forsyth 2020, section 4).

    The intercept of a line in 1 / n, fitted to the distances of random subsets of N / 2 to N of the features rows
    (N, d). The distance of n samples is too high by about c / n, where c differs between generators.
    """
    rng = Generator().manual_seed(seed)
    inverse = torch.linspace(2 / len(rows), 1 / len(rows), EXTRAPOLATED_FROM, dtype=torch.float64)
    distances = []
    for n in (1 / inverse).round().long().tolist():
        chosen = rows[torch.randperm(len(rows), generator=rng)[:n]]
        distances.append(frechet_distance(gaussian_of(chosen), reference))
    y = torch.tensor(distances, dtype=torch.float64)
    x = inverse - inverse.mean()
    slope = (x * y).sum() / x.square().sum()
    return (y.mean() - slope * inverse.mean()).item()
