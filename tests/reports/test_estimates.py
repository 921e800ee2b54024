"""A check's number and its interval from the runs themselves, separate from seeds."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reports.experiments import Check, Windows
from reports.experiments.selection import Arm
from reports.sources import open_source
from reports.stats.estimates import of_curves, of_each_seed, over_steps, within_runs
from reports.stats.intervals import block_jackknife
from reports.stats.statistics import curve, describe
from reports.text.verdicts import trend
from tests.reports.conftest import write_run

METRIC, OTHER = "curvature/hutch_trace_mean", "train/grad_abs_mean"


def arms(root: Path, logged: dict[str, list[np.ndarray]], other: np.ndarray | None = None) -> list[Arm]:
    """An arm for each experiment, with seeds that log a curve every 10 steps."""
    found = []
    for experiment, curves in logged.items():
        for seed, values in enumerate(curves):
            rows = [(10 * (i + 1), {METRIC: x}) for i, x in enumerate(values)]
            if other is not None:  # logged from the seventh row on
                rows = [(step, row | ({OTHER: other[i]} if i > 5 else {})) for i, (step, row) in enumerate(rows)]
            write_run(root / experiment / str(seed), experiment, seed, rows=rows)
        runs = tuple(run for run in open_source(str(root / experiment)) if run.experiment == experiment)
        found.append(Arm(experiment, "baseline" if not found else "variant", runs))
    return found


def test_within_runs_is_the_mean_of_independent_runs(tmp_path: Path) -> None:
    """For two seeds whose levels differ by 100, the number is the mean of theirs. The half interval is half the root of
    the sum of squares of theirs. Catches an interval that includes the seeds' spread, and one that grows with the
    number of seeds."""
    rng = np.random.default_rng(0)
    baseline = [100 * (1 + seed) + rng.normal(size=36) for seed in range(2)]
    both = arms(tmp_path, {"e5": baseline, "e6": [curve * 1.1 + rng.normal(size=36) for curve in baseline]})
    check = Check(metric=METRIC, of="change_pct", at_most=0)
    singles = [[Arm(arm.experiment, arm.role, (arm.runs[i],)) for arm in both] for i in range(2)]
    each = [over_steps(check, single) for single in singles]
    found = within_runs(check, both)
    assert found.within and found.number == pytest.approx(np.mean([one.number for one in each]))
    reach = np.sqrt(sum(((one.within[1] - one.within[0]) / 2) ** 2 for one in each if one.within)) / 2
    assert found.within == pytest.approx((found.number - reach, found.number + reach))
    assert of_each_seed(check, both) == pytest.approx([one.number for one in each])


def test_a_correlation_is_of_its_window_and_leaves_blocks_out_of_both(tmp_path: Path) -> None:
    """The two metrics go together, apart from noise, in the first half and against each other in the second. The
    interval is that of the pairs. Catches the whole curve in place of the window, and different blocks left out of the
    two metrics, one of which is logged later."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=80)
    y = np.where(np.arange(80) < 40, x, -x) + 0.3 * rng.normal(size=80)
    (arm,) = arms(tmp_path, {"e5": [x]}, other=y)
    for window, inside, sign in (((10, 400), slice(6, 40), 1), ((410, 800), slice(40, 80), -1)):
        check = Check(metric=METRIC, statistic="correlation", against_metric=OTHER, window=window, at_most=0)
        found = over_steps(check, [arm])
        pairs = pd.DataFrame({"x": x[inside], "y": y[inside]})
        by_hand = block_jackknife([pairs], lambda kept: float(kept[0]["x"].rank().corr(kept[0]["y"].rank())))
        assert found.number is not None and sign * found.number > 0.8
        assert found.within == pytest.approx(by_hand)


def test_rounding_of_a_mean_or_a_quotient_decides_nothing(tmp_path: Path) -> None:
    """Three seeds that rotate the same three values have a flat mean curve. A quotient that is 3 everywhere has no
    correlation. Catches a lowest step, a trend or a rank that depends on the last bit."""
    values = np.array([0.1, 0.7, 0.4])
    seeds = [np.tile(np.roll(values, shift), 8) for shift in range(3)]
    (arm,) = arms(tmp_path / "flat", {"e5": seeds})
    flat = curve(arm, METRIC)
    assert np.ptp(np.mean(seeds, axis=0)) > 0, "the plain mean is not flat"
    assert trend(list(flat)) == "is flat"
    assert describe(flat, arm.last_step, Windows())["min_step"] == 10
    assert of_curves(Check(metric=METRIC, of="value", statistic="min_step", at_most=0), [arm]).number == 10
    x = np.random.default_rng(0).uniform(1, 2, 24)
    (one,) = arms(tmp_path / "quotient", {"e5": [x]}, other=x * 3)
    check = Check(metric=f"{OTHER} / {METRIC}", of="value", statistic="correlation", against_metric=METRIC, at_most=0)
    assert len(set((x * 3 / x)[6:])) > 1, "the plain quotient is not constant"
    assert of_curves(check, [one]).number is None
