"""Claims about runs, held against their numbers: success criteria by an interval, statements as they stand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pandas as pd

from reports.experiments import Check, Claim, Span, Study
from reports.experiments.choice import Arm, Selection
from reports.intervals import Array, block_jackknife, student, welch
from reports.protocols import protocol_difference
from reports.runs import SCORES
from reports.statistics import COLUMNS, at_end, curve, in_window, per_step, rank_correlation, shared_seeds


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
    """`borne out`, `borne out in part` or `not borne out` by the runs' own numbers; `cannot be said` without them."""
    judged = []
    for claim in selection.study.statements:
        outcomes = tuple(_measure(check, selection) for check in claim.checks)
        found = [outcome.holds for outcome in outcomes]
        if None in found:
            verdict = "cannot be said"
        else:
            verdict = "borne out" if all(found) else "borne out in part" if any(found) else "not borne out"
        judged.append(Judged(claim, outcomes, verdict))
    return judged


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


@dataclass(frozen=True)
class _Estimate:
    """A number with its interval; `basis` is what the interval rests on, or why there is none."""

    number: float | None
    step: int | None = None
    interval: tuple[float, float] | None = None
    basis: str = ""
    of_seeds: bool = False


def _measure(check: Check, selection: Selection, *, with_interval: bool = False) -> Outcome:
    names = _arms_of(check, selection.study)
    arms = [arm for name in names if (arm := selection.arm(name)) is not None]
    if len(arms) < len(names):
        missing = ", ".join(name for name in names if selection.arm(name) is None)
        return Outcome(check, reason=f"no run of {missing}")
    absent = [arm.experiment for arm in arms if _windowed(check.window, _metric(arm, check.metric), arm).empty]
    if absent:
        where = " in that window" if check.window else ""
        return Outcome(check, reason=f"{check.metric} was not measured{where} in {' and '.join(absent)}")
    found = _estimate(check, arms) if with_interval else _of_curves(check, arms)
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
    short = [run for arm in arms for run in arm.runs if run.last_step < (run.planned_steps or 0)]
    if short:
        listed = ", ".join(f"{run.name} stands at step {run.last_step} of {run.planned_steps}" for run in short)
        return f"not whole: {listed}"
    if len(arms) > 1 and check.metric in SCORES and not study.compares_protocols:
        difference = protocol_difference(arms, check.metric)
        return "measured under different protocols" if difference else ""
    return ""


def _estimate(check: Check, arms: Sequence[Arm]) -> _Estimate:
    """The check's number with its 95 % interval: both of the same seeds where there are several, else of the steps."""
    if check.of == "value":
        values = _defined(_of_seeds(check, arms, [(run,) for run in range(len(arms[0].runs))]))
        if len(values) > 1:
            return _over_seeds(values, f"Student's t over {len(values)} seeds")
        return _over_steps(check, arms)
    shared = shared_seeds(*arms)
    values = _defined(_of_seeds(check, arms, shared))
    if len(values) > 1:
        rest = max(len(arm.runs) for arm in arms) > len(values)
        which = f"the {len(values)} seeds that both arms have" if rest else f"{len(values)} seeds"
        return _over_seeds(values, f"Student's t over {which}, paired")
    if not check.of.startswith("step_") and min(len(arm.runs) for arm in arms) > 1:
        return _unpaired(check, arms)
    return _over_steps(check, arms)


def _over_seeds(values: Array, basis: str) -> _Estimate:
    return _Estimate(float(values.mean()), None, student(values), basis, of_seeds=True)


def _of_seeds(check: Check, arms: Sequence[Arm], places: Sequence[tuple[int, ...]]) -> list[float | None]:
    """The check's number of one run of each arm, for each of the places in their runs."""
    singles = [_singles(arm) for arm in arms]
    chosen = [[single[i] for single, i in zip(singles, place, strict=True)] for place in places]
    return [_of_curves(check, single).number for single in chosen]


@lru_cache(maxsize=32)
def _singles(arm: Arm) -> tuple[Arm, ...]:
    """Each run as an arm of its own; kept, since curves are kept by arm."""
    return tuple(Arm(arm.experiment, arm.role, (run,)) for run in arm.runs)


def _defined(values: Sequence[float | None]) -> Array:
    return np.array([value for value in values if value is not None], dtype=float)


def _unpaired(check: Check, arms: Sequence[Arm]) -> _Estimate:
    own = check.model_copy(update={"of": "value"})
    baseline, variant = (_defined(_of_seeds(own, [arm], [(i,) for i in range(len(arm.runs))])) for arm in arms)
    if min(len(baseline), len(variant)) < 2:
        return _over_steps(check, arms)
    basis = f"Welch's t over {len(variant)} and {len(baseline)} seeds"
    number = _contrast(check.of, float(baseline.mean()), float(variant.mean()))
    if number is None:
        return _Estimate(None, basis="no percentage of a baseline of 0")
    if check.of == "difference":
        return _Estimate(number, None, welch(baseline, variant), basis, of_seeds=True)
    # A quotient's error to first order (delta method): as if of v / b and r b / b, r = mean(v) / mean(b).
    scale = 100 / abs(baseline.mean())
    low, high = welch(scale * variant.mean() / baseline.mean() * baseline, scale * variant)
    return _Estimate(number, None, (number + low, number + high), basis, of_seeds=True)


def _over_steps(check: Check, arms: Sequence[Arm]) -> _Estimate:
    """Of the mean curves; the interval by a jackknife over blocks of steps, where the number is of many steps."""
    found = _of_curves(check, arms)
    several = " and ".join(f"{arm.experiment} {len(arm.runs)}" for arm in arms)
    seeds = "one seed" if all(len(arm.runs) == 1 for arm in arms) else f"too few seeds for an interval ({several})"
    if check.statistic not in ("mean", "std", "drop_pct") or found.number is None:
        return replace(found, basis=f"{seeds}, and a single number has no interval over steps")
    pieces = _pieces(check, arms)

    def statistic(kept: Sequence[pd.DataFrame]) -> float:
        number = _reduced(check, kept)[0]
        return np.nan if number is None else number

    interval = block_jackknife(pieces, statistic)
    if interval is None:
        steps = min(map(len, pieces))
        return replace(found, basis=f"{seeds}, and {steps} steps are too few for an interval over steps")
    steps = len(pieces[-1])
    basis = f"{seeds}: jackknife over blocks of {steps} steps, which covers what varies within the runs, not seeds"
    return _Estimate(found.number, found.step, interval, basis)


# ---- of curves -------------------------------------------------------------------------------------------


def _of_curves(check: Check, arms: Sequence[Arm]) -> _Estimate:
    number, step = _reduced(check, _pieces(check, arms))
    return _Estimate(number, step)


def _pieces(check: Check, arms: Sequence[Arm]) -> list[pd.DataFrame]:
    """The values a check's number is made of, a column for each arm, in the window; before them, where the statistic
    needs it, those in `since` or of the other metric."""
    spans = [check.window] if check.since is None else [check.since, check.window]
    curves = [[_windowed(span, _metric(arm, check.metric), arm) for arm in arms] for span in spans]
    if check.against_metric:
        curves = [[_metric(arm, check.against_metric) for arm in arms], *curves]
    together = check.of.startswith("step_") or check.statistic in ("mean", "std", "drop_pct")
    return [pd.concat(each, axis=1, join="inner" if together else "outer").sort_index() for each in curves]


def _reduced(check: Check, pieces: Sequence[pd.DataFrame]) -> tuple[float | None, int | None]:
    """(the check's number, the step it was taken at where it is that of one step)."""
    columns = [[piece.iloc[:, place].dropna() for piece in pieces] for place in range(pieces[-1].shape[1])]
    if check.of.startswith("step_"):
        columns = [[per_step(*(c[i] for c in columns), percent=check.of.endswith("pct")) for i in range(len(pieces))]]
    found = [_reduce(check.statistic, parts) for parts in columns]
    if len(found) == 1:
        return found[0]
    (baseline, _), (variant, _) = found
    if baseline is None or variant is None:
        return None, None
    return _contrast(check.of, baseline, variant), None


def _contrast(of: str, baseline: float, variant: float) -> float | None:
    """variant - baseline, or its percentage of |baseline|; None for a percentage of 0."""
    if of == "difference":
        return variant - baseline
    return 100 * (variant - baseline) / abs(baseline) if baseline else None


def _metric(arm: Arm, metric: str) -> pd.Series:
    """The arm's curve of a metric, or of the quotient of two."""
    top, _, bottom = metric.partition(" / ")
    values = curve(arm, top)
    if values.empty and (ends := at_end(arm, top)):  # logged once, at the end (run_time_s)
        values = pd.Series([float(np.mean(ends))], index=[arm.last_step])
    return values / curve(arm, bottom).reindex(values.index) if bottom else values


def _windowed(span: Span | None, values: pd.Series, arm: Arm) -> pd.Series:
    if span is None:
        return values
    if span[1] <= 1:
        return in_window(values, arm.last_step, span)
    return values[(values.index >= span[0]) & (values.index <= span[1])]


def _reduce(statistic: str, parts: Sequence[pd.Series]) -> tuple[float | None, int | None]:
    values = parts[-1].dropna()
    if values.empty:
        return None, None
    if statistic in _OF_ONE_STEP:
        place = _OF_ONE_STEP[statistic](values.to_numpy(dtype=float))
        step = int(values.index[place])
        return (float(step), None) if statistic == "min_step" else (float(values.iloc[place]), step)
    return _of_many(statistic, values, parts[0]), None


_OF_ONE_STEP: dict[str, Callable[[Array], int]] = {
    "first": lambda _: 0,
    "last": lambda _: -1,
    "min": lambda x: int(x.argmin()),
    "min_step": lambda x: int(x.argmin()),
    "max": lambda x: int(x.argmax()),
}


def _of_many(statistic: str, values: pd.Series, other: pd.Series) -> float | None:
    if statistic == "mean":
        return float(values.mean())
    if statistic == "below_pct":
        return 100 * float((values < 0).mean())
    if statistic == "drop_pct":
        before = float(other.mean()) if len(other) else 0.0
        return 100 * (before - float(values.mean())) / abs(before) if before else None
    if statistic == "correlation":
        return rank_correlation(values, other)
    if len(values) < 2:
        return None
    return float(values.std()) if statistic == "std" else 100 * float((values.diff().iloc[1:] > 0).mean())


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
