"""Claims about runs, held against their numbers: success criteria by an interval, statements as they stand."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pandas as pd

from reports.experiments import Check, Claim, Span, Study
from reports.experiments.selection import Arm, Selection
from reports.protocols import foreign_features, protocol_difference
from reports.runs import SCORES
from reports.stats.estimates import estimate, metric_curve, of_curves, windowed
from reports.stats.statistics import COLUMNS


@dataclass(frozen=True)
class Outcome:
    """A check's number; `interval` with `basis`, what it covers (`of_seeds`: seeds); `step` where it is of one step.

    `holds`: None where it cannot be said, and `reason` then says why."""

    check: Check
    number: float | None = None
    holds: bool | None = None
    interval: tuple[float, float] | None = None
    basis: str = ""
    of_seeds: bool = False
    step: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Judged:
    """A claim with the outcomes of its checks and the verdict in a word or three."""

    claim: Claim
    outcomes: tuple[Outcome, ...]
    verdict: str


@lru_cache(maxsize=4)  # the page and the table ask for the same
def judge_criteria(selection: Selection) -> list[Judged]:
    """`pass` where every check's whole interval lies where it should, `fail` where one's lies wholly outside, else
    `undecided`. What one seed decides is said of these runs alone."""
    judged = []
    for claim in selection.study.criteria:
        outcomes = tuple(_by_interval(_measure(check, selection, with_interval=True)) for check in claim.checks)
        found = [outcome.holds for outcome in outcomes]
        verdict = "fail" if False in found else "undecided" if None in found else "pass"
        decisive = [outcome for outcome in outcomes if verdict == "pass" or outcome.holds is False]
        if verdict != "undecided" and not all(outcome.of_seeds for outcome in decisive):
            verdict += " of these runs (one seed)"
        judged.append(Judged(claim, outcomes, verdict))
    return judged


@lru_cache(maxsize=4)
def judge_statements(selection: Selection) -> list[Judged]:
    """`borne out`, `borne out in part` or `not borne out` by the runs' own numbers; `cannot be said` without them, or
    where the statement is about FIDs on another scale than theirs."""
    judged = []
    for claim in selection.study.statements:
        outcomes = tuple(_on_its_scale(_measure(check, selection), selection) for check in claim.checks)
        found = [outcome.holds for outcome in outcomes]
        if None in found:
            verdict = "cannot be said"
        else:
            verdict = "borne out" if all(found) else "borne out in part" if any(found) else "not borne out"
        judged.append(Judged(claim, outcomes, verdict))
    return judged


def _on_its_scale(outcome: Outcome, selection: Selection) -> Outcome:
    """The outcome; of an absolute FID by other features than the study's, that it says nothing."""
    if outcome.holds is None or not _absolute_score(outcome.check):
        return outcome
    arms = [arm for name in _arms_of(outcome.check, selection.study) if (arm := selection.arm(name)) is not None]
    foreign = foreign_features(arms, outcome.check.metric)
    if not foreign:
        return outcome
    reason = f"scored by {', '.join(foreign)}, on another scale than the study's Inception features"
    return replace(outcome, holds=None, reason=reason)


def _absolute_score(check: Check) -> bool:
    """Whether a bound is so many points of a score: a level, or a difference; the sign of one needs no scale."""
    if check.metric not in SCORES or check.statistic not in _IN_POINTS or check.of.endswith("_pct"):
        return False
    return check.of == "value" or any((check.at_least, check.at_most))


# Statistics with the unit of their metric.
_IN_POINTS = ("mean", "min", "max", "farthest", "first", "last", "std")


def claim_numbers(selection: Selection) -> pd.DataFrame:
    """Every check's number and interval, as rows of `numbers.csv`: `criterion_1_check_1`, `..._low`, `..._high`."""
    rows = []
    for kind, claims in (("criterion", judge_criteria(selection)), ("statement", judge_statements(selection))):
        for place, judged in enumerate(claims, start=1):
            for part, outcome in enumerate(judged.outcomes, start=1):
                arms = " vs ".join(reversed(_arms_of(outcome.check, selection.study)))
                name = f"{kind}_{place}_check_{part}"
                found = {name: outcome.number}
                if outcome.interval:
                    found |= {f"{name}_low": outcome.interval[0], f"{name}_high": outcome.interval[1]}
                rows += [(arms, outcome.check.metric, key, value) for key, value in found.items() if value is not None]
    return pd.DataFrame(rows, columns=COLUMNS)


def _by_interval(outcome: Outcome) -> Outcome:
    """The outcome as the interval decides it."""
    if outcome.number is None or outcome.reason:
        return replace(outcome, holds=None)
    if outcome.interval is None:
        return replace(outcome, holds=None, basis="", reason=outcome.basis)
    inside = [_lies(outcome.check, end) for end in outcome.interval]
    wrong = outcome.interval[1] < _low(outcome.check) or outcome.interval[0] > _high(outcome.check)
    holds = True if all(inside) else False if wrong else None
    return replace(outcome, holds=holds, reason="" if holds is not None else "the interval reaches over the bound")


def _low(check: Check) -> float:
    return -np.inf if check.at_least is None else check.at_least


def _high(check: Check) -> float:
    return np.inf if check.at_most is None else check.at_most


def _lies(check: Check, value: float) -> bool:
    return _low(check) <= value <= _high(check)


# ---- a check's number ------------------------------------------------------------------------------------


def _measure(check: Check, selection: Selection, *, with_interval: bool = False) -> Outcome:
    names = _arms_of(check, selection.study)
    arms = [arm for name in names if (arm := selection.arm(name)) is not None]
    if len(arms) < len(names):
        missing = ", ".join(name for name in names if selection.arm(name) is None)
        return Outcome(check, reason=f"no run of {missing}")
    absent = [arm.experiment for arm in arms if windowed(check.window, metric_curve(arm, check.metric), arm).empty]
    if absent:
        where = " in that window" if check.window else ""
        return Outcome(check, reason=f"{check.metric} was not measured{where} in {' and '.join(absent)}")
    found = estimate(check, arms) if with_interval else of_curves(check, arms)
    if found.number is None:
        return Outcome(check, reason=found.basis or "these values have no such number")
    refused = _refusal(check, arms, selection.study)
    holds = None if refused else _lies(check, found.number)
    return Outcome(check, found.number, holds, found.interval, found.basis, found.of_seeds, found.step, refused)


def _arms_of(check: Check, study: Study) -> list[str]:
    """The arm that the check is about, and the baseline before it where it compares."""
    arm = check.arm or study.name
    return [arm] if check.of == "value" else [study.baseline, arm]


def _refusal(check: Check, arms: Sequence[Arm], study: Study) -> str:
    """Why the number decides nothing; empty where it does."""
    short = not_whole(arms)
    if short:
        return short
    if len(arms) > 1 and check.metric in SCORES and not study.compares_protocols:
        difference = protocol_difference(arms, check.metric)
        return "measured under different protocols" if difference else ""
    return ""


def not_whole(arms: Sequence[Arm]) -> str:
    """Which runs of the arms have not taken all of their steps; empty where all have."""
    short = [run for arm in arms for run in arm.runs if run.last_step < (run.planned_steps or 0)]
    listed = ", ".join(f"{run.name} stands at step {run.last_step} of {run.planned_steps}" for run in short)
    return f"not whole: {listed}" if short else ""


# ---- in words --------------------------------------------------------------------------------------------

_OF = {
    "difference": "difference",
    "change_pct": "change",
    "step_difference": "differences",
    "step_change_pct": "changes",
}
_WORDS = {
    "mean": "mean",
    "min": "lowest",
    "max": "highest",
    "min_step": "step of the lowest",
    "min_place": "place of the lowest",
    "farthest": "outermost value",
    "first": "first",
    "last": "last",
    "std": "standard deviation",
    "drop_pct": "fall of the mean",
    "rising_pct": "share of steps upward",
    "below_pct": "share below 0",
    "correlation": "rank correlation",
}


def describe_check(check: Check, study: Study) -> str:
    """What a check measures: `mean of curvature/hutch_trace_mean over 60-100 % of the run, e6 against e5, in %`."""
    words = f"{_WORDS[check.statistic]} of {check.metric}"
    arm = check.arm or study.name
    if check.of.startswith("step_"):
        words = f"{_WORDS[check.statistic]} of the {_OF[check.of]} of {check.metric} per step"
    if check.against_metric:
        words += f" with {check.against_metric}"
    if check.since:
        words += f" from {_span(check.since)}"
        words += f" to {_span(check.window)}" if check.window else ""
    elif check.window:
        words += f" over {_span(check.window)}"
    return f"{words}, {arm}" + ("" if check.of == "value" else f" against {study.baseline}")


def _span(span: Span) -> str:
    low, high = span
    if high <= 1:
        return f"{100 * low:g}-{100 * high:g} % of the run"
    return f"step {low:,.0f}" if low == high else f"steps {low:,.0f}-{high:,.0f}"


def unit(check: Check) -> str:
    """` %` for numbers that are percentages, else nothing."""
    percent = check.of.endswith("pct") or check.statistic.endswith("pct")
    return " %" if percent and check.statistic not in ("min_step", "correlation") else ""


def bounds(check: Check) -> str:
    """Where the number should lie, in words."""
    end = unit(check)
    if check.at_least is None:
        return f"at most {check.at_most:g}{end}"
    if check.at_most is None:
        return f"at least {check.at_least:g}{end}"
    return (
        f"{check.at_least:g}{end}"
        if check.at_least == check.at_most
        else f"{check.at_least:g} to {check.at_most:g}{end}"
    )
