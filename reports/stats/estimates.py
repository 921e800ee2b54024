"""A check's number and its interval: over seeds where there are several, else over the steps of a run."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pandas as pd

from reports.experiments import Check, Span
from reports.experiments.selection import Arm
from reports.long_table import settled
from reports.stats.intervals import Array, block_jackknife, fall, student, welch
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


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; `basis` is what the interval rests on, or why there is none."""

    number: float | None
    step: int | None = None
    interval: tuple[float, float] | None = None
    basis: str = ""
    of_seeds: bool = False


def estimate(check: Check, arms: Sequence[Arm]) -> Estimate:
    """The check's number with its 95 % interval: both of the same seeds where there are several, else of the steps."""
    if check.of == "value":
        values = _defined(of_each_seed(check, arms))
        if len(values) > 1:
            return _over_seeds(values, f"Student's t over {len(values)} seeds")
        return over_steps(check, arms)
    values = _defined(of_each_seed(check, arms))
    if len(values) > 1:
        rest = max(len(arm.runs) for arm in arms) > len(values)
        which = f"the {len(values)} seeds that both arms have" if rest else f"{len(values)} seeds"
        return _over_seeds(values, f"Student's t over {which}, paired")
    if not check.of.startswith("step_") and min(len(arm.runs) for arm in arms) > 1:
        return _unpaired(check, arms)
    return over_steps(check, arms)


def _over_seeds(values: Array, basis: str) -> Estimate:
    return Estimate(float(values.mean()), None, student(values), basis, of_seeds=True)


def of_each_seed(check: Check, arms: Sequence[Arm]) -> list[float | None]:
    """The check's number of each seed's runs: of each of an arm's, or of those of a seed that both arms have."""
    return [of_curves(check, single).number for single in _by_seed(arms)]


def _by_seed(arms: Sequence[Arm]) -> list[list[Arm]]:
    """The arms with one run each, for each seed of one arm, or each that both have."""
    singles = [_singles(arm) for arm in arms]
    places = shared_seeds(*arms) if len(arms) > 1 else [(run,) for run in range(len(arms[0].runs))]
    return [[single[i] for single, i in zip(singles, place, strict=True)] for place in places]


def within_runs(check: Check, arms: Sequence[Arm]) -> Estimate:
    """The mean over seeds of the check's number, with the interval of what varies within the runs: each seed's own by
    `over_steps`, taken for independent. It says nothing of other seeds. One arm against another of no seed in common
    is taken as the two mean curves."""
    found = [over_steps(check, single) for single in _by_seed(arms)] or [over_steps(check, arms)]
    numbers = [each.number for each in found if each.number is not None]
    if len(numbers) < len(found):
        return Estimate(None, basis=found[0].basis)
    number = sum(numbers) / len(numbers)
    reaches = [(each.interval[1] - each.interval[0]) / 2 for each in found if each.interval]
    if len(reaches) < len(found):
        return Estimate(number, basis=next(each.basis for each in found if not each.interval))
    reach = math.sqrt(sum(each**2 for each in reaches)) / len(reaches)
    return Estimate(number, None, (number - reach, number + reach), found[0].basis)


@lru_cache(maxsize=32)
def _singles(arm: Arm) -> tuple[Arm, ...]:
    """Each run as an arm of its own; kept, since curves are kept by arm."""
    return tuple(Arm(arm.experiment, arm.role, (run,)) for run in arm.runs)


def _defined(values: Sequence[float | None]) -> Array:
    return np.array([value for value in values if value is not None], dtype=float)


def _unpaired(check: Check, arms: Sequence[Arm]) -> Estimate:
    own = check.model_copy(update={"of": "value"})
    baseline, variant = (_defined(of_each_seed(own, [arm])) for arm in arms)
    if min(len(baseline), len(variant)) < 2:
        return over_steps(check, arms)
    basis = f"Welch's t over {len(variant)} and {len(baseline)} seeds"
    number = _contrast(check.of, float(baseline.mean()), float(variant.mean()))
    if number is None:
        return Estimate(None, basis="no percentage of a baseline of 0")
    if check.of == "difference":
        return Estimate(number, None, welch(baseline, variant), basis, of_seeds=True)
    # A quotient's error to first order (delta method): as if of v / b and r b / b, r = mean(v) / mean(b).
    scale = 100 / abs(baseline.mean())
    low, high = welch(scale * variant.mean() / baseline.mean() * baseline, scale * variant)
    return Estimate(number, None, (number + low, number + high), basis, of_seeds=True)


def over_steps(check: Check, arms: Sequence[Arm]) -> Estimate:
    """Of the mean curves; the interval by a jackknife over blocks of steps, where the number is of many steps."""
    found = of_curves(check, arms)
    several = " and ".join(f"{arm.experiment} {len(arm.runs)}" for arm in arms)
    seeds = "one seed" if all(len(arm.runs) == 1 for arm in arms) else f"too few seeds for an interval ({several})"
    if check.statistic not in _OF_STEPS or found.number is None:
        alone = f"{seeds}, and a single number has no interval over steps"
        return replace(found, basis=alone + _of_samples(check, arms))
    pieces = _pieces(check, arms)

    def statistic(kept: Sequence[pd.DataFrame]) -> float:
        number = _reduced(check, kept)[0]
        return np.nan if number is None else number

    falls = check.statistic == "drop_pct" and len(arms) == 1  # within the windows too, most of all in the first one
    interval = fall(_values(pieces[0]), _values(pieces[1])) if falls else None
    interval = interval or block_jackknife(pieces, statistic)
    if interval is None:
        steps = min(map(len, pieces))
        return replace(found, basis=f"{seeds}, and {steps} steps are too few for an interval over steps")
    steps = len(pieces[-1])
    way = f"scatter of {steps} steps around their trend" if falls else f"jackknife over blocks of {steps} steps"
    rest = " nor other draws of the probe" if check.metric.startswith("curvature/") and same_draws(arms) else ""
    basis = f"{seeds}: {way}, which covers what varies within the runs, not seeds{rest}"
    return Estimate(found.number, found.step, interval, basis)


def _of_samples(check: Check, arms: Sequence[Arm]) -> str:
    """What the noise of the samples says of two FIDs at one step. It decides nothing, as another seed's network moves
    them too."""
    if check.of != "difference" or check.statistic not in ("first", "last"):
        return ""
    curves = [windowed(check.window, metric_curve(arm, check.metric), arm) for arm in arms]
    steps = {int(values.index[-1 if check.statistic == "last" else 0]) for values in curves if len(values)}
    contrast = sample_contrast(arms[0], arms[1], check.metric, steps.pop()) if len(steps) == 1 else None
    return f"; {contrast.said}" if contrast else ""


def _values(piece: pd.DataFrame) -> Array:
    """The first column's."""
    return piece.iloc[:, 0].dropna().to_numpy(dtype=float)


# Of many steps alike, so that leaving some of them out says how well the number is known.
_OF_STEPS = ("mean", "std", "drop_pct", "correlation")


# ---- of curves -------------------------------------------------------------------------------------------


def of_curves(check: Check, arms: Sequence[Arm]) -> Estimate:
    """The check's number of the arms' mean curves, without an interval."""
    number, step = _reduced(check, _pieces(check, arms))
    return Estimate(number, step)


def _pieces(check: Check, arms: Sequence[Arm]) -> list[pd.DataFrame]:
    """The values a check's number is made of, a column for each arm, in the window; before them, where the statistic
    needs it, those in `since` or of the other metric."""
    spans = [check.window] if check.since is None else [check.since, check.window]
    curves = [[windowed(span, metric_curve(arm, check.metric), arm) for arm in arms] for span in spans]
    if check.against_metric:
        curves = [[windowed(check.window, metric_curve(arm, check.against_metric), arm) for arm in arms], *curves]
    together = check.of.startswith("step_") or check.statistic in _OF_STEPS
    pieces = [pd.concat(each, axis=1, join="inner" if together else "outer").sort_index() for each in curves]
    if check.against_metric:  # a block that is left out is left out of both
        steps = pieces[0].index.intersection(pieces[1].index)
        pieces = [piece.loc[steps] for piece in pieces]
    return pieces


def _reduced(check: Check, pieces: Sequence[pd.DataFrame]) -> tuple[float | None, int | None]:
    """(the check's number, the step it was taken at where it is that of one step)."""
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
    """The arm's curve of a metric, or of the quotient of two."""
    top, _, bottom = metric.partition(" / ")
    values = curve(arm, top)
    if values.empty and (ends := at_end(arm, top)):  # logged once, at the end (run_time_s)
        values = pd.Series([float(np.mean(ends))], index=[arm.last_step])
    return settled(values / curve(arm, bottom).reindex(values.index)) if bottom else values


def windowed(span: Span | None, values: pd.Series, arm: Arm) -> pd.Series:
    """The part of a curve in a window: steps, or fractions of the arm's length where it ends at 1 or below."""
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
    place = _OF_ONE_STEP[check.statistic](values.to_numpy(dtype=float), check)
    step = int(values.index[place])
    if check.statistic == "min_step":
        return float(step), None
    return (float(place + 1) if check.statistic == "min_place" else float(values.iloc[place])), step


def _farthest(values: Array, check: Check) -> int:
    middle = ((check.at_least or 0.0) + (check.at_most or 0.0)) / 2  # the check has both
    return int(np.abs(values - middle).argmax())


_OF_ONE_STEP: dict[str, Callable[[Array, Check], int]] = {
    "first": lambda _, __: 0,
    "last": lambda _, __: -1,
    "min": lambda x, _: int(x.argmin()),
    "min_step": lambda x, _: int(x.argmin()),
    "min_place": lambda x, _: int(x.argmin()),
    "max": lambda x, _: int(x.argmax()),
    "farthest": _farthest,
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
