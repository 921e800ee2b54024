"""`Estimate`, the type of every number with an interval, and the intervals: over seeds, and over the steps of one run.

The quantiles are scipy's. The sums around them stand here: `scipy.stats.ttest_1samp` and `ttest_ind` give the same
intervals to 3e-15 (a test compares them) but change the last digits of `numbers.csv`, and warn of equal values. scipy's
bootstrap draws resamples, which is inexact for three seeds; it has no block jackknife, and no interval for a fall.
"""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]
LEVEL = 0.95
_EXACT = 6  # up to this many seeds every resample is enumerated: at most 462
_RESAMPLES = 1000
_CHUNK = 2048
BLOCKS = 6
T5 = float(special.stdtrit(BLOCKS - 1, (1 + LEVEL) / 2))  # half an interval of `block_jackknife`, in standard errors


class Interval(tuple[float, float]):
    """(low, high), a 95 % interval by Student's t with `df` degrees of freedom; infinitely many: by the normal
    distribution; NaN: by another distribution, so that no p-value follows. An end can be cut off where the number
    cannot lie."""

    df: float

    def __new__(cls, low: float, high: float, df: float) -> "Interval":
        self = super().__new__(cls, (low, high))
        self.df = df
        return self


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % intervals and what they rest on. `reports/judging/judge.py` decides by it.

    number: None if there is none; `reason` then says why. per_seed: the numbers whose mean it is.
    within: interval of what varies within the runs (steps, noise of the samples, draws of the probe).
    seeds: interval over seeds. basis: what the intervals rest on, or why there is none.
    step: the step at which the number was logged, if it is the number of one step.
    as_logged: a count or an order of what was logged. It has no interval: another look at the runs gives the same.
    given_draws: it holds for one set of the probe's draws, whose error is in no interval.
    paired: `within` compares samples or draws in pairs that start from the same noise.
    sem: the standard error behind `within`, if it is one over draws.
    reason: why the number decides nothing; empty if it does.
    """

    number: float | None = None
    per_seed: tuple[float, ...] = ()
    within: Interval | None = None
    seeds: Interval | None = None
    basis: str = ""
    step: int | None = None
    as_logged: bool = False
    given_draws: bool = False
    paired: bool = False
    sem: float | None = None
    reason: str = ""


def around(centre: float, reach: float, df: float = math.inf) -> Interval:
    """`centre` -+ `reach`, which is `t_quantile(df)` standard errors; Z95 of them without `df`."""
    return Interval(centre - reach, centre + reach, df)


def around_deviation(deviation: float, df: int) -> Interval:
    """The interval of a standard deviation of normal values with `df` degrees of freedom (chi-square)."""
    low, high = (deviation * math.sqrt(df / special.chdtri(df, 1 - q)) for q in ((1 + LEVEL) / 2, (1 - LEVEL) / 2))
    return Interval(low, high, math.nan)


def t_quantile(df: float, level: float = LEVEL) -> float:
    """How many standard errors a two-sided interval of Student's t reaches to each side."""
    return float(special.stdtrit(df, (1 + level) / 2))


def standard_error(number: float, interval: Interval) -> float:
    """The standard error behind the interval around `number`."""
    return max(number - interval[0], interval[1] - number) / t_quantile(interval.df)


def at_level(level: float, number: float, interval: Interval) -> tuple[float, float]:
    """The ends of the interval around `number` that has this level in place of 95 %."""
    reach = t_quantile(interval.df, level) * standard_error(number, interval)
    return number - reach, number + reach


def half(interval: Interval) -> float:
    """Half the width of an interval."""
    return (interval[1] - interval[0]) / 2


def bootstrap_mean(values: Array) -> tuple[Array, Array]:
    """Percentile bootstrap of the mean over the last axis (Efron & Tibshirani 1993, ch. 13); (low, high), each (n,).

    For bands around a curve, which show what the seeds spread over. With three seeds it covers the true mean 75 times
    in 100, so decisions take `student`. values: (n, k), k seeds. For k <= 6 every resample counts with its exact
    probability; above, 1000 are drawn from a fixed generator, the same for every row. Raises ValueError for k < 2.
    """
    n, k = values.shape
    if k < 2:
        raise ValueError(f"a bootstrap needs at least 2 values, got {k}")
    counts, chances = _resamples(k)
    low, high = np.empty(n), np.empty(n)
    for start in range(0, n, _CHUNK):
        means = values[start : start + _CHUNK] @ counts.T / k
        order = np.argsort(means, axis=1)
        means = np.take_along_axis(means, order, axis=1)
        below = np.cumsum(chances[order], axis=1)
        for out, tail in ((low, (1 - LEVEL) / 2), (high, (1 + LEVEL) / 2)):
            # 25 of 1,000 resamples add up to 0.025, but in floats only to within 1e-13.
            place = (below < tail - 1e-12).sum(axis=1).clip(max=means.shape[1] - 1)
            out[start : start + _CHUNK] = means[np.arange(len(means)), place]
    return low, high


def _resamples(k: int) -> tuple[Array, Array]:
    """How often each of k values is in a resample, (m, k), and the chance of that resample, (m,)."""
    if k > _EXACT:
        rng = np.random.default_rng(0)
        return rng.multinomial(k, np.full(k, 1 / k), _RESAMPLES).astype(float), np.full(_RESAMPLES, 1 / _RESAMPLES)
    counted = [Counter(chosen) for chosen in itertools.combinations_with_replacement(range(k), k)]
    counts = np.array([[counter[i] for i in range(k)] for counter in counted], dtype=float)
    ways = np.array([math.factorial(k) / math.prod(map(math.factorial, counter.values())) for counter in counted])
    return counts, ways / k**k


def student(values: Array) -> Interval:
    """Student's interval for the mean of k >= 2 independent values, (k,): mean -+ t_{k-1} s / sqrt(k)."""
    return _by_t(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values)), len(values) - 1)


def over_seeds(values: Sequence[float]) -> Interval | None:
    """`student` over the seeds' values; None for fewer than two."""
    return student(np.array(values)) if len(values) > 1 else None


def welch(baseline: Array, variant: Array) -> Interval:
    """Welch's interval for mean(variant) - mean(baseline), two independent samples of at least 2 values each."""
    samples = variant, baseline
    parts = [float(x.var(ddof=1)) / len(x) for x in samples]
    square = sum(parts)
    freedom = sum(p**2 / (len(x) - 1) for p, x in zip(parts, samples, strict=True))
    df = square**2 / freedom if square else 1.0
    return _by_t(float(variant.mean() - baseline.mean()), math.sqrt(square), df)


def _by_t(centre: float, error: float, df: float) -> Interval:
    return around(centre, t_quantile(df) * error, df)


def block_jackknife(
    pieces: Sequence[pd.DataFrame], statistic: Callable[[Sequence[pd.DataFrame]], float]
) -> Interval | None:
    """Student's interval for `statistic(pieces)` from leaving out one of six blocks of neighbouring steps at a time
    (Künsch 1989; pseudo-values after Tukey 1958). None if a piece has fewer than 18 steps or the statistic is not
    finite.

    pieces: frames with a row for each step, all cut into blocks in the same way; a row stays together. The interval
    covers what varies from step to step within the runs (the batch, the probes) if that is forgotten within a block:
    95 times in 100 for independent steps, about 90 for a correlation of 0.5 between neighbours. It does not cover
    seeds. A trend within a piece counts as noise.
    """
    if min(map(len, pieces)) < 3 * BLOCKS:
        return None
    blocks = [np.arange(len(piece)) * BLOCKS // len(piece) for piece in pieces]
    whole = statistic(pieces)
    without = np.array(
        [statistic([p[b != left_out] for p, b in zip(pieces, blocks, strict=True)]) for left_out in range(BLOCKS)]
    )
    pseudo = BLOCKS * whole - (BLOCKS - 1) * without
    if not np.isfinite(pseudo).all():
        return None
    return _by_t(whole, float(pseudo.std(ddof=1)) / math.sqrt(BLOCKS), BLOCKS - 1)


def step_noise(values: Array) -> float:
    """Standard deviation of a positive curve's logarithm around its trend, (n,), from second differences: independent
    noise of variance s^2 gives them 6 s^2, a straight line 0. NaN for fewer than five values."""
    second = np.diff(np.log(values), n=2)
    return float(np.sqrt((second**2).mean() / 6)) if len(second) > 2 else math.nan


def fall(before: Array, after: Array) -> Interval | None:
    """Interval for 100 (1 - mean(after) / mean(before)) of two stretches of a positive curve, (n,) and (m,), whose
    steps scatter independently around a trend. None if one has fewer than 18 steps or a value that is not positive.

    `block_jackknife` would count the trend as noise. This is the delta method with each stretch's scatter by
    `step_noise`, and Student's t with half as many degrees of freedom as second differences, which are not independent.
    It covers the truth 94 to 99 times in 100 for any trend, even if single values scatter by 70 %.
    """
    parts = before, after
    if min(map(len, parts)) < 3 * BLOCKS or min(x.min() for x in parts) <= 0:
        return None
    share = after.mean() / before.mean()
    relative = [step_noise(x) ** 2 * float((x**2).sum()) / float(x.sum()) ** 2 for x in parts]
    return _by_t(100 * (1 - share), 100 * share * math.sqrt(sum(relative)), min(map(len, parts)) / 2 - 1)
