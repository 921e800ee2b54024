"""Scores from the features themselves, rows (n, d): KID; precision, recall, density, coverage."""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

BLOCK = 1000  # rows whose distances to all others are in memory at once


@dataclass(frozen=True)
class Kid:
    """Settings of KID: `subsets` pairs of random subsets of `subset_size` rows each."""

    subsets: int = 100
    subset_size: int = 1000

    def size(self, *counts: int) -> int:
        """Rows in a subset of sets with `counts` rows: at most half, since equal subsets would have no spread."""
        return min(self.subset_size, *(count // 2 for count in counts))


def kid(samples: Tensor, reference: Tensor, settings: Kid = Kid(), seed: int = 0) -> tuple[float, float]:
    """(mean, standard deviation) of KID over pairs of random subsets of features (n, d) and (m, d).

    KID is the unbiased squared MMD under the kernel (x'y / d + 1)^3 (Binkowski et al. 2018, section 4). Its mean is
    unbiased for every n and can be negative. The population deviation is that of one subset's value, as other
    implementations report it, not a standard error of the mean. The seed determines the subsets. NaN if any feature is
    not finite, in a subset or not.
    """
    if not (samples.isfinite().all() and reference.isfinite().all()):
        return math.nan, math.nan
    rng = Generator().manual_seed(seed)
    size = settings.size(len(samples), len(reference))
    values = []
    for _ in range(settings.subsets):
        x, y = (rows[torch.randperm(len(rows), generator=rng)[:size]] for rows in (samples, reference))
        values.append(squared_mmd(x, y))
    found = torch.tensor(values, dtype=torch.float64)
    return found.mean().item(), found.std(correction=0).item()


def squared_mmd(x: Tensor, y: Tensor) -> float:
    """The unbiased squared maximum mean discrepancy of x (n, d) and y (m, d), n and m at least 2, under the kernel
    (x'y / d + 1)^3 (Gretton et al. 2012, eq. 3): no sample is compared with itself."""
    n, m = len(x), len(y)
    within = _mean_kernel(x, x, n * (n - 1)) + _mean_kernel(y, y, m * (m - 1))
    return within - 2 * _mean_kernel(x, y, n * m)


def _mean_kernel(x: Tensor, y: Tensor, pairs: int) -> float:
    """Mean of the kernel over `pairs` pairs; without the diagonal if y is x."""
    values = (x.double() @ y.double().T / x.shape[1] + 1) ** 3
    total = values.sum() - (values.diagonal().sum() if x is y else 0)
    return (total / pairs).item()


def neighbours(samples: Tensor, reference: Tensor, k: int = 5) -> dict[str, float]:
    """`precision`, `recall` (Kynkaanniemi et al. 2019, eq. 1-3), `density`, `coverage` (Naeem et al. 2020, eq. 4-6).

    samples (n, d), reference (m, d), n and m above k. Each row has a ball that reaches to its k-th nearest neighbour in
    its own set. Precision: the share of samples inside any ball of the reference; recall: the reverse. Density: the
    mean number of reference balls that contain a sample, / k. Coverage: the share of reference balls that contain a
    sample. All but density lie in 0 ... 1, 1 is best. Two sets from one distribution have a density of about 1. NaN if
    any feature is not finite.
    """
    if not (samples.isfinite().all() and reference.isfinite().all()):
        return dict.fromkeys(("precision", "recall", "density", "coverage"), math.nan)
    origin = reference.double().mean(0)  # products of large numbers would lose digits
    samples, reference = samples.double() - origin, reference.double() - origin
    real_reach, fake_reach = _reach(reference, k), _reach(samples, k)
    in_balls = torch.zeros(len(samples), dtype=torch.int64)
    recalled, covered = [], []
    for block, reach in zip(reference.split(BLOCK), real_reach.split(BLOCK), strict=True):
        distances = _squared_distances(block, samples)
        inside = distances <= reach[:, None]
        in_balls += inside.sum(0)
        covered.append(inside.any(1))
        recalled.append((distances <= fake_reach).any(1))
    return {
        "precision": (in_balls > 0).double().mean().item(),
        "recall": torch.cat(recalled).double().mean().item(),
        "density": in_balls.double().mean().item() / k,
        "coverage": torch.cat(covered).double().mean().item(),
    }


def _reach(rows: Tensor, k: int) -> Tensor:
    """(n,) squared distance of each row to its k-th nearest other row, plus an allowance for rounding.

    With it, an image that is in both sets counts as inside at exactly that distance. The same distance from another
    product differs by up to about 2 d eps (|x|^2 + |y|^2), and |y|^2 is at most 2 |x|^2 + 2 |x - y|^2.
    """
    # k + 1: the nearest row is the row itself
    found = torch.cat([_squared_distances(block, rows).kthvalue(k + 1, dim=1).values for block in rows.split(BLOCK)])
    return found + 8 * rows.shape[1] * torch.finfo(rows.dtype).eps * (rows.square().sum(1) + found)


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """(n, m) squared distances between x (n, d) and y (m, d)."""
    return x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T
