"""Claims: their numbers, the interval that decides, and the statements of the original study against its logs."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from reports.experiments import Check, Study, load
from reports.experiments.selection import select
from reports.judging.checks import bounds, describe_check, judge_criteria, judge_statements
from reports.judging.judge import Outcome
from reports.report import make_report
from reports.sources import open_source
from tests.reports.conftest import chosen, write_run

METRIC = "curvature/hutch_trace_mean"


def study_with(**claims: Any) -> Study:
    """The study e6 with these claims instead of its own."""
    return load("e6").model_copy(update={"criteria": (), "statements": ()} | claims)


def claim(**check: Any) -> tuple[Any, ...]:
    """One claim with a single check on the trace."""
    claims = [{"says": "it", "checks": [{"metric": METRIC} | check]}]
    return Study.model_validate(load("e6").model_dump() | {"criteria": claims}).criteria


def runs(root: Path, values: dict[str, dict[int, list[float]]]) -> None:
    """Run folders of (experiment, seed) that log the trace every 10 steps."""
    for experiment, seeds in values.items():
        for seed, curve in seeds.items():
            rows = [(10 * (i + 1), {METRIC: value}) for i, value in enumerate(curve)]
            write_run(root / experiment / str(seed), experiment, seed, rows=rows, train__total_steps=rows[-1][0])


def judged(root: Path, **check: Any) -> Any:
    """The result of the first criterion's check, and the verdict."""
    (result,) = judge_criteria(select(study_with(criteria=claim(**check)), open_source(str(root))))
    return seen(result.outcomes[0]), result.verdict


def seen(outcome: Outcome) -> SimpleNamespace:
    """A check's number with its only interval, the interval's basis, and the reason if it decides nothing."""
    found = outcome.estimate
    assert not (found.within and found.seeds)
    shown = {"number": found.number, "interval": found.within or found.seeds, "basis": found.basis, "step": found.step}
    return SimpleNamespace(**shown, reason=outcome.verdict.reason)


def test_paired_seeds_decide_by_student_on_their_differences(tmp_path: Path) -> None:
    """Seeds 1, 2 and 3 differ by -1, -2 and -3, and their own levels by 100: mean -2 -+ 4.303 / sqrt(3). Catches lost
    pairing (the seeds' own spread would hide the difference) and seeds matched in the wrong order."""
    runs(
        tmp_path,
        {
            "e5": {1: [100.0] * 10, 2: [200.0] * 10, 3: [300.0] * 10},
            "e6": {3: [297.0] * 10, 2: [198.0] * 10, 1: [99.0] * 10},
        },
    )
    reach = 4.3027 / math.sqrt(3)
    outcome, verdict = judged(tmp_path, of="difference", at_most=1)
    assert outcome.number == pytest.approx(-2) and outcome.interval == pytest.approx((-2 - reach, -2 + reach), abs=1e-3)
    assert verdict == "pass" and "3 seeds, paired" in outcome.basis
    assert judged(tmp_path, of="difference", at_most=-1)[1] == "undecided"
    assert judged(tmp_path, of="difference", at_least=2)[1] == "fail"


def test_other_seeds_decide_by_welch(tmp_path: Path) -> None:
    """100 and 102 against 110 and 112: +10 -+ t_2 sqrt(2), in per cent of 101. Catches unpaired seeds that are treated
    as pairs, and a wrong scale of the percentage."""
    runs(tmp_path, {"e5": {1: [100.0] * 9, 2: [102.0] * 9}, "e6": {3: [110.0] * 9, 4: [112.0] * 9}})
    outcome, _ = judged(tmp_path, of="difference", at_most=0)
    assert outcome.number == pytest.approx(10)
    assert outcome.interval == pytest.approx((10 - 4.3027 * math.sqrt(2), 10 + 4.3027 * math.sqrt(2)), abs=1e-3)
    outcome, _ = judged(tmp_path, of="change_pct", at_most=0)
    assert outcome.number == pytest.approx(1000 / 101)
    low, high = outcome.interval
    assert (low + high) / 2 == pytest.approx(1000 / 101) and "Welch" in outcome.basis
    # first-order error of v / b: the baseline's own is weighted by (111 / 101)^2
    assert (high - low) / 2 == pytest.approx(100 / 101 * 4.3 * math.sqrt(1 + (111 / 101) ** 2), rel=0.02)


def test_one_seed_is_decided_over_its_steps_and_says_so(tmp_path: Path) -> None:
    """A ratio of 0.8 with 1 % noise at 40 steps excludes -15 %. A last value has no interval. Catches a verdict from a
    number without an interval, and steps that are presented as seeds."""
    rng = np.random.default_rng(0)
    base = 100 + np.linspace(50, 0, 40)
    variant = 0.8 * base * (1 + 0.01 * rng.normal(size=40))
    runs(tmp_path, {"e5": {1: list(base)}, "e6": {1: list(variant)}})
    outcome, verdict = judged(tmp_path, of="change_pct", at_most=-15)
    assert verdict == "pass in these runs (one seed)" and outcome.number == pytest.approx(-20, abs=0.5)
    assert outcome.interval[0] < outcome.number < outcome.interval[1] and "not seeds" in outcome.basis
    assert judged(tmp_path, of="change_pct", at_least=0)[1] == "fail in these runs (one seed)"
    outcome, verdict = judged(tmp_path, of="difference", statistic="last", at_most=0)
    assert verdict == "undecided" and "one seed" in outcome.reason and outcome.number is not None


def test_number_and_interval_are_of_the_same_seeds(tmp_path: Path) -> None:
    """Both arms have seeds 1 and 2. Only the baseline has seeds 3 to 5, which are 50 higher. Catches a number from all
    seeds beside an interval from some."""
    baseline = {seed: [100.0 + (50 if seed > 2 else seed)] * 9 for seed in range(1, 6)}
    runs(tmp_path, {"e5": baseline, "e6": {1: [100.0] * 9, 2: [101.5] * 9}})
    outcome, _ = judged(tmp_path, of="difference", at_most=0)
    assert outcome.number == pytest.approx(-0.75) and "the 2 seeds that both arms have" in outcome.basis
    assert sum(outcome.interval) / 2 == pytest.approx(-0.75)


def test_equality_is_a_claim_that_needs_a_narrow_interval(tmp_path: Path) -> None:
    """Paired differences -1, 0 and 1: half the 90 % interval is t_{2, 0.95} / sqrt(3) = 2.920 / sqrt(3) = 1.686, half
    the 95 % interval 2.484. Around 10 they are refuted up to a margin of 7.516. Catches the 95 % interval in place of
    two one-sided tests, a lack of difference that counts as equality, and a bound that is not mirrored."""
    for name, middle in (("near", 0.0), ("far", 10.0), ("below", -10.0)):
        e6 = {seed: [100.0 + middle + seed - 2] * 9 for seed in (1, 2, 3)}
        runs(tmp_path / name, {"e5": {seed: [100.0] * 9 for seed in (1, 2, 3)}, "e6": e6})
    found = {
        (name, margin): judged(tmp_path / name, of="difference", equal_within=margin)[1]
        for name, margins in (("near", (1.68, 1.69)), ("far", (7.51, 7.52, 12.0)), ("below", (7.51, 7.52)))
        for margin in margins
    }
    assert found == {
        ("near", 1.68): "undecided",
        ("near", 1.69): "pass: equal within 1.69",
        ("far", 7.51): "fail: not equal within 7.51",
        ("far", 7.52): "undecided",
        ("far", 12.0): "pass: equal within 12",
        ("below", 7.51): "fail: not equal within 7.51",
        ("below", 7.52): "undecided",
    }


def test_several_seeds_that_leave_it_open_are_not_called_one(tmp_path: Path) -> None:
    """Each draw of the probe differs by -20 in both seeds but for 1; the seeds' own differences are -39 and -1. Catches
    `one seed` on a verdict that has two."""
    for experiment in ("e5", "e6"):
        for seed, shift in ((1, -39.0), (2, -1.0)):
            draws = [100.0 + 5 * draw + (shift + draw % 2 if experiment == "e6" else 0) for draw in range(6)]
            row = {METRIC: float(np.mean(draws)), "curvature/hutch_values": draws}
            rows = [(10 * (i + 1), row) for i in range(9)]
            folder = tmp_path / experiment / str(seed)
            write_run(folder, experiment, seed, rows=rows, train__total_steps=90, curvature__draws="fixed")
    (result,) = judge_criteria(
        select(study_with(criteria=claim(of="difference", at_most=-5)), open_source(str(tmp_path)))
    )
    assert result.outcomes[0].estimate.within and result.outcomes[0].estimate.seeds
    assert result.verdict == "pass in these runs"


@pytest.mark.usefixtures("few_figures")
@pytest.mark.parametrize("how", ["going", "diverged"])
def test_runs_that_are_not_whole_decide_nothing(tmp_path: Path, how: str) -> None:
    """e6 stands at step 50 of 200, or is NaN from there on, so early values would be compared with late ones. Catches
    criteria failed by an unfinished run, or passed by the seeds that survived."""
    for seed in (1, 2):
        runs(tmp_path, {"e5": {seed: list(np.linspace(100, 10, 20))}})
        rows = [(10 * (i + 1), {METRIC: 100.0 - i, "train/loss": 1.0}) for i in range(5)]
        if how == "diverged":
            rows += [(10 * (i + 1), {METRIC: math.nan, "train/loss": math.nan}) for i in range(5, 20)]
        write_run(tmp_path / "e6" / str(seed), "e6", seed, rows=rows, finished=False)
    outcome, verdict = judged(tmp_path, of="change_pct", window=[0.6, 1.0], at_most=-15)
    assert verdict == "undecided" and "e6 seed 1" in outcome.reason and "is at step 50 of 200" in outcome.reason
    made = make_report("e6", str(tmp_path), tmp_path / "out").with_suffix(".md").read_text()
    said = "diverged: its train/loss is not finite after step 50" if how == "diverged" else "is at step 50 of 200"
    assert f"**Warning: e6 seed 1 (run e6-s1-1) {said}" in made


@pytest.mark.usefixtures("few_figures")
def test_two_protocols_decide_only_where_they_are_the_question(tmp_path: Path) -> None:
    """Catches a criterion passed on a difference that the page calls meaningless, and e10b without an answer to its own
    question."""
    for name, protocol in (("e5", "aaaa1111"), ("e6", "cccc3333")):
        for seed in (1, 2):
            write_run(tmp_path / "a" / name / str(seed), name, seed, protocol=protocol)
    outcome, verdict = judged(tmp_path / "a", metric="val/fid", of="difference", statistic="last", at_most=1e9)
    assert verdict == "undecided" and outcome.reason == "measured under different protocols"
    sampler = {"e10a": ("ddpm", "aaaa1111"), "e10b": ("ddim", "cccc3333")}
    for name, (which, protocol) in sampler.items():
        extra = {"eval__fid_milestone__sampler": which, "eval__final__sampler": which}
        for seed in (1, 2):
            write_run(tmp_path / "b" / name / str(seed), name, seed, protocol=protocol, **extra)
    (result,) = judge_criteria(chosen(tmp_path / "b", "e10b"))
    assert result.verdict in ("pass", "fail", "undecided") and seen(result.outcomes[0]).reason != outcome.reason
    assert seen(result.outcomes[0]).interval is not None
    page = make_report("e10b", str(tmp_path / "b"), tmp_path / "out")
    assert "FID over training" in page.with_suffix(".md").read_text().split("missing or left out")[1]


def test_what_was_not_measured_is_undecided(two_seeds: Path) -> None:
    """Catches a criterion that a metric nobody logged fails or passes."""
    outcome, verdict = judged(two_seeds, metric="val/kid", of="difference", at_most=0)
    assert verdict == "undecided" and "val/kid was not measured" in outcome.reason


@pytest.mark.parametrize(
    ("check", "number", "step"),
    [
        ({"statistic": "first"}, 8.0, 10),
        ({"statistic": "last"}, 3.0, 80),
        ({"statistic": "min"}, 1.0, 50),
        ({"statistic": "max"}, 9.0, 30),
        ({"statistic": "min_step"}, 50.0, None),
        ({"statistic": "min_place"}, 5.0, 50),
        ({"statistic": "min_place", "window": [60, 80]}, 3.0, 80),
        ({"statistic": "farthest", "at_least": 0.0, "at_most": 9.0}, 9.0, 30),
        ({"statistic": "farthest", "at_least": 5.0, "at_most": 7.0}, 1.0, 50),
        ({"statistic": "mean", "window": [20, 40]}, 6.0, None),
        ({"statistic": "mean", "window": [0.5, 1.0]}, 18.5 / 5, None),
        ({"statistic": "drop_pct", "since": [10, 20], "window": [70, 80]}, 100 * (1 - 3.5 / 6), None),
        ({"statistic": "rising_pct"}, 100 * 2 / 7, None),
        ({"statistic": "std"}, math.sqrt(sum((x - 39.5 / 8) ** 2 for x in (8, 4, 9, 5, 1, 5.5, 4, 3)) / 7), None),
        ({"statistic": "correlation", "against_metric": "other"}, -1.0, None),
        ({"statistic": "mean", "metric": "curvature/hutch_trace_mean / other"}, -0.5, None),
    ],
)
def test_statistics_of_a_short_curve(tmp_path: Path, check: dict[str, Any], number: float, step: int | None) -> None:
    """Worked out by hand for a curve of eight values at steps 10 ... 80; `other` is -2 times the curve. Catches windows
    off by one, and statistics of the wrong series."""
    curve = [8.0, 4.0, 9.0, 5.0, 1.0, 5.5, 4.0, 3.0]
    rows = [(10 * (i + 1), {METRIC: value, "other": -2 * value}) for i, value in enumerate(curve)]
    write_run(tmp_path / "e5", "e5", 1, rows=rows)
    write_run(tmp_path / "e6", "e6", 1, rows=rows)
    outcome, _ = judged(tmp_path, **{"at_least": -1e9} | check)
    assert outcome.number == pytest.approx(number) and outcome.step == step


def test_a_bound_is_inside_and_a_failed_check_fails_its_claim(tmp_path: Path) -> None:
    """A number equal to its bound holds. Of two checks, one fails and the other is not measured. Catches a bound that
    excludes itself, and a claim left undecided although one check refutes it."""
    runs(tmp_path, {"e5": {1: [5.0] * 9, 2: [5.0] * 9}, "e6": {1: [4.0] * 9, 2: [4.0] * 9}})
    for bound in ("at_least", "at_most"):
        outcome, verdict = judged(tmp_path, of="difference", **{bound: -1.0})
        assert (outcome.number, outcome.interval, verdict) == (-1.0, (-1.0, -1.0), "pass")
    checks = [{"metric": METRIC, "of": "difference", "at_least": 0}, {"metric": "val/kid", "at_most": 0}]
    claims = Study.model_validate(load("e6").model_dump() | {"criteria": [{"says": "it", "checks": checks}]}).criteria
    (result,) = judge_criteria(select(study_with(criteria=claims), open_source(str(tmp_path))))
    assert [outcome.verdict.word for outcome in result.outcomes] == ["does not hold", "cannot be said"]
    assert result.verdict == "fail"


STATEMENTS = {
    ("e6", "E6's trace is below E5's at every measurement"): "borne out",
    ("e6", "E6's trace is 10-30 % below E5's across training"): "borne out in part",
    ("e6", "late, over steps 8k-10k, it is 10-20 % below"): "borne out",
    ("e6", "both runs stay within FID 203-207"): "borne out",
    ("e5", "the final FID is about 203.6"): "not borne out",
    ("e5", "the best recorded FID is about 203.61, at the first milestone"): "borne out",
    ("e5", "E1's FID after 50k steps is about 206.5"): "not borne out",
    ("e5", "mean trace is about 591 early and 330 late, a fall of about 44 %"): "borne out",
}


@pytest.mark.parametrize("experiment", ["e5", "e6"])
def test_the_study_against_its_own_logs(originals: Path, experiment: str) -> None:
    """The documents' statements get the verdicts that DESIGN records for the logs. Catches a check that tests something
    other than its sentence."""
    found = {result.says: result.verdict for result in judge_statements(chosen(originals, experiment))}
    assert len(found) >= 10 and "cannot be said" not in found.values()
    wanted = {says: verdict for (of, says), verdict in STATEMENTS.items() if of == experiment}
    assert {says: found[says] for says in wanted} == wanted


def scored_by(root: Path, features: str, fids: dict[str, list[float]]) -> dict[str, str]:
    """The verdicts on e6's statements for runs of 90 steps with these FIDs, every 30 steps, by these features."""
    for name, values in fids.items():
        rows = [(30 * (i + 1), {"val/fid": v, "val/fid_protocol": "aaaa1111"}) for i, v in enumerate(values)]
        card = write_run(root / name, name, rows=rows, train__total_steps=90) / "run.json"
        described = {"aaaa1111": {"features": features, "sampler": "ddpm", "nfe": 50}}
        card.write_text(json.dumps(json.loads(card.read_text()) | {"protocols": described}))
    return {result.says: result.verdict for result in judge_statements(chosen(root, "e6"))}


def test_absolute_fids_are_judged_on_the_studys_scale_alone(tmp_path: Path) -> None:
    """FIDs of 25 to 43 by the embedded features cannot decide `within FID 203-207`. That they rise is true on any
    scale. Catches a claim borne out in part because 43 is below 207."""
    fids = {"e5": [24.7, 36.8, 42.1], "e6": [25.8, 37.7, 43.3]}
    found = scored_by(tmp_path / "embedded", "embedded64-3194f8", fids)
    assert found["both runs stay within FID 203-207"] == "cannot be said"
    assert found["the two FIDs differ by no more than about 1 at any milestone"] == "cannot be said"
    assert found["Min-SNR brings no gain in FID"] == "borne out"
    found = scored_by(tmp_path / "inception", "inception-legacy_tensorflow-f58cb9", fids)
    assert found["both runs stay within FID 203-207"] == "not borne out"


def test_the_first_milestone_is_the_first_scored(tmp_path: Path) -> None:
    """A run of 90 steps has all its milestones before step 2000. Catches the last or the best milestone in place of the
    first."""
    says = "both FIDs are best at the first milestone and creep upward"
    falling, rising = [43.0, 37.0, 25.0], [25.0, 37.0, 43.0]
    assert scored_by(tmp_path / "down", "embedded64", {"e5": falling, "e6": falling})[says] == "not borne out"
    assert scored_by(tmp_path / "up", "embedded64", {"e5": rising, "e6": rising})[says] == "borne out"


def test_a_statement_about_a_missing_arm_cannot_be_said(tmp_path: Path) -> None:
    """Catches an exception if only the variant's runs exist."""
    write_run(tmp_path / "e6", "e6")
    assert {r.verdict for r in judge_statements(chosen(tmp_path, "e6"))} >= {"cannot be said"}
    assert {r.verdict for r in judge_criteria(chosen(tmp_path, "e6"))} == {"undecided"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"metric": "a"},
        {"metric": "a", "at_most": 0, "statistic": "drop_pct"},
        {"metric": "a", "at_most": 0, "since": [1, 2]},
        {"metric": "a", "at_most": 0, "statistic": "correlation"},
        {"metric": "a", "at_most": 0, "of": "sum"},
        {"metric": "a", "at_most": 0, "statistic": "farthest"},
        {"metric": "a", "at_least": 0, "at_most": 1, "statistic": "farthest", "of": "difference"},
    ],
)
def test_checks_that_say_nothing_are_refused(wrong: dict[str, Any]) -> None:
    """Catches a claim that any number would bear out, and a misspelt one that is never evaluated."""
    with pytest.raises(ValidationError):
        Check.model_validate(wrong)
    baseline = [{"says": "s", "checks": [{"metric": "a", "of": "difference", "at_most": 0, "arm": "e5"}]}]
    with pytest.raises(ValidationError, match="compares the baseline with itself"):
        Study.model_validate(load("e6").model_dump() | {"criteria": baseline})


def test_words() -> None:
    """Catches a table that names another window, arm or unit than the computed one."""
    check = Check(metric=METRIC, of="change_pct", window=(0.6, 1.0), at_most=-15)
    assert describe_check(check, load("e6")) == f"mean of {METRIC} over 60-100 % of the run, e6 against e5"
    assert bounds(check) == "at most -15 %"
    check = Check(metric="val/fid", arm="e5", statistic="last", at_least=203.55, at_most=203.65)
    assert describe_check(check, load("e6")) == "last of val/fid, e5" and bounds(check) == "203.55 to 203.65"
    check = Check(metric="val/fid", of="change_pct", statistic="last", equal_within=5)
    assert describe_check(check, load("e6")) == "last of val/fid, e6 against e5" and bounds(check) == "equal within 5 %"


def test_another_protocols_score_is_not_taken_for_a_difference_of_arms(two_seeds: Path) -> None:
    """The prediction report's last criterion is about e5 by two protocols. Catches e5 compared with itself, 0 %, and a
    page that names a second arm."""
    study = load("prediction").model_copy(update={"criteria": load("prediction").criteria[-1:], "where": {}})
    (result,) = judge_criteria(select(study, open_source(str(two_seeds))))
    (outcome,) = result.outcomes
    assert result.verdict == "undecided" and outcome.estimate.number is None and outcome.estimate.reason
    assert outcome.what == "last of val/fid, e5 by the protocol with t_start = 699 against its own"
