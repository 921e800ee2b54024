"""Intervals, against enumerations, tables and their own promise of coverage."""

import itertools

import numpy as np
import pytest

from reports.intervals import block_bootstrap, bootstrap_mean, student, welch


@pytest.mark.parametrize("k", [2, 3, 4])
def test_the_bootstrap_is_the_enumeration_of_all_resamples(k: int) -> None:
    """The quantiles of all k^k equally likely resample means. Catches wrong multiplicities, or a random draw."""
    values = np.random.default_rng(k).normal(size=(3, k))
    low, high = bootstrap_mean(values)
    for row, lo, hi in zip(values, low, high, strict=True):
        means = np.sort([np.mean(row[list(chosen)]) for chosen in itertools.product(range(k), repeat=k)])
        assert lo == pytest.approx(means[int(np.ceil(0.025 * len(means) - 1e-9)) - 1])
        assert hi == pytest.approx(means[int(np.ceil(0.975 * len(means) - 1e-9)) - 1])


def test_the_bootstrap_of_many_values_nears_the_normal_interval() -> None:
    """mean -+ 1.96 s / sqrt(k) for k = 200. Catches resamples of the wrong size (a sqrt(2) in the width)."""
    values = np.random.default_rng(0).normal(3.0, 2.0, size=(1, 200))
    (low,), (high,) = bootstrap_mean(values)
    error = values.std() / np.sqrt(200)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.25 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.25 * error)


def test_one_value_has_no_bootstrap() -> None:
    """Catches: a band of width 0 around a single seed."""
    with pytest.raises(ValueError, match="at least 2"):
        bootstrap_mean(np.ones((5, 1)))


def test_student_by_the_table() -> None:
    """t_{2, 0.975} = 4.303 of any table. Catches a normal quantile, or n for n - 1."""
    low, high = student(np.array([1.0, 2.0, 3.0]))
    assert (low, high) == pytest.approx((2 - 4.3027 / np.sqrt(3), 2 + 4.3027 / np.sqrt(3)), abs=1e-4)


def test_welch_of_equal_samples_is_the_pooled_interval() -> None:
    """Equal sizes and variances give df = 2 (n - 1) and sqrt(2 s^2 / n). Catches a swapped sign or wrong df."""
    a, b = np.array([1.0, 2.0, 3.0]), np.array([11.0, 12.0, 13.0])
    assert welch(a, b) == pytest.approx((10 - 2.7764 * np.sqrt(2 / 3), 10 + 2.7764 * np.sqrt(2 / 3)), abs=1e-4)


def test_coverage_of_three_seeds() -> None:
    """Student's covers the truth 95 times in 100, the bootstrap 75 (all three on one side: 2 / 2^3): why decisions
    take the former. Catches the two being exchanged."""
    values = np.random.default_rng(1).normal(size=(2000, 3))
    intervals = np.array([student(row) for row in values])
    assert np.mean((intervals[:, 0] <= 0) & (intervals[:, 1] >= 0)) == pytest.approx(0.95, abs=0.02)
    low, high = bootstrap_mean(values)
    assert np.mean((low <= 0) & (high >= 0)) == pytest.approx(0.75, abs=0.03)


def test_blocks_see_what_single_steps_do_not() -> None:
    """AR(1) with rho = 0.9: the mean's error is sqrt((1 + rho) / (1 - rho)) = 4.4 times that of independent steps.
    Catches blocks of one, and series that are not resampled together."""
    rng = np.random.default_rng(2)
    noise = rng.normal(size=2000)
    walk = np.zeros(2000)
    for i in range(1, 2000):
        walk[i] = 0.9 * walk[i - 1] + noise[i]
    found = block_bootstrap(walk[None], lambda x: x[:, 0].mean(axis=-1))
    assert found is not None
    alone = 2 * 1.96 * walk.std() / np.sqrt(2000)
    assert 2.2 * alone < found[1] - found[0] < 5.5 * alone
    both = np.stack([walk, walk + 1.0])
    paired = block_bootstrap(both, lambda x: x[:, 1].mean(axis=-1) - x[:, 0].mean(axis=-1))
    assert paired == pytest.approx((1.0, 1.0))


def test_few_steps_have_no_interval() -> None:
    """Catches: five milestones resampled into a confident answer."""
    assert block_bootstrap(np.arange(7.0)[None], lambda x: x[:, 0].mean(axis=-1)) is None
