"""How well a number of the runs is known, and what that decides: the page's rules, in one place."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reports.experiments import Check
from reports.experiments.selection import Arm
from reports.stats.estimates import of_each_seed, within_runs
from reports.stats.intervals import student
from reports.stats.statistics import same_draws
from reports.text.verdicts import number as digits

Interval = tuple[float, float]
HOLDS, FAILS, UNDECIDED, UNSAID = "holds", "does not hold", "undecided", "cannot be said"
OF_THESE, GIVEN = " of these runs", ", given the draws"
# Of what was logged, as it stands: another look at the same runs would give the same number.
COUNTED = ("min", "max", "min_step", "rising_pct", "below_pct", "first", "last")


@dataclass(frozen=True)
class Known:
    """A number, the mean over seeds of `per_seed`. 95 % intervals: `within` of what varies within the runs (steps, or
    the noise of samples), `seeds` by Student's t over two seeds or more; None where there is none. `counted`: it is a
    count or an order of what was logged. `given`: all is said of one set of the probe's draws, whose error is in no
    interval. `paired`: the interval within runs is of samples in pairs of one noise. `reason`: why it decides
    nothing."""

    number: float | None = None
    per_seed: tuple[float, ...] = ()
    within: Interval | None = None
    seeds: Interval | None = None
    counted: bool = False
    given: bool = False
    paired: bool = False
    reason: str = ""


def of_check(check: Check, arms: Sequence[Arm], *, single: bool = False) -> Known:
    """A check's number of the runs of one arm, or of one against another (`single`: without intervals)."""
    per_seed = tuple(float(value) for value in of_each_seed(check, arms) if value is not None)
    given = "_trace_" in check.metric and same_draws(arms)
    if single or check.statistic in COUNTED:
        return Known(_mean(per_seed), per_seed, counted=not single, given=given)
    within = within_runs(check, arms)
    ends = (-1.0, 1.0) if check.statistic == "correlation" else (-math.inf, math.inf)
    if check.statistic == "std" and check.of == "change_pct":
        ends = -100.0, math.inf  # it falls by all of it at most
    within_ends, seeds_ends = (_cut(each, *ends) for each in (within.interval, over_seeds(per_seed)))
    return Known(within.number, per_seed, within_ends, seeds_ends, given=given)


def _cut(interval: Interval | None, low: float, high: float) -> Interval | None:
    """The part of an interval in which the number can lie."""
    return interval and (max(low, min(high, interval[0])), max(low, min(high, interval[1])))


def over_seeds(values: Sequence[float]) -> Interval | None:
    """Student's interval of the mean of two values or more."""
    return student(np.array(values)) if len(values) > 1 else None


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


# ---- what it decides -------------------------------------------------------------------------------------


def decide(known: Known, low: float, high: float) -> str:
    """Whether the number lies within `low` ... `high`: where its intervals lie wholly inside, or wholly outside; where
    that is so of the one within the runs alone, it is said of these runs. The one over seeds alone decides nothing
    that the other leaves open: seeds have the noise of samples, and the probe's draws, in common. A count decides of
    these runs where all seeds agree."""
    if known.number is None or known.reason:
        return UNSAID
    if known.counted:
        inside = {low <= value <= high for value in known.per_seed}
        said = UNDECIDED if len(inside) > 1 else (HOLDS if inside.pop() else FAILS) + OF_THESE
    else:
        votes = [_by_interval(interval, low, high) for interval in (known.within, known.seeds) if interval]
        said = votes[0] if votes else UNDECIDED
        if said != UNDECIDED and votes != [said, said] and known.within:
            said += OF_THESE
    return said if said == UNDECIDED or not known.given else said + GIVEN


def _by_interval(interval: Interval, low: float, high: float) -> str:
    if low <= interval[0] and interval[1] <= high:
        return HOLDS
    return FAILS if interval[1] < low or interval[0] > high else UNDECIDED


def bare(verdict: str) -> str:
    """A verdict without what limits it."""
    return verdict.removesuffix(GIVEN).removesuffix(OF_THESE)


def together(verdicts: Sequence[str]) -> str:
    """The verdict of a claim with several checks: it fails with any, and holds where all do."""
    for word in (FAILS, UNSAID, UNDECIDED):
        found = [verdict for verdict in verdicts if verdict.startswith(word)]
        if found:
            return min(found, key=len)
    return max(verdicts, key=len, default=UNSAID)


def side(known: Known) -> tuple[int, str]:
    """1 or -1 where the number lies on that side of 0, else 0; and what limits that (`of these runs`); see `decide`."""
    for sign, low, high in ((1, 0.0, math.inf), (-1, -math.inf, 0.0)):
        said = decide(known, low, high)
        if said.startswith(HOLDS):
            return sign, said.removeprefix(HOLDS)
    return 0, ""


# ---- as text ---------------------------------------------------------------------------------------------


def interval_text(interval: Interval | None, places: int | None = None) -> str:
    """`a to b`, with so many decimals or else three digits; a dash for none."""
    if interval is None:
        return "–"
    return " to ".join(digits(end, 3) if places is None else f"{end:.{places}f}" for end in interval)


def spread(known: Known, places: int | None = None) -> str:
    """Both intervals in words, or why there is none."""
    if known.counted:
        return "as logged"
    parts = []
    if known.within:
        parts.append(f"{interval_text(known.within, places)} within runs{', paired' * known.paired}")
    if known.seeds:
        parts.append(f"{interval_text(known.seeds, places)} over {len(known.per_seed)} seeds")
    return "; ".join(parts) or "no interval"
