"""A check's number and its intervals: over seeds if there are several, else over the steps of a run."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pandas as pd

from reports.experiments import OF_ALL, Check, Span
from reports.experiments.selection import Arm
from reports.long_table import settled
from reports.stats.draws import paired_change, paired_difference, values_key
from reports.stats.intervals import (
    Array,
    Estimate,
    Interval,
    around,
    block_jackknife,
    fall,
    half,
    over_seeds,
    student,
    welch,
)
from reports.stats.rescored import protocol_change, seed_over_noise
from reports.stats.statistics import (
    at_end,
    curve,
    in_window,
    per_step,
    rank_correlation,
    same_draws,
    sample_contrast,
    shared_seeds,
)

# Counts and orders of what was logged: another look at the same runs gives the same number.
_AS_LOGGED = ("min", "max", "min_step", "rising_pct", "below_pct", "first", "last")
_OF_ONE_STEP = ("first", "last", "min", "min_step", "min_place", "max", "farthest")
# Statistics over many steps: leaving some steps out shows how well the number is known.
_OVER_STEPS = ("mean", "std", "drop_pct", "correlation")


def estimate(check: Check, arms: Sequence[Arm]) -> Estimate:
    """The check's number with the interval over seeds if there are several (paired if the arms share them), and the one
    over paired draws if there are any; without both, the one over the steps. arms: the one that the check is about, or
    the baseline and that one."""
    if check.of == "protocol_change_pct":
        return protocol_change(check, arms[0])
    if check.statistic == "seed_over_noise":
        return seed_over_noise(check.metric, arms)
    found, draws = _over_seeds(check, arms), over_draws(check, arms)
    if draws is None:
        return found or over_steps(check, arms)
    return _with_draws(found or replace(of_curves(check, arms), basis=_few_seeds(arms)), draws)


def _over_seeds(check: Check, arms: Sequence[Arm]) -> Estimate | None:
    """The check's number with the interval over seeds; None if there are too few of them."""
    values = defined(of_each_seed(check, arms))
    if len(values) > 1:
        rest = len(arms) > 1 and max(len(arm.runs) for arm in arms) > len(values)
        which = f"the {len(values)} seeds that both arms have" if rest else f"{len(values)} seeds"
        basis = f"Student's t over {which}{', paired' * (len(arms) > 1)}"
        return Estimate(float(values.mean()), tuple(map(float, values)), seeds=student(values), basis=basis)
    if len(arms) > 1 and not check.of.startswith("step_") and min(len(arm.runs) for arm in arms) > 1:
        return _unpaired(check, arms)
    return None


def over_draws(check: Check, arms: Sequence[Arm]) -> Estimate | None:
    """The contrast of two arms' traces with the interval over the probe's draws, which both share; None if it is no
    mean of such traces, or if they cannot be paired.

    This is what varies within these runs. On fixed draws every step has the same error, so that the scatter from step
    to step cannot show it: that is the weights' own movement, which the interval over seeds covers. A jackknife over
    steps would count the movement as error, and leave the error of the draws out.
    """
    if len(arms) != 2 or check.statistic != "mean" or not values_key(check.metric):
        return None
    places = shared_seeds(*arms)
    if places:
        kept = (tuple(arm.runs[place[side]] for place in places) for side, arm in enumerate(arms))
        arms = [arm if arm.runs == runs else replace(arm, runs=runs) for arm, runs in zip(arms, kept, strict=True)]
    steps = _pieces(check, arms)[-1].index
    if check.of.endswith("difference"):
        return paired_difference(arms[0], arms[1], check.metric, steps)
    return paired_change(arms[0], arms[1], check.metric, steps, of_means=check.of == "change_pct")


def _with_draws(found: Estimate, draws: Estimate) -> Estimate:
    """A number with the interval over draws as `within`, moved to that number: the mean of the seeds' quotients is not
    quite the quotient of their means."""
    within = None
    if draws.within and found.number is not None:
        within = around(found.number, half(draws.within), draws.within.df)
    covers = ", which covers other draws of the probe" * (within is not None)
    basis = "; ".join(filter(None, (f"{draws.basis}{covers}", found.basis)))
    return replace(found, within=within, basis=basis, paired=draws.paired)


def with_both_intervals(check: Check, arms: Sequence[Arm]) -> Estimate:
    """The check's number, mean over seeds, with the interval within the runs (over paired draws if there are any, else
    over steps) and the one over seeds."""
    each = defined(of_each_seed(check, arms))
    per_seed = tuple(map(float, each))
    given = "_trace_" in check.metric and same_draws(arms)
    if check.statistic in _AS_LOGGED:
        return Estimate(float(each.mean()) if len(each) else None, per_seed, as_logged=True, given_draws=given)
    found = within_runs(check, arms)
    if draws := over_draws(check, arms):
        found, given = _with_draws(replace(found, basis=""), draws), given and draws.within is None
    ends = (-1.0, 1.0) if check.statistic == "correlation" else (-math.inf, math.inf)
    if check.statistic == "std" and check.of == "change_pct":
        ends = -100.0, math.inf  # a spread falls by 100 % at most
    within, seeds = (_cut(interval, *ends) for interval in (found.within, over_seeds(per_seed)))
    return replace(found, per_seed=per_seed, within=within, seeds=seeds, given_draws=given)


def _cut(interval: Interval | None, low: float, high: float) -> Interval | None:
    """The part of an interval in which the number can lie."""
    start, end = (max(low, min(high, each)) for each in interval or (low, high))
    return interval and Interval(start, end, interval.df)


def of_each_seed(check: Check, arms: Sequence[Arm]) -> list[float | None]:
    """The check's number for each seed of the one arm, or for each seed that both arms have."""
    if check.of == "protocol_change_pct":
        return list(protocol_change(check, arms[0]).per_seed)
    if check.statistic in OF_ALL:  # it is one number of all seeds
        return []
    return [of_curves(check, single).number for single in _by_seed(arms)]


def _by_seed(arms: Sequence[Arm]) -> list[list[Arm]]:
    """The arms cut down to one run each, for each seed of the one arm, or for each that both have."""
    singles = [_singles(arm) for arm in arms]
    places = shared_seeds(*arms) if len(arms) > 1 else [(run,) for run in range(len(arms[0].runs))]
    return [[single[i] for single, i in zip(singles, place, strict=True)] for place in places]


def within_runs(check: Check, arms: Sequence[Arm]) -> Estimate:
    """The mean over seeds of the check's number, with the interval of what varies within the runs: each seed's own from
    `over_steps`, taken as independent. It covers no other seeds. Two arms without a common seed are compared by their
    mean curves."""
    found = [over_steps(check, single) for single in _by_seed(arms)] or [over_steps(check, arms)]
    numbers = [each.number for each in found if each.number is not None]
    if len(numbers) < len(found):
        return Estimate(basis=found[0].basis)
    number = sum(numbers) / len(numbers)
    each_within = [each.within for each in found if each.within]
    if len(each_within) < len(found):
        return Estimate(number, basis=next(each.basis for each in found if not each.within))
    reach = math.sqrt(sum(half(each) ** 2 for each in each_within)) / len(each_within)
    within = around(number, reach, min(each.df for each in each_within))
    return Estimate(number, within=within, basis=found[0].basis)


@lru_cache(maxsize=32)
def _singles(arm: Arm) -> tuple[Arm, ...]:
    """Each run as an arm of its own. Cached because curves are cached by arm."""
    return tuple(Arm(arm.experiment, arm.role, (run,)) for run in arm.runs)


def defined(values: Sequence[float | None]) -> Array:
    """The values without those that are None."""
    return np.array([value for value in values if value is not None], dtype=float)


def _unpaired(check: Check, arms: Sequence[Arm]) -> Estimate:
    baseline, variant = (defined(of_each_seed(_own(check), [arm])) for arm in arms)
    if min(len(baseline), len(variant)) < 2:
        return over_steps(check, arms)
    basis = f"Welch's t over {len(variant)} and {len(baseline)} seeds"
    number = _contrast(check.of, float(baseline.mean()), float(variant.mean()))
    values = unpaired_values(check, arms)
    if number is None or values is None:
        return Estimate(basis="no percentage of a baseline of 0")
    interval = welch(*values)
    if check.of == "difference":
        return Estimate(number, seeds=interval, basis=basis)
    return Estimate(number, seeds=Interval(number + interval[0], number + interval[1], interval.df), basis=basis)


def _own(check: Check) -> Check:
    """The check about an arm alone."""
    return check.model_copy(update={"of": "value"})


def unpaired_values(check: Check, arms: Sequence[Arm]) -> tuple[Array, Array] | None:
    """The seeds' numbers of both arms, in the unit of the check: their means differ by its number, and in a percentage
    by 0. None for a number per step, which takes both arms at once, and for a percentage of 0."""
    if check.of not in ("difference", "change_pct"):
        return None
    baseline, variant = (defined(of_each_seed(_own(check), [arm])) for arm in arms)
    if check.of == "difference":
        return baseline, variant
    if not len(baseline) or not len(variant) or not baseline.mean():
        return None
    # The error of a quotient to first order (delta method): that of v / b - r b / b with r = mean(v) / mean(b).
    scale = 100 / abs(baseline.mean())
    return scale * variant.mean() / baseline.mean() * baseline, scale * variant


def over_steps(check: Check, arms: Sequence[Arm]) -> Estimate:
    """The check's number of the mean curves, with a jackknife interval over blocks of steps if it is a number over many
    steps."""
    found = of_curves(check, arms)
    seeds = _few_seeds(arms)
    if check.statistic not in _OVER_STEPS or found.number is None:
        return replace(found, basis=f"{seeds}, and a single number has no interval over steps")
    pieces = _pieces(check, arms)

    def statistic(kept: Sequence[pd.DataFrame]) -> float:
        number = _reduced(check, kept)[0]
        return np.nan if number is None else number

    falls = check.statistic == "drop_pct" and len(arms) == 1  # its windows have a trend, the first one most of all
    interval = fall(*(piece.iloc[:, 0].dropna().to_numpy(dtype=float) for piece in pieces)) if falls else None
    interval = interval or block_jackknife(pieces, statistic)
    if interval is None:
        steps = min(map(len, pieces))
        return replace(found, basis=f"{seeds}, and {steps} steps are too few for an interval over steps")
    steps = len(pieces[-1])
    way = f"scatter of {steps} steps around their trend" if falls else f"jackknife over blocks of {steps} steps"
    rest = " nor other draws of the probe" if check.metric.startswith("curvature/") and same_draws(arms) else ""
    basis = f"{seeds}: {way}, which covers what varies within the runs, not seeds{rest}"
    return replace(found, within=interval, basis=basis)


def _few_seeds(arms: Sequence[Arm]) -> str:
    several = " and ".join(f"{arm.experiment} {len(arm.runs)}" for arm in arms)
    return "one seed" if all(len(arm.runs) == 1 for arm in arms) else f"too few seeds for an interval ({several})"


def at_one_step(check: Check, arms: Sequence[Arm]) -> Estimate | None:
    """The difference of two single runs' FIDs at the one step of the check, with the interval over the noise of their
    samples; None for another check, or if that noise was not logged."""
    if check.of != "difference" or check.statistic not in ("first", "last"):
        return None
    curves = [windowed(check.window, metric_curve(arm, check.metric), arm) for arm in arms]
    steps = {int(values.index[-1 if check.statistic == "last" else 0]) for values in curves if len(values)}
    return sample_contrast(arms[0], arms[1], check.metric, steps.pop()) if len(steps) == 1 else None


# ---- of curves -------------------------------------------------------------------------------------------


def of_curves(check: Check, arms: Sequence[Arm]) -> Estimate:
    """The check's number of the arms' mean curves, without an interval."""
    number, step = _reduced(check, _pieces(check, arms))
    return Estimate(number, step=step)


def _pieces(check: Check, arms: Sequence[Arm]) -> list[pd.DataFrame]:
    """The check's values in its window, a column for each arm; before them, if needed, those in `since` or of the other
    metric."""
    spans = [check.window] if check.since is None else [check.since, check.window]
    curves = [[windowed(span, metric_curve(arm, check.metric), arm) for arm in arms] for span in spans]
    if check.against_metric:
        curves = [[windowed(check.window, metric_curve(arm, check.against_metric), arm) for arm in arms], *curves]
    together = check.of.startswith("step_") or check.statistic in _OVER_STEPS
    pieces = [pd.concat(each, axis=1, join="inner" if together else "outer").sort_index() for each in curves]
    if check.against_metric:  # a block is left out of both metrics
        steps = pieces[0].index.intersection(pieces[1].index)
        pieces = [piece.loc[steps] for piece in pieces]
    return pieces


def _reduced(check: Check, pieces: Sequence[pd.DataFrame]) -> tuple[float | None, int | None]:
    """(the check's number; its step if it is the number of one step)."""
    columns = [[piece.iloc[:, place].dropna() for piece in pieces] for place in range(pieces[-1].shape[1])]
    if check.of.startswith("step_"):
        columns = [[per_step(*(c[i] for c in columns), percent=check.of.endswith("pct")) for i in range(len(pieces))]]
    found = [_reduce(check, parts) for parts in columns]
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


def metric_curve(arm: Arm, metric: str) -> pd.Series:
    """The arm's curve of a metric, or of the quotient of two (`a / b`)."""
    top, _, bottom = metric.partition(" / ")
    values = curve(arm, top)
    if values.empty and (ends := at_end(arm, top)):  # logged once, at the end (run_time_s)
        values = pd.Series([float(np.mean(ends))], index=[arm.last_step])
    return settled(values / curve(arm, bottom).reindex(values.index)) if bottom else values


def windowed(span: Span | None, values: pd.Series, arm: Arm) -> pd.Series:
    """The part of a curve in a window: steps, or fractions of the arm's length if it ends at 1 or below."""
    if span is None:
        return values
    if span[1] <= 1:
        return in_window(values, arm.last_step, span)
    return values[(values.index >= span[0]) & (values.index <= span[1])]


def _reduce(check: Check, parts: Sequence[pd.Series]) -> tuple[float | None, int | None]:
    values = parts[-1].dropna()
    if values.empty:
        return None, None
    if check.statistic not in _OF_ONE_STEP:
        return _of_many(check.statistic, values, parts[0]), None
    place = _place(check, values.to_numpy(dtype=float))
    step = int(values.index[place])
    if check.statistic == "min_step":
        return float(step), None
    return (float(place + 1) if check.statistic == "min_place" else float(values.iloc[place])), step


def _place(check: Check, values: Array) -> int:
    """The place of the value that a statistic of one step takes."""
    if check.statistic in ("first", "last"):
        return 0 if check.statistic == "first" else -1
    if check.statistic == "farthest":
        middle = ((check.at_least or 0.0) + (check.at_most or 0.0)) / 2  # the check has both
        return int(np.abs(values - middle).argmax())
    return int(values.argmax() if check.statistic == "max" else values.argmin())


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
