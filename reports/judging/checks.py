"""An experiment's claims against its runs' numbers: success criteria by intervals, statements as the numbers stand."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import pandas as pd

from reports.experiments import OF_ALL, OF_ONE, Check, Claim, Span, Study
from reports.experiments.selection import Arm, Selection, not_comparable
from reports.judging.judge import FAILS, HOLDS, OF_THESE, Judged, Outcome, corrected, judge, side, together
from reports.protocols import foreign_features, protocol_difference
from reports.runs import SCORES
from reports.stats.estimates import at_one_step, estimate, metric_curve, of_curves, windowed
from reports.stats.intervals import Estimate, half
from reports.stats.statistics import COLUMNS


@lru_cache(maxsize=4)  # the page and the table ask for the same
def judge_criteria(selection: Selection) -> list[Judged]:
    """`pass`, `fail` or `undecided` for each success criterion, by its checks' intervals; and after Holm's correction
    over all of them."""
    judged = []
    for claim in selection.study.criteria:
        outcomes = tuple(_outcome(check, selection, _with_interval) for check in claim.checks)
        found = together([outcome.verdict for outcome in outcomes])
        word = {HOLDS: "pass", FAILS: "fail"}.get(found.word, "undecided")
        several = any(outcome.estimate.seeds for outcome in outcomes)
        limits = (OF_THESE + " (one seed)" * (not several)) * found.of_these_runs
        verdict = f"{word}{limits}{_of_equality(claim, word)}"
        p = min(found.p) if found.p else None
        judged.append(Judged(claim.says, claim.note, outcomes, verdict, p=p))
    return corrected(judged, "criteria")


def _of_equality(claim: Claim, word: str) -> str:
    """`: equal within 5 %`, or `: not equal within 5 %`, after the verdict on a claim that is about that alone."""
    wanted = {bounds(check) for check in claim.checks if check.equal_within}
    if word == "undecided" or len(wanted) != 1 or not all(check.equal_within for check in claim.checks):
        return ""
    return f": {'not ' * (word == 'fail')}{wanted.pop()}"


@lru_cache(maxsize=4)
def judge_statements(selection: Selection) -> list[Judged]:
    """`borne out`, `borne out in part` or `not borne out` for each statement of the study, by the runs' own numbers;
    `cannot be said` without them, or for FIDs on another scale than the study's."""
    judged = []
    for claim in selection.study.statements:
        outcomes = tuple(_outcome(check, selection, _as_it_stands) for check in claim.checks)
        found = {outcome.verdict.word for outcome in outcomes}
        if not found <= {HOLDS, FAILS}:
            verdict = "cannot be said"
        else:
            verdict = {HOLDS: "borne out", FAILS: "not borne out"}.get("".join(found), "borne out in part")
        judged.append(Judged(claim.says, claim.note, outcomes, verdict))
    return judged


def claim_numbers(selection: Selection) -> pd.DataFrame:
    """Every check's number and interval, as rows of `numbers.csv`: `criterion_1_check_1`, `..._low`, `..._high`."""
    rows = []
    for kind, claims in (("criterion", judge_criteria(selection)), ("statement", judge_statements(selection))):
        for place, judged in enumerate(claims, start=1):
            for part, outcome in enumerate(judged.outcomes, start=1):
                arms = " vs ".join(reversed(arms_of(outcome.check, selection.study)))
                name, found = f"{kind}_{place}_check_{part}", outcome.estimate
                low, high = found.seeds or found.within or (None, None)
                values = {name: found.number, f"{name}_low": low, f"{name}_high": high}
                rows += [(arms, outcome.check.metric, key, value) for key, value in values.items() if value is not None]
    return pd.DataFrame(rows, columns=COLUMNS)


def holm_numbers(selection: Selection) -> pd.DataFrame:
    """The criteria's p-values, as the last rows of `numbers.csv`: `criterion_1_p`, `criterion_1_p_holm`."""
    rows = []
    for place, judged in enumerate(judge_criteria(selection), start=1):
        checks = [outcome.check for outcome in judged.outcomes]
        arms = dict.fromkeys(" vs ".join(reversed(arms_of(check, selection.study))) for check in checks)
        about = "; ".join(arms), "; ".join(dict.fromkeys(check.metric for check in checks))
        values = {"p": judged.p, "p_holm": judged.p_holm}
        rows += [(*about, f"criterion_{place}_{key}", value) for key, value in values.items() if value is not None]
    return pd.DataFrame(rows, columns=COLUMNS)


# ---- a check's number ------------------------------------------------------------------------------------


def estimated(check: Check, selection: Selection) -> Estimate:
    """The check's number with its interval; `reason` says why there is none, or why it decides nothing."""
    return _measured(check, selection, _with_interval)


def _outcome(check: Check, selection: Selection, measure: Callable[[Check, list[Arm]], Estimate]) -> Outcome:
    found = _measured(check, selection, measure)
    verdict = judge(found, check.at_least, check.at_most, check.equal_within)
    return Outcome(check, describe_check(check, selection.study), bounds(check), unit(check), found, verdict)


def _measured(check: Check, selection: Selection, measure: Callable[[Check, list[Arm]], Estimate]) -> Estimate:
    arms, missing = find_arms(arms_of(check, selection.study), selection)
    if missing:
        return Estimate(reason=missing)
    absent = [arm.experiment for arm in arms if windowed(check.window, metric_curve(arm, check.metric), arm).empty]
    if absent:
        where = " in that window" if check.window else ""
        return Estimate(reason=f"{check.metric} was not measured{where} in {' and '.join(absent)}")
    found = measure(check, arms)
    if found.number is None:
        return Estimate(reason=found.basis or "these values have no such number")
    return replace(found, reason=_refusal(check, arms, selection.study) or found.reason)


def _with_interval(check: Check, arms: list[Arm]) -> Estimate:
    """The number with its interval. Two FIDs at one step have none; the basis then gives the noise of their samples."""
    found = estimate(check, arms)
    samples = None if found.within or found.seeds else at_one_step(check, arms)
    return replace(found, basis=f"{found.basis}; {beside_samples(samples)}") if samples else found


def beside_samples(difference: Estimate) -> str:
    """A difference of two FIDs beside the noise of their samples. It decides nothing: seeds move FIDs too."""
    assert difference.number is not None and difference.within
    word = "apart beyond" if side(difference)[0] else "within"
    return f"{word} the noise of the samples ({difference.number:+.2f} ± {half(difference.within):.2f}); seeds unknown"


def _as_it_stands(check: Check, arms: list[Arm]) -> Estimate:
    """The number as logged, which says nothing if it is an absolute FID by other features than the study's."""
    found = of_curves(check, arms)
    foreign = foreign_features(arms, check.metric) if _absolute_score(check) else []
    scale = f"scored by {', '.join(foreign)}, on another scale than the study's Inception features" if foreign else ""
    values = () if found.number is None else (found.number,)
    return replace(found, per_seed=values, as_logged=True, reason=scale)


def _absolute_score(check: Check) -> bool:
    """Whether a bound depends on the score's scale: any level, and any difference but 0."""
    if check.metric not in SCORES or check.statistic not in _IN_POINTS or check.of.endswith("_pct"):
        return False
    return check.of == "value" or any((check.at_least, check.at_most, check.equal_within))


# Statistics with the unit of their metric.
_IN_POINTS = ("mean", "min", "max", "farthest", "first", "last", "std")


def find_arms(names: Sequence[str], selection: Selection) -> tuple[list[Arm], str]:
    """The arms of these experiments, and which have no run, in words; empty if all have."""
    found = {name: selection.arm(name) for name in names}
    missing = ", ".join(name for name, arm in found.items() if arm is None)
    return [arm for arm in found.values() if arm], f"no run of {missing}" if missing else ""


def arms_of(check: Check, study: Study) -> list[str]:
    """The arm that the check is about, after the baseline if it compares; all arms if it is about all."""
    if check.statistic in OF_ALL:
        return list(study.arms)
    arm = check.arm or study.name
    return [arm] if check.of in OF_ONE else [study.baseline, arm]


def _refusal(check: Check, arms: Sequence[Arm], study: Study) -> str:
    """Why the number cannot decide; empty if it can."""
    short = not_whole(arms)
    if not short and (why := not_comparable(check.metric, [arm.config for arm in arms])):
        return why
    if short or len(arms) < 2 or check.metric not in SCORES or study.compares_protocols:
        return short
    return "measured under different protocols" if protocol_difference(arms, check.metric) else ""


def not_whole(arms: Sequence[Arm]) -> str:
    """Which runs have not taken all of their steps, in words; empty if all have."""
    short = [run for arm in arms for run in arm.runs if run.last_step < (run.planned_steps or 0)]
    listed = ", ".join(f"{run.name} is at step {run.last_step} of {run.planned_steps}" for run in short)
    return f"unfinished: {listed}" if short else ""


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
    "seed_over_noise": "standard deviation over seeds, of that over the noise of the samples,",
}


def describe_check(check: Check, study: Study) -> str:
    """What a check measures: `mean of curvature/hutch_trace_mean over 60-100 % of the run, e6 against e5`."""
    words = f"{_WORDS[check.statistic]} of {check.metric}"
    arm = check.arm or study.name
    if check.of.startswith("step_"):
        words = f"{_WORDS[check.statistic]} of the {_OF[check.of]} of {check.metric} per step"
    if check.against_metric:
        words += f" with {check.against_metric}"
    if check.since:
        words += f" from {span(check.since)}"
        words += f" to {span(check.window)}" if check.window else ""
    elif check.window:
        words += f" over {span(check.window)}"
    if check.statistic in OF_ALL:
        return f"{words} {', '.join(study.arms)}"
    if check.protocol:
        other = ", ".join(f"{key} = {value}" for key, value in check.protocol.items())
        return f"{words}, {arm} by the protocol with {other} against its own"
    return f"{words}, {arm}" + ("" if check.of in OF_ONE else f" against {study.baseline}")


def span(ends: Span) -> str:
    """A window in words."""
    low, high = ends
    if high <= 1:
        return f"{100 * low:g}-{100 * high:g} % of the run"
    return f"step {low:,.0f}" if low == high else f"steps {low:,.0f}-{high:,.0f}"


def unit(check: Check) -> str:
    """` %` if the number is a percentage, else empty."""
    percent = check.of.endswith("pct") or check.statistic.endswith("pct")
    return " %" if percent and check.statistic not in ("min_step", "correlation") else ""


def bounds(check: Check) -> str:
    """Where the number should lie, in words."""
    if check.equal_within:
        return f"equal within {check.equal_within:g}{unit(check)}"
    return within_bounds(check.at_least, check.at_most, unit(check))


def within_bounds(low: float | None, high: float | None, end: str) -> str:
    """Bounds in words, with the unit `end`; None for an open end."""
    if low is None or high is None:
        return f"at least {low:g}{end}" if high is None else f"at most {high:g}{end}"
    return f"{low:g}{end}" if low == high else f"{low:g} to {high:g}{end}"
