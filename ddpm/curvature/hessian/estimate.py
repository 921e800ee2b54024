"""Estimates of a trace, with error bars from their own values."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from scipy.special import stdtrit  # Student's quantile: `scipy.stats` imports for a second
from torch import Tensor


@dataclass(frozen=True)
class TraceEstimate:
    """A trace from D draws of data with m vectors on each.

    table: (D, m) float64 values v' H v; NaN if not finite. groups: an estimate for each group of parameters.

    The draws are independent. With a single draw its vectors are, and the estimate is for that draw's Hessian. A draw
    (or vector) with a missing value is left out of all numbers below; with fewer than two left, errors are NaN.
    """

    table: Tensor
    groups: Mapping[str, "TraceEstimate"] = field(default_factory=dict)

    @property
    def values(self) -> Tensor:
        """(D m,) all values, draw by draw; NaN if missing."""
        return self.table.flatten()

    @property
    def missing(self) -> int:
        """How many values were not finite."""
        return int(self.table.isnan().sum())

    @property
    def independent(self) -> Tensor:
        """(units, values per unit): the table by independent unit, missing values included."""
        return self.table if len(self.table) > 1 else self.table.T

    @property
    def complete(self) -> Tensor:
        """The rows of `independent` without missing values."""
        rows = self.independent
        return rows[rows.isfinite().all(1)]

    @property
    def mean(self) -> float:
        """The estimate of the trace."""
        return self.complete.flatten().mean().item()

    @property
    def std(self) -> float:
        """Population standard deviation over all values (the study's `hutch_trace_std`)."""
        values = self.complete.flatten()
        return values.std(correction=0).item() if len(values) else float("nan")

    @property
    def sem(self) -> float:
        """Standard error of `mean`: sample standard deviation of the independent units' means / sqrt(units)."""
        means = self.complete.mean(1)
        return means.std(correction=1).item() / len(means) ** 0.5 if len(means) > 1 else float("nan")

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The confidence interval for the trace, by Student's t."""
        half = float(stdtrit(max(len(self.complete) - 1, 1), (1 + level) / 2)) * self.sem
        return self.mean - half, self.mean + half

    def split(self) -> tuple[float, float]:
        """(std between draws' traces, std of one v' H v around its draw's trace), from the analysis of variance.

        Raises ValueError if fewer than two draws have two vectors each: the two parts cannot be separated.
        """
        rows = self.complete if len(self.table) > 1 else self.complete[:0]
        if len(rows) < 2 or rows.shape[1] < 2:
            raise ValueError(f"the parts of the std need at least 2 draws of 2 vectors, got {tuple(self.table.shape)}")
        within = rows.var(1, correction=1).mean()
        between = (rows.mean(1).var(correction=1) - within / rows.shape[1]).clamp(min=0)
        return between.sqrt().item(), within.sqrt().item()


@dataclass(frozen=True)
class Ratio:
    """value: a quotient of two traces; sem: its standard error."""

    value: float
    sem: float


def ratio(numerator: TraceEstimate, denominator: TraceEstimate) -> Ratio:
    """Quotient of two traces measured on the same draws and vectors.

    To first order the error of A / B is that of (A - R B) / B with R = A / B held fixed (delta method), so common
    errors cancel. Raises ValueError if the two tables differ in shape.
    """
    if numerator.table.shape != denominator.table.shape:
        raise ValueError(f"not the same draws: {tuple(numerator.table.shape)}, {tuple(denominator.table.shape)}")
    a, b = numerator.independent, denominator.independent
    both = a.isfinite().all(1) & b.isfinite().all(1)
    a, b = a[both].mean(1), b[both].mean(1)
    if len(a) < 2:
        return Ratio(float("nan"), float("nan"))
    value = a.mean() / b.mean()
    sem = (a - value * b).std(correction=1) / len(a) ** 0.5 / b.mean().abs()
    return Ratio(value.item(), sem.item())


def weighted(terms: Tensor, weights: Tensor, strata: Tensor | None = None) -> list[TraceEstimate]:
    """The estimates for L losses, each a weighted mean of the samples' terms: the value of a draw is w_l . terms / B.

    terms: (D, B, m) float64, of D draws with B samples and m vectors; weights: (L, D, B).

    strata: (D, B) integers, if the draws are not independent but share out the samples among strata: samples of a
    stratum have close expectations, and how many there are is fixed. The trace is the mean of the values as before.
    But their spread also counts which strata a draw happened to get, which the design evens out. So each sample counts
    with its deviation from its stratum's mean, times sqrt(n / (n - 1)) for a mean of n, and a value of the table is the
    trace plus the draw's sum of deviations. A sample alone in its stratum counts wholly. A draw without a sample of a
    loss has no value for it (NaN); the other values are scaled so that `mean` and `sem` hold for them. The samples of a
    missing draw are replaced by the means of their strata (of all samples, if none is left there).
    """
    values = torch.einsum("ldb,dbm->ldm", weights, terms) / terms.shape[1]
    if strata is not None and len(terms) > 1:
        values = _within_strata(terms, weights, strata)
    return [TraceEstimate(finite_or_missing(table)) for table in values]


def _within_strata(terms: Tensor, weights: Tensor, strata: Tensor) -> Tensor:
    """(L, D, m) values, see `weighted`."""
    D, B, _ = terms.shape
    _, place = strata.unique(return_inverse=True)
    member = torch.nn.functional.one_hot(place).to(terms)  # (D, B, strata)
    whole = terms.isfinite().all(2).all(1)
    count = member[whole].sum((0, 1))
    mean = torch.einsum("dbs,dbm->sm", member[whole], terms[whole]) / count[:, None]
    mean = torch.where(count[:, None] > 0, mean, terms[whole].mean((0, 1)))
    terms = torch.where(whole[:, None, None], terms, mean[place])
    centre = torch.where(count[:, None] > 1, mean, 0)
    scale = torch.where(count > 1, count / (count - 1), 1).sqrt() * member.sum((0, 1)) / count
    found = torch.einsum("ldb,dbm->ldm", weights, terms).mean(1, keepdim=True) / B
    sums = torch.einsum("ldb,dbm->ldm", weights, scale[place, None] * (terms - centre[place])) / B
    there = whole & (weights != 0).any(2)  # (L, D)
    table = torch.full_like(sums, torch.nan)
    for values, own, trace, present in zip(table, sums, found, there, strict=True):
        n = int(present.sum())
        values[present] = trace + (own[present] - own[present].mean(0)) * (n * (n - 1)) ** 0.5 / D
    return table


def check_design(probes: int, per_draw: int) -> int:
    """The number of draws, probes / per_draw. Raises ValueError if it is not whole or gives no error bar."""
    if probes < 2:
        raise ValueError(f"probes must be at least 2 for an error bar, got {probes}")
    if per_draw < 1 or probes % per_draw:
        raise ValueError(f"per_draw must divide probes = {probes} into whole draws, got {per_draw}")
    return probes // per_draw


def finite_or_missing(values: Tensor) -> Tensor:
    """`values`, with NaN for those that are not finite."""
    return torch.where(values.isfinite(), values, torch.nan)
