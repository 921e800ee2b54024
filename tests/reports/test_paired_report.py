"""What a report says of arms that can be compared draw by draw, and of those that cannot."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from reports.experiments import Check
from reports.experiments.selection import Selection
from reports.judging.checks import judge_criteria
from reports.sources import open_source
from reports.stats.estimates import estimate, with_both_intervals
from reports.stats.statistics import COMMON, NEUTRAL, TRAINED, numbers
from reports.studies.min_snr import traces
from reports.text.pages import markdown_page
from reports.text.short import in_short
from reports.text.verdicts import number, trace_verdicts
from tests.reports.conftest import chosen, write_run

STEPS = range(10, 210, 10)
DRAWS = 8
FIXED: dict[str, Any] = {"curvature__draws": "fixed", "curvature__probes": DRAWS, "curvature__neutral": True}
LISTS = {TRAINED: "curvature/hutch_values", COMMON: "curvature/ref_values", NEUTRAL: "curvature/neutral_values"}


def values(experiment: str, seed: int, loss: str) -> np.ndarray:
    """The draws' values by step, (draws, steps): the same deviations in both arms, and e6 by 10 % lower."""
    rng = np.random.default_rng(list(LISTS).index(loss))
    shared = rng.normal(0, 100, (DRAWS, 1)) + rng.normal(0, 2, (DRAWS, len(STEPS)))
    own = np.random.default_rng([seed, len(experiment), ord(experiment[-1])]).normal(0, 2, (DRAWS, len(STEPS)))
    level = 500 + 300 * np.exp(-np.arange(len(STEPS)) / 5) + 5 * seed
    return (0.9 if experiment == "e6" else 1.0) * (level + shared) + own


def rows(experiment: str, seed: int, *, lists: bool = True) -> list[tuple[int, dict[str, Any]]]:
    """What the run logs at each step: means, errors and, unless it is an old run, lists."""
    found = []
    for place, step in enumerate(STEPS):
        row: dict[str, Any] = {"train/loss": 1.0}
        for loss, name in LISTS.items():
            each = values(experiment, seed, loss)[:, place]
            row |= {loss: each.mean(), f"{loss.removesuffix('_mean')}_sem": each.std(ddof=1) / DRAWS**0.5}
            if lists:
                row[name] = each.tolist()
        found.append((step, row))
    return found


def write(root: Path, seeds: tuple[int, ...] = (1,), *, lists: bool = True, **extra: Any) -> Selection:
    for name in ("e5", "e6"):
        for seed in seeds:
            write_run(root / name / str(seed), name, seed, rows=rows(name, seed, lists=lists), **{**FIXED, **extra})
    return chosen(root, "e6")


def contrast(loss: str, seeds: tuple[int, ...] = (1,), part: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
    """Each draw's mean over seeds and steps, in e5 and in e6."""
    both = (np.mean([values(name, seed, loss) for seed in seeds], 0)[:, part].mean(1) for name in ("e5", "e6"))
    return tuple(both)  # type: ignore[return-value]


def of_pair(selection: Selection, metric: str) -> dict[str, float]:
    table = numbers(selection)
    mine = table[(table["experiment"] == "e6 vs e5") & (table["metric"] == metric)]
    return dict(zip(mine["statistic"], mine["value"], strict=True))


@pytest.mark.parametrize("seeds", [(1,), (1, 2, 3)])
@pytest.mark.parametrize("loss", LISTS)
def test_the_numbers_are_those_of_paired_draws(tmp_path: Path, loss: str, seeds: tuple[int, ...]) -> None:
    """By scipy's paired t-test. Catches errors added as if the arms were independent, draws of another loss, and seeds
    that narrow the interval over draws."""
    found = of_pair(write(tmp_path, seeds), loss)
    b, v = contrast(loss, seeds)
    wanted = stats.ttest_rel(v, b)
    ends = wanted.confidence_interval()
    assert found["mean_difference"] == pytest.approx((v - b).mean())
    assert found["mean_difference_sem"] == pytest.approx((v - b).std(ddof=1) / DRAWS**0.5)
    assert [found["mean_difference_low"], found["mean_difference_high"]] == pytest.approx([ends.low, ends.high])
    assert ("seeds_mean_difference_low" in found) == (len(seeds) > 1)


def test_without_lists_the_numbers_stay(tmp_path: Path) -> None:
    """A run from before the lists has the root of the squared mean errors, and no interval over draws. Catches numbers
    of old records that change."""
    old, new = of_pair(write(tmp_path / "old", lists=False), COMMON), of_pair(write(tmp_path / "new"), COMMON)
    errors = [np.std(values(name, 1, COMMON), axis=0, ddof=1).mean() / DRAWS**0.5 for name in ("e5", "e6")]
    assert old["mean_difference_sem"] == pytest.approx(np.hypot(*errors))
    assert old.keys() == new.keys() - {"mean_difference_low", "mean_difference_high"}
    shared = old.keys() - {"mean_difference_sem"}
    assert {name: old[name] for name in shared} == {name: new[name] for name in shared}
    assert old["mean_difference_sem"] > 5 * new["mean_difference_sem"]


def test_the_page_decides_by_paired_draws(tmp_path: Path) -> None:
    """The same runs with and without lists: decided, and not, with the reason. Catches an interval of something else, a
    sentence that claims seeds, and a page that does not say why it does not pair."""
    new, old = write(tmp_path / "new"), write(tmp_path / "old", lists=False)
    b, v = contrast(COMMON)
    low, high = stats.ttest_rel(v, b).confidence_interval()
    (said,) = [s for s in trace_verdicts(new) if "Draw by draw" in s and number((v - b).mean()) in s]
    assert f"Draw by draw its 95 % interval is {number(low)} to {number(high)}, in per cent " in said
    assert "(Student's t over 8 paired draws): it excludes 0." in said and "not the variation between seeds" in said
    assert not any("not compared draw by draw" in s for s in trace_verdicts(new))
    why = "The traces are not compared draw by draw: e5 and e6 did not log a list of the draws' values."
    assert trace_verdicts(old)[-1] == why
    assert not any("excludes 0" in s for s in trace_verdicts(old))
    page = markdown_page(new, numbers(new), [], [])
    assert f"({number(low)} to {number(high)})" in page and "over paired draws" in page
    assert "over paired draws" not in markdown_page(old, numbers(old), [], [])
    assert f"{COMMON}" in page and f"{NEUTRAL}" in page


def test_the_short_summary_has_the_interval(tmp_path: Path) -> None:
    """Catches a change whose interval only the page has, and one for runs without lists."""
    (line, _), (old, _) = in_short(write(tmp_path / "new")), in_short(write(tmp_path / "old", lists=False))
    assert line.count(" over the draws)") == 3 and "neutral loss -10" in line
    assert "over the draws" not in old


@pytest.mark.parametrize("seeds", [(1,), (1, 2, 3)])
@pytest.mark.parametrize("of", ["change_pct", "step_change_pct", "difference"])
def test_a_criterion_is_decided_by_the_draws(tmp_path: Path, of: str, seeds: tuple[int, ...]) -> None:
    """Over the last 40 % of the run; for one seed, and beside the seeds' interval for three. Catches an interval over
    steps, which leaves the draws' error out, and a verdict that seeds alone decide."""
    selection = write(tmp_path, seeds)
    arms = list(selection.arms)
    check = Check.model_validate({"metric": COMMON, "of": of, "window": (0.6, 1.0), "at_most": -5})
    found, both = estimate(check, arms), with_both_intervals(check, arms)
    part = slice(11, 20)
    b, v = contrast(COMMON, seeds, part)
    wanted = stats.ttest_rel(v, b)
    low, high = wanted.confidence_interval()
    if of == "change_pct":
        residual = 100 * (v - v.mean() / b.mean() * b) / b.mean()
        reach = stats.t.ppf(0.975, DRAWS - 1) * residual.std(ddof=1) / DRAWS**0.5
        low, high = found.number - reach, found.number + reach
    if of != "step_change_pct":
        assert found.within == pytest.approx((low, high), rel=1e-3 if len(seeds) > 1 else 1e-9)
    assert found.within and found.within[0] < found.number < found.within[1]
    assert (found.seeds is not None) == (len(seeds) > 1)
    assert found.basis.startswith("Student's t over 8 paired draws, which covers other draws of the probe; ")
    assert found.basis.endswith("; one seed" if len(seeds) == 1 else "; Student's t over 3 seeds, paired")
    assert both.within == pytest.approx(found.within) and not both.given_draws
    (criterion,) = [each for each in judge_criteria(selection) if "flatter" in each.says]
    assert criterion.verdict == ("pass in these runs (one seed)" if len(seeds) == 1 else "pass")


def test_a_check_without_pairs_stays_as_it_was(tmp_path: Path) -> None:
    """Fewer than three draws have no interval, and the basis says so. Runs from before the lists, single arms and
    counts keep the interval over steps, or none, and are given the draws. Catches an interval that rests on two
    draws."""
    old = list(write(tmp_path / "old", lists=False).arms)
    check = Check(metric=COMMON, of="change_pct", at_most=0)
    assert "jackknife over blocks of 20 steps" in estimate(check, old).basis
    assert with_both_intervals(check, old).given_draws
    new = list(write(tmp_path / "new").arms)
    single = Check(metric=COMMON, at_most=0)
    assert "jackknife" in estimate(single, new[:1]).basis and with_both_intervals(single, new[:1]).given_draws
    count = Check(metric=COMMON, of="step_difference", statistic="below_pct", at_most=0)
    assert with_both_intervals(count, new).given_draws
    for name in ("e5", "e6"):
        path = tmp_path / "new" / name / "1" / "loss.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            line["out"][LISTS[COMMON]][2:] = [float("nan")] * (DRAWS - 2)
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    few = estimate(check, list(chosen(tmp_path / "new", "e6").arms))
    assert few.within is None and few.number is not None
    assert few.basis == "2 paired draws (6 more lack a value) are too few for an interval; one seed"
    said = " ".join(trace_verdicts(chosen(tmp_path / "new", "e6")))
    assert "2 paired draws (6 more lack a value) are too few for an interval." in said


def test_findings_take_the_paired_interval(tmp_path: Path) -> None:
    """Catches the bound at worst, or the interval over steps, for arms that can be paired."""
    new, old = write(tmp_path / "new", (1, 2)), write(tmp_path / "old", (1, 2), lists=False)
    for selection, is_paired in ((new, True), (old, False)):
        (change,) = [c for c in traces.changes(*selection.arms) if c.metric == COMMON and c.span is None]
        assert change.over_draws.paired is is_paired and change.estimate.given_draws is not is_paired
        assert change.over_draws.within
        width = change.over_draws.within[1] - change.over_draws.within[0]
        assert (width < 2) is is_paired


def test_lists_that_do_not_fit_are_left_out_and_noted(tmp_path: Path) -> None:
    """One list has a value too few, one holds a text, one is a text. Catches a report that stops, draws matched by a
    wrong place, and a loss that nobody is told of."""
    write(tmp_path)
    path = tmp_path / "e6/1/loss.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    name = LISTS[COMMON]
    lines[3]["out"][name].pop()
    lines[5]["out"][name][2] = "<b>"
    lines[7]["out"][name] = "none"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (run,) = open_source(str(tmp_path / "e6"))
    assert sorted(set(STEPS) - run.lists[name].keys()) == [40, 60, 80]
    assert len(run.lists[LISTS[TRAINED]]) == 20
    assert f"{name}: 1 list(s) that do not have 8 values like most are left out, the first at step 40" in run.notes
    assert f"{name}: 2 value(s) that are not numbers are left out, the first at step 60" in run.notes
    selection = chosen(tmp_path, "e6")
    kept = [place for place in range(20) if place not in (3, 5, 7)]
    b, v = (values(arm, 1, COMMON)[:, kept].mean(1) for arm in ("e5", "e6"))
    ends = stats.ttest_rel(v, b).confidence_interval()
    found = of_pair(selection, COMMON)
    assert [found["mean_difference_low"], found["mean_difference_high"]] == pytest.approx([ends.low, ends.high])
    assert "at the 17 of 20 steps that have them" in " ".join(trace_verdicts(selection))
