"""Intervals: over seeds, and over the steps of a single run.

Two questions, two answers. A *band* around a curve shows what the seeds at hand spread over: the percentile bootstrap
of their mean. A *decision* needs an interval that holds what it promises with three seeds, where the percentile
bootstrap of a mean is no wider than the range of the values and covers the truth 75 times in 100, not 95: Student's t.
"""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit

Array = NDArray[np.float64]
LEVEL = 0.95
_EXACT = 6  # with so many seeds or fewer every resample is enumerated: at most 462
_RESAMPLES = 1000
_CHUNK = 2048
_BLOCKS = 6
T5 = float(stdtrit(_BLOCKS - 1, (1 + LEVEL) / 2))  # half an interval of `block_jackknife`, in standard errors


def bootstrap_mean(values: Array, level: float = LEVEL) -> tuple[Array, Array]:
    """Percentile bootstrap of the mean over the last axis (Efron & Tibshirani 1993, ch. 13); (low, high), each (n,).

    values: (n, k), k seeds. Every resample counts with its exact probability where k <= 6; above, 1000 are drawn from a
    fixed generator, the same for every row. Raises ValueError for k < 2.
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
        for out, tail in ((low, (1 - level) / 2), (high, (1 + level) / 2)):
            # Of 1,000 resamples 25 add up to 0.025 in truth, and to that but for 1e-13 in floats.
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


def student(values: Array, level: float = LEVEL) -> tuple[float, float]:
    """Student's interval for the mean of k >= 2 independent values, (k,): mean -+ t_{k-1} s / sqrt(k)."""
    return _around(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values)), len(values) - 1, level)


def welch(baseline: Array, variant: Array, level: float = LEVEL) -> tuple[float, float]:
    """Welch's interval for mean(variant) - mean(baseline), two independent samples of 2 values or more."""
    parts = [float(x.var(ddof=1)) / len(x) for x in (variant, baseline)]
    square = sum(parts)
    df = (
        square**2 / sum(p**2 / (len(x) - 1) for p, x in zip(parts, (variant, baseline), strict=True)) if square else 1.0
    )
    return _around(float(variant.mean() - baseline.mean()), math.sqrt(square), df, level)


def _around(centre: float, error: float, df: float, level: float) -> tuple[float, float]:
    reach = float(stdtrit(df, (1 + level) / 2)) * error
    return centre - reach, centre + reach


def block_jackknife(
    pieces: Sequence[pd.DataFrame],
    statistic: Callable[[Sequence[pd.DataFrame]], float],
    level: float = LEVEL,
) -> tuple[float, float] | None:
    """Student's interval for `statistic(pieces)` by leaving out one of six blocks of neighbouring steps at a time
    (Künsch 1989; pseudo-values after Tukey 1958). None for fewer than 18 steps in a piece, or where the statistic is
    not finite.

    pieces: frames of a row for each step, cut into blocks alike; what stands in one row stays together. It covers what
    varies from step to step within the runs (the batch, the probes) where that is forgotten within a block: 95 times in
    100 for independent steps, about 90 at a correlation of 0.5 between neighbours. Not what varies from seed to seed.
    A trend within a piece is taken for noise.
    """
    if min(map(len, pieces)) < 3 * _BLOCKS:
        return None
    blocks = [np.arange(len(piece)) * _BLOCKS // len(piece) for piece in pieces]
    whole = statistic(pieces)
    without = np.array(
        [statistic([p[b != left_out] for p, b in zip(pieces, blocks, strict=True)]) for left_out in range(_BLOCKS)]
    )
    pseudo = _BLOCKS * whole - (_BLOCKS - 1) * without
    if not np.isfinite(pseudo).all():
        return None
    return _around(whole, float(pseudo.std(ddof=1)) / math.sqrt(_BLOCKS), _BLOCKS - 1, level)


def step_noise(values: Array) -> float:
    """Standard deviation of a positive curve's logarithm around its trend, (n,), from second differences: independent
    noise of variance s^2 gives them 6 s^2, and a straight line nothing. NaN for fewer than five values."""
    second = np.diff(np.log(values), n=2)
    return float(np.sqrt((second**2).mean() / 6)) if len(second) > 2 else math.nan


def fall(before: Array, after: Array, level: float = LEVEL) -> tuple[float, float] | None:
    """Interval for 100 (1 - mean(after) / mean(before)) of two stretches of a positive curve, (n,) and (m,), whose
    steps scatter independently around a trend: that is no noise, as `block_jackknife` would have it. None for fewer
    than 18 steps in one of them, or a value that is not positive.

    By the delta method, with the scatter of each stretch by `step_noise` and Student's t of half its second
    differences, which are no independent numbers. It covers 94 to 99 times in 100, whatever the trend, also where
    single values scatter by 70 %.
    """
    parts = before, after
    if min(map(len, parts)) < 3 * _BLOCKS or min(x.min() for x in parts) <= 0:
        return None
    share = after.mean() / before.mean()
    relative = [step_noise(x) ** 2 * float((x**2).sum()) / float(x.sum()) ** 2 for x in parts]
    return _around(100 * (1 - share), 100 * share * math.sqrt(sum(relative)), min(map(len, parts)) / 2 - 1, level)
