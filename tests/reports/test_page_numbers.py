"""Every table and sentence of a report's page, and its CSV file, against numbers worked out by hand from the runs of
`by_hand.py`."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reports.experiments.selection import Selection
from reports.figures import Figure
from reports.figures.library import entries
from reports.judging.checks import claim_numbers, judge_criteria, judge_statements
from reports.library import make_library, sentences
from reports.sources import open_source
from reports.stats.statistics import numbers
from reports.text.pages import markdown_page
from reports.text.short import in_short
from reports.text.verdicts import all_verdicts
from tests.reports import by_hand
from tests.reports.by_hand import (
    FINALS,
    MILESTONES,
    STEPS,
    Z95,
    Selections,
    at_milestones,
    close,
    four,
    logged,
    mean,
    says,
    student,
    tables,
)
from tests.reports.conftest import chosen, write_run

ARMS = ("e5", "e6")
HUTCH, REF = "curvature/hutch_trace", "curvature/ref_trace"
COMPARED = ("train/loss", "train/mse", "train/grad_global_L2", f"{HUTCH}_mean", f"{REF}_mean", "val/fid")
CURVES = ("train/loss", "train/mse", "train/grad_global_L2", "train/grad_abs_mean", f"{HUTCH}_mean", f"{HUTCH}_sem")
CURVES += (f"{HUTCH}_std", f"{REF}_mean", f"{REF}_sem")


@pytest.fixture(scope="module")
def selections(tmp_path_factory: pytest.TempPathFactory) -> Selections:
    """The runs of `by_hand.py`, written once."""
    return by_hand.make_selections(tmp_path_factory.mktemp("by-hand"))


@pytest.fixture(scope="module")
def two(selections: Selections) -> dict[str, list[list[str]]]:
    """The tables on the page for two seeds."""
    return tables(page_of(selections.two))


@pytest.fixture(scope="module")
def one(selections: Selections) -> dict[str, list[list[str]]]:
    """The tables on the page for one seed."""
    return tables(page_of(selections.one))


def page_of(selection: Selection) -> str:
    return markdown_page(selection, numbers(selection), [], ["ddpm"])


def steps_of(metric: str) -> np.ndarray:
    return np.array(MILESTONES) if metric.startswith("val/") else STEPS


def of_curve(values: np.ndarray, steps: np.ndarray) -> dict[str, float]:
    """The page's numbers for a curve. Steps up to 2000 are early, steps from 8000 on are late."""
    early, late = values[steps <= 2000].mean(), values[steps >= 8000].mean()
    return {
        **{"first": values[0], "last": values[-1], "early_mean": early, "late_mean": late},
        **{"drop_pct": 100 * (early - late) / early, "min": values.min(), "min_step": steps[values.argmin()]},
    }


def of_pair(metric: str, seeds: tuple[int, ...]) -> dict[str, float]:
    """The page's numbers for e6 against e5."""
    e5, e6, steps = mean("e5", metric, seeds), mean("e6", metric, seeds), steps_of(metric)
    difference = e6 - e5
    change = 100 * difference / e5
    found = {
        **{"paired_count": len(steps), "lower_count": (e6 < e5).sum(), "higher_count": (e6 > e5).sum()},
        **{"mean_change_pct": change.mean(), "min_change_pct": change.min(), "max_change_pct": change.max()},
        "change_of_means_pct": 100 * (e6.mean() / e5.mean() - 1),
        "mean_difference": difference.mean(),
        "late_mean_difference": difference[steps >= 8000].mean(),
        "late_mean_change_pct": 100 * (e6[steps >= 8000].mean() / e5[steps >= 8000].mean() - 1),
    }
    if metric.startswith("curvature/"):  # independent errors from 20 steps, 2 arms and the seeds
        sems = [logged(arm, seed)[metric.replace("_mean", "_sem")] for arm in ARMS for seed in seeds]
        found["mean_difference_sem"] = math.sqrt(sum((each**2).sum() for each in sems)) / len(seeds) / 20
    if len(seeds) == 2:
        each = [(logged("e6", seed)[metric] - logged("e5", seed)[metric]).mean() for seed in seeds]
        low, high = student(each)
        found |= {"seeds_mean_difference": np.mean(each), "seeds_mean_difference_low": low}
        found["seeds_mean_difference_high"] = high
    return found


def all_numbers(seeds: tuple[int, ...]) -> dict[tuple[str, str, str], float]:
    found: dict[tuple[str, str, str], float] = {}
    for arm in ARMS:
        for metric in (*CURVES, "val/fid"):
            steps, each = steps_of(metric), [logged(arm, seed)[metric] for seed in seeds]
            mine = of_curve(mean(arm, metric, seeds), steps)
            ranged = {name: [of_curve(x, steps)[name] for x in each] for name in ("last", "early_mean", "late_mean")}
            if metric == "val/fid":
                mine |= {f"at_{step}": mean(arm, metric, seeds)[i] for i, step in enumerate(MILESTONES)}
                ranged |= {f"at_{step}": [x[i] for x in each] for i, step in enumerate(MILESTONES)}
            if len(seeds) > 1:
                mine["seeds"] = len(seeds)
                mine |= {f"{name}_lowest_seed": min(values) for name, values in ranged.items()}
                mine |= {f"{name}_highest_seed": max(values) for name, values in ranged.items()}
            found |= {(arm, metric, name): value for name, value in mine.items()}
        ends = [FINALS[arm, seed] for seed in seeds]
        found[arm, "final/fid", "last"] = np.mean(ends)
        if len(seeds) > 1:
            found[arm, "final/fid", "last_lowest_seed"] = min(ends)
            found[arm, "final/fid", "last_highest_seed"] = max(ends)
    for metric in COMPARED:
        found |= {("e6 vs e5", metric, name): value for name, value in of_pair(metric, seeds).items()}
    return found


@pytest.mark.parametrize("seeds", [(1, 2), (1,)])
def test_every_number_of_the_csv_file(selections: Selections, seeds: tuple[int, ...]) -> None:
    """`numbers.csv` has all these numbers and, apart from the claims', no others. Catches a window off by one, a mean
    over the wrong seeds, a change of the other arm, errors added in place of their squares, and Student's interval with
    a wrong number of seeds."""
    table = numbers(selections.two if len(seeds) == 2 else selections.one)
    found = {(row[0], row[1], row[2]): row[3] for row in table.itertuples(index=False)}
    wanted = all_numbers(seeds)
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert found[key] == pytest.approx(value, rel=1e-9, abs=1e-12), key


def test_what_was_compared(selections: Selections, one: dict[str, list[list[str]]]) -> None:
    """The page states runs, configs and protocols. Catches a run in another's row, and windows and counts that do not
    match the numbers."""
    page = page_of(selections.one)
    ends = {"e5": ("baseline", "10000"), "e6": ("variant", "10000"), "e1": ("context", "30000")}
    for row, (arm, (role, last)) in zip(one["arm"][1:], ends.items(), strict=True):
        folder = "e1" if arm == "e1" else f"{arm}-1"
        wanted = [arm, role, f"`{arm}-s1-{folder}`", "1", last, "finished", "2026-01-01 00:00", "`0123456789`"]
        assert row == [*wanted, f"`{folder}`"]
    assert one["key"] == [["key", "e5", "e6", "declared"], ["`loss.weighting`", "`constant`", "`minsnr`", "yes"]]
    assert "Early window: steps above 0 up to 20 % of the run; late window: from 80 % to the last step." in page
    assert "It differs from e5 in: train.total\\_steps = 30000." in page
    assert "- `val/fid` in e5, e6, e1: protocol `aaaa1111`: sampler = ddpm, nfe = 50, n\\_samples = 64\n" in page
    assert "- `final/fid` in e5, e6, e1: protocol `bbbb2222`: sampler = ddpm, nfe = 50, n\\_samples = 128\n" in page


def test_the_table_of_numbers(two: dict[str, list[list[str]]]) -> None:
    """A row for each metric and arm, in that order. Catches swapped columns."""
    head, *rows = two["metric"]
    assert head == ["metric", "arm", "first", "last", "early mean", "late mean", "drop %", "lowest (step)"]
    metrics = [name for name in CURVES if not name.endswith("_sem")]
    wanted = all_numbers((1, 2))
    assert [(row[0], row[1]) for row in rows] == [(f"`{name}`", arm) for name in metrics for arm in ARMS]
    for row in rows:
        key = row[1], row[0].strip("`")
        for cell, name in zip(row[2:7], ("first", "last", "early_mean", "late_mean", "drop_pct"), strict=True):
            says(cell, wanted[*key, name])
        says(row[7], wanted[*key, "min"], wanted[*key, "min_step"])


def test_the_table_of_fids(two: dict[str, list[list[str]]], one: dict[str, list[list[str]]]) -> None:
    """For one seed, +- half the 95 % interval, 1.96 errors. Catches one error, another arm's error, best in place of
    last, and swapped floor and ceiling."""
    assert one["step"] == [
        ["step", "e5", "e6", "e1 (context)"],
        ["2000", "40.00 ± 3.92", "38.00 ± 1.96", "35.00 ± 0.49"],
        ["6000", "30.00 ± 1.96", "27.00 ± 1.47", "36.00 ± 0.49"],
        ["10000", "24.00 ± 0.98", "28.00 ± 2.94", "31.00 ± 0.49"],
        ["*best*", "24.00 (step 10000)", "27.00 (step 6000)", "31.00 (step 10000)"],
        ["*last*", "24.00 (step 10000)", "28.00 (step 10000)", "31.00 (step 10000)"],
        ["*final*", "22.00", "20.00", "19.00"],
        ["*real images*", "1.25", "1.25", "1.25"],
        ["*uniform noise*", "50.00", "50.00", "50.00"],
    ]
    assert two["step"][:7] == [  # means of the seeds: 40 and 43, 38 and 39, ...
        ["step", "e5", "e6"],
        ["2000", "41.50", "38.50"],
        ["6000", "31.50", "28.00"],
        ["10000", "24.50", "28.60"],
        ["*best*", "24.50 (step 10000)", "28.00 (step 6000)"],
        ["*last*", "24.50 (step 10000)", "28.60 (step 10000)"],
        ["*final*", "22.75", "20.60"],
    ]


@pytest.mark.parametrize("seeds", [(1, 2), (1,)])
def test_the_table_of_pairs(selections: Selections, seeds: tuple[int, ...]) -> None:
    """Catches swapped lowest and highest, +- two errors, and the whole run's difference in place of the late one."""
    head, *rows = tables(page_of(selections.two if len(seeds) == 2 else selections.one))["pair"]
    assert head[2:] == [
        *("steps", "variant lower at", "mean of changes %", "lowest", "highest", "mean difference", "late difference")
    ]
    weighted = ("train/loss", "train/grad_global_L2", f"{HUTCH}_mean")
    assert [(row[0], row[1]) for row in rows] == [
        ("e6 vs e5", f"`{name}`" + " †" * (name in weighted)) for name in COMPARED
    ]
    for row, metric in zip(rows, COMPARED, strict=True):
        wanted = of_pair(metric, seeds)
        names = ("paired_count", "lower_count", "mean_change_pct", "min_change_pct", "max_change_pct")
        for cell, name in zip(row[2:7], names, strict=True):
            says(cell, wanted[name])
        sem = [wanted["mean_difference_sem"]] if "mean_difference_sem" in wanted else []
        says(row[7], wanted["mean_difference"], *sem)
        says(row[8], wanted["late_mean_difference"])


# ---- claims ----------------------------------------------------------------------------------------------


def late_mean(arm: str, seed: int, metric: str, since: int) -> float:
    return float(logged(arm, seed)[metric][steps_of(metric) >= since].mean())


CRITERIA: dict[str, Callable[[int], float]] = {  # for one seed
    f"{HUTCH}_mean": lambda seed: _change(seed, f"{HUTCH}_mean", 6000),
    f"{REF}_mean": lambda seed: _change(seed, f"{REF}_mean", 6000),
    "val/fid": lambda seed: logged("e6", seed)["val/fid"][-1] - logged("e5", seed)["val/fid"][-1],
    "train/mse": lambda seed: _change(seed, "train/mse", 6000),
}


def _change(seed: int, metric: str, since: int) -> float:
    return 100 * (late_mean("e6", seed, metric, since) / late_mean("e5", seed, metric, since) - 1)


def test_the_criteria_are_decided_over_seeds(selections: Selections, two: dict[str, list[list[str]]]) -> None:
    """The last 40 % are the steps from 6000 on. The test checks numbers, Student's intervals of two paired seeds, and
    their verdicts. Catches an interval that does not belong to the number, and a verdict from only one end of it."""
    head, *rows = two["criterion"]
    assert head[4:] == ["number", "95 % interval", "after Holm"]
    bounds = {f"{HUTCH}_mean": (-math.inf, -15), f"{REF}_mean": (-math.inf, -5), "val/fid": (-math.inf, -1)}
    bounds["train/mse"] = (-math.inf, 5)
    assert [row[1] for row in rows[:4]] == ["**pass**", "**undecided**", "**fail**", "**pass**"]
    assert [row[1] for row in rows[4:]] == ["**fail: not equal within 5 %**", "**undecided**", ""]
    fids = [[logged(arm, seed)["val/fid"][-1] for seed in (1, 2)] for arm in ("e5", "e6")]
    assert student([100 * (v / b - 1) for b, v in zip(*fids, strict=True)])[0] > 5
    assert all("was not measured" in row[5] for row in rows[5:])  # two checks of one criterion
    for row, (metric, number), judged in zip(rows, CRITERIA.items(), judge_criteria(selections.two), strict=False):
        each = [number(seed) for seed in (1, 2)]
        low, high = student(each)
        least, most = bounds[metric]
        verdict = "pass" if least <= low and high <= most else "fail" if low > most or high < least else "undecided"
        assert row[1] == f"**{verdict}**" and metric in row[2]
        says(row[4].removesuffix(" %").removesuffix(" (step 10000)"), np.mean(each))
        interval, basis = row[5].split("; ", 1)
        says(interval, low, high)
        assert basis.startswith("Student's t over 2 seeds, paired")
        (outcome,) = judged.outcomes
        found = outcome.estimate
        assert found.number == pytest.approx(np.mean(each)) and found.seeds == pytest.approx((low, high))


def test_the_statements_are_held_against_the_numbers(selections: Selections, two: dict[str, list[list[str]]]) -> None:
    """Each check shows its number from the mean curves, its step if it has one, and whether it lies within the bounds.
    Catches a statistic of another arm or window, and a reversed bound."""
    trace, loss = ((mean("e5", name), mean("e6", name)) for name in (f"{HUTCH}_mean", "train/loss"))
    change = 100 * (trace[1] / trace[0] - 1)
    far = change[np.abs(change + 20).argmax()]
    fid5, fid6 = mean("e5", "val/fid"), mean("e6", "val/fid")
    late = 100 * (trace[1][STEPS >= 8000].mean() / trace[0][STEPS >= 8000].mean() - 1)
    std = 100 * (loss[1].std(ddof=1) / loss[0].std(ddof=1) - 1)
    rank5, rank6 = (
        stats.spearmanr(fid, at_milestones(mean(arm, f"{HUTCH}_mean"))).statistic
        for arm, fid in (("e5", fid5), ("e6", fid6))
    )
    wanted = [  # number, its step, whether it holds
        (change.max(), STEPS[change.argmax()], change.max() <= 0),
        (change.mean(), None, -30 <= change.mean() <= -10),
        (far, STEPS[np.abs(change + 20).argmax()], -30 <= far <= -10),
        (late, None, -20 <= late <= -10),
        (std, None, std <= 0),
        (100 * (loss[1] < loss[0]).mean(), None, True),
        (100 * (loss[1].mean() / loss[0].mean() - 1), None, True),
        (24.5, 10_000, False),  # farthest from 205
        (28.0, 6000, False),
        (3, 10_000, False),
        (0, None, False),
        (2, 6000, False),
        (50, None, False),
        (4.1, 10_000, False),
        (-3.5, 6000, False),
        (rank5, None, rank5 <= -0.99),
        (rank6, None, rank6 <= -0.99),
    ]
    head, *rows = two["statement"]
    assert head[4:] == ["number", "holds"] and len(rows) == len(wanted)
    scale = "scored by features that are not recorded"
    outcomes = [outcome for judged in judge_statements(selections.two) for outcome in judged.outcomes]
    for row, (number, step, holds), outcome in zip(rows, wanted, outcomes, strict=True):
        found = outcome.estimate
        assert found.number == pytest.approx(number, abs=1e-9) and found.step == step, row
        shown, _, at = row[4].partition(" (step ")
        says(shown.removesuffix(" %"), number)
        assert at == (f"{step})" if step else "")
        assert row[5] == ("yes" if holds else "no") or scale in row[5]
    assert [scale in row[5] for row in rows] == [place in (7, 8, 13) for place in range(17)]


def test_the_claims_of_the_csv_file(selections: Selections) -> None:
    """Catches numbers under another claim's name, and swapped ends of an interval."""
    table = claim_numbers(selections.two).set_index("statistic")
    for place, (metric, number) in enumerate(CRITERIA.items(), start=1):
        low, high = student([number(seed) for seed in (1, 2)])
        found = table.loc[[f"criterion_{place}_check_1{end}" for end in ("", "_low", "_high")]]
        assert found["value"].tolist() == pytest.approx([(low + high) / 2, low, high])
        assert set(found["metric"]) == {metric} and set(found["experiment"]) == {"e6 vs e5"}
    assert table.loc["statement_6_check_1", "experiment"] == "e5"
    assert table.loc["statement_6_check_1", "value"] == 24.5 and table.loc["statement_6_check_2", "value"] == 28


# ---- in words --------------------------------------------------------------------------------------------


def fall_of(arm: str, metric: str, what: str, seeds: tuple[int, ...]) -> str:
    found = of_curve(mean(arm, metric, seeds), STEPS)
    ends = f"({four(found['early_mean'])} to {four(found['late_mean'])})"
    return f"{arm}: {what} falls by {found['drop_pct']:.1f} % from the early to the late window {ends}."


def over_seeds(metric: str, steps: slice = slice(None)) -> str:
    each = [(logged("e6", seed)[metric] - logged("e5", seed)[metric])[steps].mean() for seed in (1, 2)]
    low, high = student(each)
    beyond = "beyond" if low > 0 or high < 0 else "within"
    basis = "Student's t over 2 shared seeds, paired"
    interval = f"its 95 % interval {four(low)} to {four(high)} ({basis})"
    return f"{four(np.mean(each))}, {interval}: it is {beyond} the noise of the seeds."


def test_the_verdicts_of_two_seeds(selections: Selections) -> None:
    """Every sentence on loss, traces and FID. Catches a number of another arm, step or window in any of them."""
    verdicts = dict(all_verdicts(selections.two))
    seeds = (1, 2)
    mse = of_pair("train/mse", seeds)
    lower = "lower" if mse["change_of_means_pct"] < 0 else "higher"
    late = "lower" if mse["late_mean_change_pct"] < 0 else "higher"
    assert verdicts["Loss"] == [
        *(fall_of(arm, "train/loss", "train/loss", seeds) for arm in ARMS),
        "train/loss of e6 and e5 are different quantities (their weightings differ), so their values are not compared.",
        f"e6's train/mse lies below e5's at {mse['lower_count']} of 20 logged steps and above it at "
        f"{mse['higher_count']}; its mean over them is {abs(mse['change_of_means_pct']):.1f} % {lower}.",
        f"The mean difference (e6 - e5) is {over_seeds('train/mse')}",
        f"In the late window e6's mean train/mse is {abs(mse['late_mean_change_pct']):.1f} % {late} against e5's.",
    ]
    own, common = of_pair(f"{HUTCH}_mean", seeds), of_pair(f"{REF}_mean", seeds)
    assert own["max_change_pct"] < 0 < common["max_change_pct"] and common["min_change_pct"] < 0
    assert verdicts["Curvature"] == [
        *(fall_of(arm, f"{HUTCH}_mean", "the trace of the trained loss", seeds) for arm in ARMS),
        f"e6's trace of its trained loss lies below e5's at 20 of 20 measurements, by {-own['mean_change_pct']:.1f} % "
        f"on average ({-own['max_change_pct']:.1f} to {-own['min_change_pct']:.1f} %).",
        "These are traces of different functions: each arm's own weighted loss. Part of the difference is the "
        "weighting's scale.",
        f"e6's trace of the common unweighted loss lies below e5's at {common['lower_count']} of 20 measurements and "
        f"above it at {common['higher_count']}; the change is {common['mean_change_pct']:+.1f} % on average "
        f"({common['min_change_pct']:+.1f} to {common['max_change_pct']:+.1f} %).",
        f"The mean difference (e6 - e5) is {over_seeds(f'{REF}_mean')}",
        "The traces are not compared draw by draw: e5 and e6 took new draws at each step.",
    ]
    assert verdicts["FID"] == [
        "e5: FID falls over 3 milestones, from 41.50 at step 2000 to 24.50 at step 10000; best 24.50 at step 10000, "
        "last 24.50.",
        "e5: FID at the last milestone is 23.25 above that of as many real images (1.25).",
        "e5: final FID 22.75, mean of 2 seeds (after the last step, under a protocol of its own).",
        "e6: FID is mixed over 3 milestones, from 38.50 at step 2000 to 28.60 at step 10000; best 28.00 at step 6000, "
        "last 28.60.",
        "e6: FID at the last milestone is 27.35 above that of as many real images (1.25).",
        "e6: final FID 20.60, mean of 2 seeds (after the last step, under a protocol of its own).",
        "FID of e6 minus that of e5 at the common milestones: -3.00 at 2000, -3.50 at 6000, +4.10 at 10000.",
        f"At step 10000 the mean difference is {over_seeds('val/fid', slice(2, 3))}",
        "Final FID of e6 minus that of e5: -2.15.",
    ]
    assert verdicts["Seeds"][0] == "Seeds per arm: e5 2, e6 2. Bands are 95 % bootstrap intervals over seeds."


def test_the_verdicts_of_one_seed(selections: Selections) -> None:
    """Differences are judged by the errors of the probes and of the samples: 1.96 errors. Catches one error in place of
    the interval, and errors added in place of their squares."""
    verdicts = dict(all_verdicts(selections.one))
    found = of_pair(f"{REF}_mean", (1,))
    reach = Z95 * found["mean_difference_sem"]
    low, high = found["mean_difference"] - reach, found["mean_difference"] + reach
    excludes = "excludes" if low > 0 or high < 0 else "includes"
    assert verdicts["Curvature"][-2] == (
        f"The mean paired difference (e6 - e5) is {four(found['mean_difference'])} ± "
        f"{found['mean_difference_sem']:#.2g} (standard error over the probes); the 95 % interval {four(low)} to "
        f"{four(high)} {excludes} 0. It covers the estimator's error at these steps, not the variation between seeds."
    )
    reach = Z95 * math.hypot(0.5, 1.5)  # the errors of the last FIDs, 28 and 24
    assert verdicts["FID"][-2].startswith(
        f"At step 10000 e6 and e5 are apart beyond the noise of the samples (+4.00 ± {reach:.2f}); seeds unknown."
    )


@pytest.mark.parametrize(
    ("shift", "excludes", "apart"),
    [
        (-30.0, "excludes", "beyond"),
        (30.0, "excludes", "beyond"),
        (-2.0, "includes", "within"),
        (2.0, "includes", "within"),
    ],
)
def test_either_sign_is_apart_from_zero(tmp_path: Path, shift: float, excludes: str, apart: str) -> None:
    """A trace 30 lower, or 30 higher, at 4 steps with errors of 10: +- 1.96 sqrt(8) 10 / 4 = 13.9. FIDs that differ by
    30 either way, with errors of 3 and 4: +- 9.8. Three seeds whose differences are within 2 of that: +- 4.97. Catches
    a verdict that handles only positive or only negative differences."""
    for name, level in (("e5", 100.0), ("e6", 100.0 + shift)):
        row = {f"{REF}_mean": level, f"{REF}_sem": 10.0, "train/loss": 1.0}
        score = {"val/fid": level, "val/fid_sem": 3.0 if name == "e5" else 4.0, "val/fid_protocol": "aaaa1111"}
        rows = [(step, row | (score if step == 200 else {})) for step in (50, 100, 150, 200)]
        write_run(tmp_path / "one" / name, name, rows=rows)
        for seed, off in ((1, -2.0), (2, 0.0), (3, 2.0)):
            moved = [(50 * i, {f"{REF}_mean": level + off * (name == "e6"), "train/loss": 1.0}) for i in (1, 2, 3, 4)]
            write_run(tmp_path / "three" / f"{name}-{seed}", name, seed, rows=moved)
    verdicts = dict(all_verdicts(chosen(tmp_path / "one", "e6")))
    reach = Z95 * math.sqrt(8) * 10 / 4
    interval = f"the 95 % interval {four(shift - reach)} to {four(shift + reach)} {excludes} 0."
    assert interval in verdicts["Curvature"][-2]
    side = "apart beyond" if apart == "beyond" else "within"
    assert f"are {side} the noise of the samples ({shift:+.2f} ± 9.80)" in verdicts["FID"][-1]
    low, high = student([shift - 2, shift, shift + 2])
    said = (
        f"is {four(shift)}, its 95 % interval {four(low)} to {four(high)} (Student's t over 3 shared seeds, paired): "
    )
    found = dict(all_verdicts(chosen(tmp_path / "three", "e6")))["Curvature"][-2]
    assert said in found and found.endswith(f"it is {apart} the noise of the seeds.")


def test_the_lines_for_the_terminal(selections: Selections) -> None:
    """Catches the mean of changes for a loss, and the change of means for a trace."""
    line, basis = in_short(selections.two)
    own, common, mse = (of_pair(name, (1, 2)) for name in (f"{HUTCH}_mean", f"{REF}_mean", "train/mse"))
    assert line == (
        f"e6 against e5: Hessian trace of each arm's trained loss {own['mean_change_pct']:+.1f} %; "
        f"Hessian trace of the common loss {common['mean_change_pct']:+.1f} %; "
        f"unweighted loss {mse['change_of_means_pct']:+.1f} %; FID 28.60 against 24.50 at step 10000"
    )
    assert basis == "(means over 2 seeds each, 10000 steps; the report has the intervals)"


# ---- the library -----------------------------------------------------------------------------------------


def test_the_librarys_page_and_table(selections: Selections, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three runs with two traces each. The CSV file has trace and FID at every milestone; the page has the last ones
    and their rank correlation. Catches trace and FID from different steps, a run's trace under the other loss, and a
    wrong sign."""
    monkeypatch.setattr("reports.library._draw", lambda *_: Figure("name", "title", reason="not drawn here"))
    page = make_library(str(selections.of_one), tmp_path / "out")
    found = pd.read_csv(page.parent / "numbers.csv")
    assert len(found) == 3 * 2 * 3
    rows = {(row[0], row[6]): row for row in tables(page.with_suffix(".md").read_text())["experiment"][1:]}
    ends: dict[str, list[tuple[float, float]]] = {"trained loss": [], "unweighted loss": []}
    for arm in (*ARMS, "e1"):
        fids = logged(arm, 1)["val/fid"]
        for loss, metric in (("trained loss", HUTCH), ("unweighted loss", REF)):
            traces = at_milestones(logged(arm, 1)[f"{metric}_mean"])
            mine = found[(found["experiment"] == arm) & (found["trace_of"] == loss)]
            assert mine[["step", "trace", "fid"]].to_numpy() == pytest.approx(np.stack([MILESTONES, traces, fids], 1))
            row = rows[arm, loss]
            assert row[2:6] == ["1", "minsnr" if arm == "e6" else "constant", "linear", "10000"]
            assert close(row[7], traces[-1]) and close(row[8], fids[-1]) and row[9] == "`aaaa1111`"
            ends[loss].append((traces[-1], fids[-1]))
    for said, values in zip(sentences(entries(open_source(str(selections.of_one)))), ends.values(), strict=True):
        assert f"{stats.spearmanr(*zip(*values, strict=True)).statistic:+.2f}." in said and "3 run(s)" in said
