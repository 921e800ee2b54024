"""Two arms compared draw by draw: closed forms, coverage, and what cannot be paired."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reports.experiments.selection import Arm
from reports.runs import Run
from reports.stats.draws import can_pair, draw_table, paired_change, paired_difference, paired_ratio
from tests.reports.conftest import config_of

COMMON = "curvature/ref_trace_mean"
FIXED = {"curvature__draws": "fixed", "curvature__seed": 0, "data__dataset": "embedded", "data__batch_size": 4}


def a_run(experiment: str, values: np.ndarray, seed: int = 1, **extra: Any) -> Run:
    """A run with lists of the common loss, (draws, steps), at the steps 10, 20, ..."""
    lists = {10 * (place + 1): tuple(column) for place, column in enumerate(values.T.tolist())}
    config = config_of(experiment, seed, **{**FIXED, "curvature__probes": len(values), **extra})
    return Run(
        f"{experiment}-{seed}", experiment, seed, config, pd.DataFrame(), Path(), lists={"curvature/ref_values": lists}
    )


def arm(experiment: str, *values: np.ndarray, **extra: Any) -> Arm:
    """An arm with a run for each table of values."""
    runs = tuple(a_run(experiment, each, seed, **extra) for seed, each in enumerate(values, start=1))
    return Arm(experiment, "baseline", runs)


def tables(rng: np.random.Generator, *, draws: int = 16, steps: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Values of a baseline with mean 100 and a variant with mean 110 at every step. What a draw adds is nearly the same
    in both and at all steps."""
    shared = rng.normal(0, 20, (draws, 1))
    own = rng.normal(0, 3, (2, draws, steps))
    return 100 + shared + own[0], 110 + 1.1 * shared + own[1]


def test_the_difference_is_that_of_a_paired_t_test() -> None:
    """scipy's paired t-test of each draw's mean over steps. Catches draws taken as independent between the arms, and
    steps counted as if they averaged the draws' errors out."""
    b, v = tables(np.random.default_rng(1))
    found = paired_difference(arm("e5", b), arm("e6", v), COMMON)
    assert found and found.within and found.sem
    wanted = stats.ttest_rel(v.mean(1), b.mean(1))
    assert found.number == pytest.approx(v.mean() - b.mean(), rel=1e-12)
    assert found.within == pytest.approx(tuple(wanted.confidence_interval()), rel=1e-10)
    assert found.number / found.sem == pytest.approx(wanted.statistic, rel=1e-10)
    assert "16 paired draws" in found.basis
    apart = stats.ttest_ind(v.mean(1), b.mean(1)).confidence_interval()
    assert found.within[1] - found.within[0] < 0.2 * (apart.high - apart.low)


def test_each_draw_is_averaged_over_the_seeds_first() -> None:
    """Two seeds of the baseline, three of the variant. Catches seeds that count as further draws."""
    rng = np.random.default_rng(2)
    (b1, v1), (b2, v2), (_, v3) = (tables(rng) for _ in range(3))
    found = paired_difference(arm("e5", b1, b2), arm("e6", v1, v2, v3), COMMON)
    wanted = stats.ttest_rel(np.mean([v1, v2, v3], 0).mean(1), np.mean([b1, b2], 0).mean(1)).confidence_interval()
    assert found and found.within == pytest.approx(tuple(wanted), rel=1e-10)


def test_a_quotient_has_the_error_of_its_residuals() -> None:
    """R, and Student's t times the standard error of (v - R b) / mean b by a loop over draws. The change in per cent is
    100 (R - 1), step by step or for the means, and changes its sign with the baseline's. Catches an error that leaves
    the baseline's out."""
    b, v = tables(np.random.default_rng(3), draws=8)
    e5, e6 = arm("e5", b), arm("e6", v)
    found = paired_ratio(e5, e6, COMMON)
    R = v.mean() / b.mean()
    residuals = [(v[k].mean() - R * b[k].mean()) / b.mean() for k in range(8)]
    reach = stats.t.ppf(0.975, 7) * np.std(residuals, ddof=1) / 8**0.5
    assert found and found.number == pytest.approx(R, rel=1e-12)
    assert found.within == pytest.approx((R - reach, R + reach), rel=1e-10)
    of_means = paired_change(e5, e6, COMMON, of_means=True)
    assert of_means and of_means.within == pytest.approx((100 * (R - 1 - reach), 100 * (R - 1 + reach)), rel=1e-9)
    single = [paired_change(e5, e6, COMMON, [step]) for step in (10, 20, 30, 40)]
    by_step = paired_change(e5, e6, COMMON)
    assert by_step and by_step.number == pytest.approx(np.mean([each.number for each in single if each]), rel=1e-12)
    below = paired_change(arm("e5", -b), arm("e6", -v), COMMON)
    assert below and by_step.within and below.within == pytest.approx([-end for end in reversed(by_step.within)])


def test_the_intervals_cover_95_times_in_100() -> None:
    """1,000 repetitions with other draws, whose errors are common to arms and steps. A right interval misses 50 times
    +- 7. Catches a normal quantile in place of Student's for 8 draws, and an error of the quotient that leaves a part
    out."""
    rng = np.random.default_rng(4)
    covered = dict.fromkeys(("difference", "ratio"), 0)
    for _ in range(20):
        repeated = [tables(rng, draws=8, steps=3) for _ in range(50)]
        b, v = (np.hstack(values) for values in zip(*repeated, strict=True))
        e5, e6 = arm("e5", b), arm("e6", v)
        for first in range(10, 1501, 30):
            steps = [first, first + 10, first + 20]
            for name, truth, measure in (("difference", 10.0, paired_difference), ("ratio", 1.1, paired_ratio)):
                found = measure(e5, e6, COMMON, steps)
                assert found and found.within
                covered[name] += found.within[0] <= truth <= found.within[1]
    assert all(930 <= count <= 970 for count in covered.values()), covered


def test_only_the_steps_asked_for_count() -> None:
    """A step that one arm lacks is in neither mean. Catches a mean over all steps, and steps matched by place."""
    b, v = tables(np.random.default_rng(5))
    e5, e6 = arm("e5", b), arm("e6", v[:, :3])
    found = [paired_difference(e5, e6, COMMON, steps) for steps in (None, [20, 30, 40], pd.Index([40]))]
    assert found[0] and found[0].number == pytest.approx((v - b)[:, :3].mean())
    assert found[1] and found[1].number == pytest.approx((v - b)[:, 1:3].mean())
    assert "at the 2 of 3 steps that have them" in found[1].basis
    assert found[2] is None


def test_draws_without_a_value_are_left_out_and_counted() -> None:
    """NaN, or a value that counts as infinite, in one step of one arm. With fewer than three draws left there is a
    number and no interval. Catches a draw that is in one arm's mean only."""
    b, v = tables(np.random.default_rng(6), draws=5)
    b[1, 2], v[3, 0] = np.nan, 1e200
    found = paired_difference(arm("e5", b), arm("e6", v), COMMON)
    kept = [0, 2, 4]
    assert found and found.number == pytest.approx((v - b)[kept].mean())
    assert found.within == pytest.approx(tuple(stats.ttest_rel(v[kept].mean(1), b[kept].mean(1)).confidence_interval()))
    assert found.basis == "Student's t over 3 paired draws (2 more lack a value)"
    b[0] = np.nan
    few = [measure(arm("e5", b), arm("e6", v), COMMON) for measure in (paired_difference, paired_ratio, paired_change)]
    assert [each and (each.within, each.basis) for each in few] == [
        (None, "2 paired draws (3 more lack a value) are too few for an interval")
    ] * 3
    b[:] = np.nan
    none = paired_difference(arm("e5", b), arm("e6", v), COMMON)
    assert none and none.number is none.within is None


def test_no_change_of_nothing() -> None:
    """A baseline of 0 has no quotient. Catches an infinite change."""
    b, v = tables(np.random.default_rng(7))
    b[:, 1] = 0
    found = paired_change(arm("e5", b), arm("e6", v), COMMON)
    rest = paired_change(arm("e5", b), arm("e6", v), COMMON, [10, 30, 40])
    assert found and rest and found.within == rest.within
    assert paired_ratio(arm("e5", 0 * b), arm("e6", v), COMMON) is None


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"curvature__draws": "batch"}, "e6 took new draws at each step"),
        ({"curvature__seed": 1}, "curvature.seed is 0 in e5, 1 in e6"),
        ({"curvature__per_draw": 2}, "curvature.per_draw is 1 in e5, 2 in e6"),
        ({"curvature__neutral": True}, "curvature.neutral is false in e5, true in e6"),
        ({"curvature__batch_size": 8}, "the number of images in a draw is 4 in e5, 8 in e6"),
        ({"data__dataset": "cifar10"}, "data.dataset is embedded in e5, cifar10 in e6"),
        ({"data__subset": 50}, "data.subset is null in e5, 50 in e6"),
        ({"data__batch_size": 8, "curvature__batch_size": 4}, ""),
        ({"train__total_steps": 10, "loss__minsnr_gamma": 1.0, "model__base_channels": 32}, ""),
    ],
)
def test_what_cannot_be_paired_says_why(changed: dict[str, Any], why: str) -> None:
    """Catches arms on other draws that are compared as if they were the same, and a setting without effect on the draws
    that prevents it."""
    b, v = tables(np.random.default_rng(8))
    plain: dict[str, Any] = {"curvature__neutral": False, "curvature__per_draw": 1}
    e5, e6 = arm("e5", b, **plain), arm("e6", v, **{**plain, **changed})
    assert can_pair(e5, e6) == why
    for measure in (paired_difference, paired_ratio, paired_change):
        assert (measure(e5, e6, COMMON) is None) == bool(why)


def test_other_images_of_one_folder_are_not_paired() -> None:
    """Catches two trainings on parts of one folder whose draws have other images at the same places."""
    b, v = tables(np.random.default_rng(8))
    folder = {"data__dataset": "folder", "data__root": "x"}
    for key, value, why in (("hold_out", 9, "0 in e5, 9 in e6"), ("skip_bad", True, "false in e5, true in e6")):
        e5, e6 = arm("e5", b, **folder), arm("e6", v, **folder, **{f"data__{key}": value})
        assert can_pair(e5, e6) == f"data.{key} is {why}"


def test_lists_that_are_absent_or_of_another_length_are_not_paired() -> None:
    """Catches a run from before the lists, or without a list of this loss, that is compared with nothing."""
    b, v = tables(np.random.default_rng(9))
    e5, e6 = arm("e5", b), arm("e6", v)
    assert can_pair(e5, e6, "curvature/neutral_trace_mean") == "e5 and e6 did not log a list of the draws' values"
    assert can_pair(e5, arm("e6", v[:9], curvature__probes=16)) == "e5 logged 16 draws, e6 9"
    assert can_pair(e5, arm("e6", v[:, :0], v[:, :0])).startswith("e6 did not")
    assert draw_table(arm("e5", b, b[:3], curvature__probes=16), COMMON).empty
    late = {step + 5: values for step, values in e6.runs[0].lists["curvature/ref_values"].items()}
    e6.runs[0].lists["curvature/ref_values"].update(late)
    for step in (10, 20, 30, 40):
        del e6.runs[0].lists["curvature/ref_values"][step]
    assert can_pair(e5, Arm("e6", "variant", e6.runs)) == "they have no measured step in common"


def test_a_seed_without_lists_is_left_out_and_said() -> None:
    """An older seed that logged no lists, on another design, leaves the other's pairs as they are. Catches one old run
    that takes an arm's pairs away, and one that is left out in silence."""
    b, v = tables(np.random.default_rng(10))
    older = a_run("e6", v[:, :0], 2, curvature__neutral=False)
    alone, both = arm("e6", v), Arm("e6", "variant", (*arm("e6", v).runs, older))
    assert can_pair(arm("e5", b), both) == ""
    found, wanted = paired_difference(arm("e5", b), both, COMMON), paired_difference(arm("e5", b), alone, COMMON)
    assert found and wanted and found.within == wanted.within
    assert "of 1 of e6's 2 seeds" in found.basis and "seeds" not in wanted.basis


@pytest.mark.parametrize(
    ("metric", "key"),
    [
        (COMMON, "curvature/ref_values"),
        ("curvature/hutch_trace_mean", "curvature/hutch_values"),
        ("curvature/neutral_values", "curvature/neutral_values"),
        ("curvature/trace_by_noise/lambda_-2_mean", "curvature/trace_by_noise/lambda_-2_values"),
        ("curvature/ref_trace_std", None),
        ("train/loss", None),
    ],
)
def test_a_mean_has_its_list(metric: str, key: str | None) -> None:
    """Catches a trace compared by another loss's draws, and a metric that has none compared by some."""
    b, _ = tables(np.random.default_rng(10))
    one = arm("e5", b)
    lists = one.runs[0].lists
    lists[key or "x"] = lists.pop("curvature/ref_values")
    table = draw_table(one, metric)
    if key is None:
        assert table.empty
    else:
        np.testing.assert_array_equal(table.to_numpy(), b)
        assert list(table.columns) == [10, 20, 30, 40]
