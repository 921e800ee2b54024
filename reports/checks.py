"""Claims about runs, held against their numbers: success criteria by an interval, statements as they stand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from reports.experiments import Check, Claim, Span, Study
from reports.experiments.choice import Arm, Selection
from reports.intervals import Array, block_bootstrap, student, welch
from reports.statistics import at_end, curve, in_window, shared_seeds

# of whole series at common steps, (b, n) -> (b,): what a bootstrap over steps can be taken of
_OVER_STEPS: dict[str, Callable[[Array], Array]] = {
    "mean": lambda x: x.mean(axis=-1),
    "std": lambda x: x.std(axis=-1, ddof=1),
}


@dataclass(frozen=True)
class Outcome:
    """A check's number; `interval` with `basis`, what it covers; `step` where the number is that of one step. `holds`:
    None where it cannot be said, and `reason` then says why."""

    check: Check
    number: float | None
    holds: bool | None
    interval: tuple[float, float] | None = None
    basis: str = ""
    step: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Judged:
    """A claim with the outcomes of its checks and the verdict in a word or three."""

    claim: Claim
    outcomes: tuple[Outcome, ...]
    verdict: str


def judge_criteria(selection: Selection) -> list[Judged]:
    """`pass` where every check's whole interval lies where it should, `fail` where one's lies wholly outside, else
    `undecided`."""
    judged = []
    for claim in selection.study.criteria:
        outcomes = tuple(_by_interval(_measure(check, selection, with_interval=True)) for check in claim.checks)
        found = [outcome.holds for outcome in outcomes]
        verdict = "fail" if False in found else "undecided" if None in found else "pass"
        judged.append(Judged(claim, outcomes, verdict))
    return judged


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


def _by_interval(outcome: Outcome) -> Outcome:
    """The outcome as the interval decides it."""
    if outcome.number is None:
        return outcome
    if outcome.interval is None:
        reason = "one seed, and no interval can be had of this number"
        return Outcome(outcome.check, outcome.number, None, step=outcome.step, reason=reason)
    inside = [_lies(outcome.check, end) for end in outcome.interval]
    wrong = outcome.interval[1] < _low(outcome.check) or outcome.interval[0] > _high(outcome.check)
    holds = True if all(inside) else False if wrong else None
    reason = "" if holds is not None else "the interval reaches over the bound"
    return Outcome(outcome.check, outcome.number, holds, outcome.interval, outcome.basis, outcome.step, reason)


def _low(check: Check) -> float:
    return -np.inf if check.at_least is None else check.at_least


def _high(check: Check) -> float:
    return np.inf if check.at_most is None else check.at_most


def _lies(check: Check, value: float) -> bool:
    return _low(check) <= value <= _high(check)


# ---- numbers ---------------------------------------------------------------------------------------------


def _measure(check: Check, selection: Selection, *, with_interval: bool = False) -> Outcome:
    study = selection.study
    names = _arms_of(check, study)
    arms = [selection.arm(name) for name in names]
    missing = [name for name, arm in zip(names, arms, strict=True) if arm is None]
    if missing:
        return Outcome(check, None, None, reason=f"no run of {', '.join(missing)}")
    present = [arm for arm in arms if arm is not None]
    curves = [_windowed(check.window, _mean_curve(arm, check.metric), arm.last_step) for arm in present]
    number, step = _number(check, curves, [_extra(check, arm) for arm in present])
    if number is None:
        where = " in that window" if check.window else ""
        both = ", in both arms" if len(present) > 1 else ""
        return Outcome(check, None, None, reason=f"{check.metric} was not measured{where}{both}")
    interval, basis = _interval(check, present, curves) if with_interval else (None, "")
    return Outcome(check, number, _lies(check, number), interval, basis, step)


def _arms_of(check: Check, study: Study) -> list[str]:
    """The arm that the check is about, and the baseline before it where it compares."""
    arm = check.arm or study.name
    return [arm] if check.of == "value" else [study.baseline, arm]


def _mean_curve(arm: Arm, metric: str) -> pd.Series:
    top, _, bottom = metric.partition(" / ")
    values = curve(arm, top)
    if values.empty and (ends := at_end(arm, top)):  # logged once, at the end (run_time_s)
        values = pd.Series([float(np.mean(ends))], index=[arm.last_step])
    return values / curve(arm, bottom).reindex(values.index) if bottom else values


def _windowed(span: Span | None, values: pd.Series, last_step: int) -> pd.Series:
    if span is None:
        return values
    if span[1] <= 1:
        return in_window(values, last_step, span)
    return values[(values.index >= span[0]) & (values.index <= span[1])]


def _extra(check: Check, arm: Arm) -> pd.Series:
    """The second series that a statistic needs: the earlier window's, or another metric's."""
    if check.since:
        return _windowed(check.since, _mean_curve(arm, check.metric), arm.last_step)
    return _mean_curve(arm, check.against_metric) if check.against_metric else pd.Series(dtype=float)


def _number(check: Check, curves: Sequence[pd.Series], extras: Sequence[pd.Series]) -> tuple[float | None, int | None]:
    """(the check's number, the step it was taken at where it is that of one step)."""
    if check.of.startswith("step_"):
        return _reduce(check.statistic, per_step(check.of, *curves), extras[-1])
    found = [_reduce(check.statistic, values, extra) for values, extra in zip(curves, extras, strict=True)]
    numbers = [number for number, _ in found]
    if check.of == "value":
        return found[0]
    baseline, variant = numbers
    if baseline is None or variant is None:
        return None, None
    return contrast(check.of, baseline, variant), None


def per_step(of: str, baseline: pd.Series, variant: pd.Series) -> pd.Series:
    """variant - baseline at their common steps, or its percentage of |baseline|."""
    table = pd.concat({"b": baseline, "v": variant}, axis=1, join="inner").sort_index()
    difference = table["v"] - table["b"]
    return 100 * difference / table["b"].abs().where(table["b"] != 0) if of.endswith("pct") else difference


def contrast(of: str, baseline: float, variant: float) -> float | None:
    """variant - baseline, or its percentage of |baseline|; None for a percentage of 0."""
    if of == "difference":
        return variant - baseline
    return 100 * (variant - baseline) / abs(baseline) if baseline else None


def _reduce(statistic: str, values: pd.Series, extra: pd.Series) -> tuple[float | None, int | None]:
    values = values.dropna()
    if values.empty:
        return None, None
    steps = values.index.to_numpy()
    if statistic in ("first", "last", "min", "max", "min_step"):
        array = values.to_numpy(dtype=float)
        place = {"first": 0, "last": -1, "max": int(array.argmax())}.get(statistic, int(array.argmin()))
        step = int(steps[place])
        return (float(step), None) if statistic == "min_step" else (float(array[place]), step)
    return _of_many(statistic, values, extra), None


def _of_many(statistic: str, values: pd.Series, extra: pd.Series) -> float | None:
    if statistic == "mean":
        return float(values.mean())
    if statistic == "drop_pct":
        return 100 * (1 - float(values.mean()) / float(extra.mean())) if len(extra) and extra.mean() else None
    if len(values) < 2:
        return None
    if statistic == "std":
        return float(values.std())
    if statistic == "rising_pct":
        return 100 * float((values.diff().iloc[1:] > 0).mean())
    table = pd.concat([values, extra], axis=1, join="inner", keys=["a", "b"]).dropna().rank()
    found = float(table["a"].corr(table["b"])) if len(table) > 2 else np.nan  # Spearman's: Pearson's of ranks
    return found if np.isfinite(found) else None


# ---- intervals -------------------------------------------------------------------------------------------


def _interval(check: Check, arms: Sequence[Arm], curves: Sequence[pd.Series]) -> tuple[tuple[float, float] | None, str]:
    """The 95 % interval of a check's number, and what it covers: seeds where there are several, else steps."""
    if check.of == "value":
        values = [v for run in range(len(arms[0].runs)) if (v := _of_seed(check, arms, (run,))) is not None]
        if len(values) > 1:
            return student(np.array(values)), f"Student's t over {len(values)} seeds"
    else:
        shared = shared_seeds(*arms)
        values = [v for places in shared if (v := _of_seed(check, arms, places)) is not None]
        if len(values) > 1:
            return student(np.array(values)), f"Student's t over {len(values)} seeds, paired"
        if not check.of.startswith("step_") and min(len(arm.runs) for arm in arms) > 1:
            return _unpaired(check, arms)
    return _over_steps(check, curves)


def _of_seed(check: Check, arms: Sequence[Arm], places: Sequence[int]) -> float | None:
    """The check's number of one run of each arm."""
    single = [Arm(arm.experiment, arm.role, (arm.runs[place],)) for arm, place in zip(arms, places, strict=True)]
    curves = [_windowed(check.window, _mean_curve(arm, check.metric), arm.last_step) for arm in single]
    return _number(check, curves, [_extra(check, arm) for arm in single])[0]


def _unpaired(check: Check, arms: Sequence[Arm]) -> tuple[tuple[float, float] | None, str]:
    own = check.model_copy(update={"of": "value"})
    samples = []
    for arm in arms:
        values = [_of_seed(own, [arm], (run,)) for run in range(len(arm.runs))]
        samples.append(np.array([value for value in values if value is not None]))
    baseline, variant = samples
    if min(map(len, samples)) < 2 or baseline.mean() == 0:
        return None, ""
    if check.of == "difference":
        return welch(baseline, variant), f"Welch's t over {len(variant)} and {len(baseline)} seeds"
    # A quotient's error to first order (delta method): as if of v / b and r b / b, r = mean(v) / mean(b).
    scale = 100 / abs(baseline.mean())
    low, high = welch(scale * variant.mean() / baseline.mean() * baseline, scale * variant)
    centre = 100 * (variant.mean() - baseline.mean()) / abs(baseline.mean())
    return (centre + low, centre + high), f"Welch's t over {len(variant)} and {len(baseline)} seeds"


def _over_steps(check: Check, curves: Sequence[pd.Series]) -> tuple[tuple[float, float] | None, str]:
    reduce = _OVER_STEPS.get(check.statistic)
    if reduce is None:
        return None, ""
    if check.of.startswith("step_"):
        curves = [per_step(check.of, *curves)]
    table = pd.concat(list(curves), axis=1, join="inner").dropna()

    def statistic(drawn: Array) -> Array:
        each = [reduce(drawn[:, i]) for i in range(drawn.shape[1])]
        if len(each) == 1:
            return each[0]
        difference = each[1] - each[0]
        return 100 * difference / np.abs(each[0]) if check.of == "change_pct" else difference

    found = block_bootstrap(table.to_numpy(dtype=float).T, statistic)
    return found, f"block bootstrap over {len(table)} steps: what varies within the runs, not between seeds"


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
    percent = check.of.endswith("pct") or (check.of == "value" and check.statistic.endswith("pct"))
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
