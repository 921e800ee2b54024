"""Intervals against enumerations, tables and their stated coverage."""

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reports.stats.intervals import block_jackknife, bootstrap_mean, fall, step_noise, student, welch


@pytest.mark.parametrize("k", [2, 3, 4])
def test_the_bootstrap_is_the_enumeration_of_all_resamples(k: int) -> None:
    """The ends are quantiles of all k^k equally likely resample means. Catches wrong multiplicities, or a random
    draw."""
    values = np.random.default_rng(k).normal(size=(3, k))
    low, high = bootstrap_mean(values)
    for row, lo, hi in zip(values, low, high, strict=True):
        means = np.sort([np.mean(row[list(chosen)]) for chosen in itertools.product(range(k), repeat=k)])
        assert lo == pytest.approx(means[int(np.ceil(0.025 * len(means) - 1e-9)) - 1])
        assert hi == pytest.approx(means[int(np.ceil(0.975 * len(means) - 1e-9)) - 1])


def test_the_bootstrap_of_many_values_nears_the_normal_interval() -> None:
    """mean -+ 1.96 s / sqrt(k) for k = 200. Catches resamples of the wrong size (a factor sqrt(2) in the width)."""
    values = np.random.default_rng(0).normal(3.0, 2.0, size=(1, 200))
    (low,), (high,) = bootstrap_mean(values)
    error = values.std() / np.sqrt(200)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.25 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.25 * error)


def test_one_value_has_no_bootstrap() -> None:
    """Catches a band of width 0 around a single seed."""
    with pytest.raises(ValueError, match="at least 2"):
        bootstrap_mean(np.ones((5, 1)))


def test_student_by_the_table() -> None:
    """t_{2, 0.975} = 4.303 from any table. Catches a normal quantile, or n in place of n - 1."""
    low, high = student(np.array([1.0, 2.0, 3.0]))
    assert (low, high) == pytest.approx((2 - 4.3027 / np.sqrt(3), 2 + 4.3027 / np.sqrt(3)), abs=1e-4)


def test_welch_of_equal_samples_is_the_pooled_interval() -> None:
    """Equal sizes and variances give df = 2 (n - 1) and sqrt(2 s^2 / n). Catches a swapped sign or wrong df."""
    a, b = np.array([1.0, 2.0, 3.0]), np.array([11.0, 12.0, 13.0])
    assert welch(a, b) == pytest.approx((10 - 2.7764 * np.sqrt(2 / 3), 10 + 2.7764 * np.sqrt(2 / 3)), abs=1e-4)


def test_coverage_of_three_seeds() -> None:
    """Student's interval covers the truth 95 times in 100, the bootstrap's 75 times (all three on one side: 2 / 2^3).
    So decisions use Student's. Catches the two exchanged."""
    values = np.random.default_rng(1).normal(size=(2000, 3))
    intervals = np.array([student(row) for row in values])
    assert np.mean((intervals[:, 0] <= 0) & (intervals[:, 1] >= 0)) == pytest.approx(0.95, abs=0.02)
    low, high = bootstrap_mean(values)
    assert np.mean((low <= 0) & (high >= 0)) == pytest.approx(0.75, abs=0.03)


def mean_of(pieces: Sequence[pd.DataFrame]) -> float:
    """The mean of the first column of the last piece."""
    return float(pieces[-1].iloc[:, 0].mean())


def test_six_equal_blocks_are_student_of_their_means() -> None:
    """For a mean, the pseudo-values are the blocks' means: t_{5, 0.975} = 2.571. Catches blocks that are not
    neighbours, and a jackknife variance without its factor."""
    values = np.random.default_rng(0).normal(size=36)
    means = values.reshape(6, 6).mean(axis=1)
    reach = 2.5706 * means.std(ddof=1) / np.sqrt(6)
    found = block_jackknife([pd.DataFrame(values)], mean_of)
    assert found == pytest.approx((values.mean() - reach, values.mean() + reach), abs=1e-4)


@pytest.mark.parametrize(("rho", "least"), [(0.0, 0.93), (0.5, 0.86)])
def test_coverage_of_blocks(rho: float, least: float) -> None:
    """The interval over 41 steps holds the true mean as often as its docstring says. Catches an interval that treats
    neighbours as independent (0.5: 75 in 100), or a normal quantile for six blocks."""
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(500, 41 + 50))
    for i in range(1, noise.shape[1]):
        noise[:, i] += rho * noise[:, i - 1]
    held = [block_jackknife([pd.DataFrame(row[50:])], mean_of) for row in noise]
    assert least <= np.mean([found is not None and found[0] <= 0 <= found[1] for found in held]) <= 0.99


def test_what_is_paired_stays_paired() -> None:
    """A variant that is 1 above a wandering baseline has an interval of width 0. Catches columns that are resampled
    separately."""
    walk = np.random.default_rng(2).normal(size=60).cumsum()
    frame = pd.DataFrame({"b": walk, "v": walk + 1})
    found = block_jackknife([frame], lambda pieces: float((pieces[0]["v"] - pieces[0]["b"]).mean()))
    assert found == pytest.approx((1.0, 1.0))


def test_few_steps_have_no_interval() -> None:
    """Catches a confident answer from a few milestones."""
    assert block_jackknife([pd.DataFrame(np.arange(17.0))], mean_of) is None


@pytest.mark.parametrize("scatter", [0.02, 0.3, 0.7])
def test_coverage_of_a_fall(scatter: float) -> None:
    """The fall from a steep first stretch to a flat one. The interval holds the truth 93 times in 100 or more. If the
    trend dominates, it is at most a third as wide as that of blocks. Catches a fall that counts as noise, a scatter
    that includes the trend, and one that is not relative."""
    rng = np.random.default_rng(0)
    early, late = 1 + 4 * np.exp(-np.arange(20) / 4), np.full(21, 0.6)
    truth = 100 * (1 - 0.6 / early.mean())

    def statistic(pieces: Sequence[pd.DataFrame]) -> float:
        return 100 * (1 - float(pieces[1][0].mean()) / float(pieces[0][0].mean()))

    held, widths = [], []
    for _ in range(300):
        parts = [x * rng.lognormal(-(scatter**2) / 2, scatter, len(x)) for x in (early, late)]
        found, blocks = fall(*parts), block_jackknife([pd.DataFrame(x) for x in parts], statistic)
        assert found and blocks
        held.append(found[0] <= truth <= found[1])
        widths.append([found[1] - found[0], blocks[1] - blocks[0]])
    assert np.mean(held) >= 0.93
    if scatter < 0.5:
        assert np.mean(widths, axis=0)[0] < np.mean(widths, axis=0)[1] / 3


def test_a_fall_needs_steps_and_positive_values() -> None:
    """Catches an interval from a handful of milestones, and a logarithm of 0."""
    assert fall(np.ones(17), np.ones(40)) is None and fall(np.ones(20), np.zeros(20)) is None


def test_the_scatter_around_a_trend() -> None:
    """A scatter of 0.3 around an exponential is found as 0.3, and a bare exponential has none. Catches a wrong factor
    of second differences."""
    bare = np.exp(-np.arange(400) / 50)
    assert step_noise(bare) == pytest.approx(0, abs=1e-12)
    assert step_noise(bare * np.random.default_rng(0).lognormal(0, 0.3, 400)) == pytest.approx(0.3, rel=0.1)


def test_coverage_of_a_rank_correlation() -> None:
    """20 independent points of a normal pair, whose rank correlation is 6 / pi asin(rho / 2). Catches a jackknife of
    ranks that were taken once, from all points."""
    rng = np.random.default_rng(0)
    truth = 6 / np.pi * np.arcsin(0.3)
    held = 0
    for _ in range(200):
        pair = pd.DataFrame(rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 20))
        found = block_jackknife([pair], lambda kept: float(kept[0][0].rank().corr(kept[0][1].rank())))
        held += found is not None and found[0] <= truth <= found[1]
    assert held / 200 == pytest.approx(0.95, abs=0.04)


def test_student_and_welch_are_scipys() -> None:
    """Both match `scipy.stats` on samples of 2 to 7 values. Catches a formula of ours that drifts from the
    library's."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b = (10 * rng.normal(size=rng.integers(2, 8)) + 50 for _ in range(2))
        assert student(a) == pytest.approx(tuple(stats.ttest_1samp(a, 0).confidence_interval()), rel=1e-12)
        found = stats.ttest_ind(b, a, equal_var=False).confidence_interval()
        assert welch(a, b) == pytest.approx(tuple(found), rel=1e-12)
