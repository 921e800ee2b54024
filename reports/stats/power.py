"""How many seeds a difference takes, by the exact power of Student's t (the noncentral t; Johnson & Welch 1940).

The spread over seeds is taken as known. From few seeds it is not: `Spread.interval` says how far it may be off, and the
numbers of seeds follow from its ends. Without pairs the judge's test is Welch's, which has slightly less power.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import optimize, special

from reports.experiments import Check
from reports.experiments.selection import Arm
from reports.stats.estimates import defined, of_each_seed, unpaired_values
from reports.stats.intervals import LEVEL
from reports.stats.statistics import shared_seeds

POWER = 0.8
MOST = 10_000  # seeds; a number above decides nothing about an experiment
TWO_SIDED, ONE_SIDED = 0.025, 0.05  # the error in a tail: of the 95 % interval, and of two one-sided tests


@dataclass(frozen=True)
class Spread:
    """The standard deviation over seeds, in the unit of the check. samples: 1 for one number per seed (of one arm, or a
    paired difference), 2 for arms that share no seeds: the standard deviation within an arm. df: its degrees of
    freedom. seeds: how many there are, per arm."""

    sd: float
    df: int
    seeds: int
    samples: int

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the standard deviation, by chi-square, for normal values."""
        tail = (1 - LEVEL) / 2
        low, high = (self.sd * math.sqrt(self.df / float(special.chdtri(self.df, p))) for p in (tail, 1 - tail))
        return low, high


def spread_of(check: Check, arms: Sequence[Arm], *, paired: bool) -> Spread | None:
    """The spread of the check's number over the seeds: over those that both arms have if `paired`, or if there is one
    arm; else within the arms. None for fewer than two seeds, or unpaired for a number that is made at each step."""
    if paired or len(arms) == 1:
        values = defined(of_each_seed(check, arms))
        return Spread(float(values.std(ddof=1)), len(values) - 1, len(values), 1) if len(values) > 1 else None
    found = unpaired_values(check, arms)
    if found is None or min(map(len, found)) < 2:
        return None
    df = sum(len(x) - 1 for x in found)
    variance = sum(float(x.var(ddof=1)) * (len(x) - 1) for x in found) / df
    return Spread(math.sqrt(variance), df, min(map(len, found)), 2)


def why_unknown(arms: Sequence[Arm], *, paired: bool) -> str:
    """Why `spread_of` finds none, in words."""
    if paired and len(arms) > 1 and min(len(arm.runs) for arm in arms) > 1:
        names, shared = " and ".join(arm.experiment for arm in arms), len(shared_seeds(*arms))
        return f"{names} share {shared} seed{'s' * (shared != 1)}"
    single = [arm.experiment for arm in arms if len(arm.runs) == 1]
    return f"{' and '.join(single)} {'have' if len(single) > 1 else 'has'} one seed" if single else "it has no spread"


def power(distances: Sequence[float], sd: float, seeds: int, samples: int, tail: float = TWO_SIDED) -> float:
    """The chance that the interval over `seeds` seeds (per arm) excludes every bound, which lie at these distances from
    the true number. For two bounds it is at least this (Bonferroni)."""
    df, error = samples * (seeds - 1), sd * math.sqrt(samples / seeds)
    if not error:
        return float(min(distances) > 0)
    critical = float(special.stdtrit(df, 1 - tail))
    return max(0.0, 1 - sum(_missed(df, distance / error, critical) for distance in distances))


def _missed(df: float, errors: float, critical: float) -> float:
    """The chance that t stays below `critical` if the true number is so many standard errors away. For very many scipy
    has no number: then it is 0."""
    found = float(special.nctdtr(df, errors, critical))
    return 0.0 if math.isnan(found) else found


def seeds_needed(
    target: float, distances: Sequence[float], sd: float, samples: int, tail: float = TWO_SIDED
) -> int | None:
    """The fewest seeds (per arm; at least 2) that have this power; None if it takes more than `MOST`."""

    def enough(seeds: int) -> bool:
        return power(distances, sd, seeds, samples, tail) >= target

    if not enough(MOST):
        return None
    few, many = 1, MOST  # `few` are not enough, `many` are
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle, many)
    return many


def detectable(target: float, sd: float, seeds: int, samples: int, tail: float = TWO_SIDED, bounds: int = 1) -> float:
    """The smallest distance from as many bounds, all equally far, that `seeds` seeds find with this power."""
    df = samples * (seeds - 1)
    critical = float(special.stdtrit(df, 1 - tail))
    missed = (1 - target) / bounds
    errors = optimize.brentq(lambda x: _missed(df, x, critical) - missed, 0, 40 * critical)
    return float(errors) * sd * math.sqrt(samples / seeds)


def seeds_range(
    target: float, distances: Sequence[float], spread: Spread, tail: float = TWO_SIDED
) -> tuple[int | None, int | None, int | None]:
    """`seeds_needed` by the spread, and by the low and the high end of its interval."""
    of_ends = (seeds_needed(target, distances, sd, spread.samples, tail) for sd in (spread.sd, *spread.interval))
    middle, low, high = of_ends
    return middle, low, high
