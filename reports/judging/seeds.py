"""What it would take to decide what the runs leave open."""

import math
from collections.abc import Sequence
from dataclasses import replace

from reports.experiments import OF_ALL, Check
from reports.experiments.selection import Arm, Selection
from reports.judging.checks import arms_of, find_arms
from reports.judging.judge import UNDECIDED, Judged, Outcome, ends, judge
from reports.stats.intervals import Estimate
from reports.stats.power import MOST, ONE_SIDED, POWER, TWO_SIDED, seeds_range, spread_of, why_unknown


def what_would_decide(judged: Sequence[Judged], selection: Selection, *, known: bool = False) -> list[str]:
    """A line for each check that its interval, or the lack of one, leaves undecided: how many more seeds would decide a
    number of the size seen, or why that is not known. known: only the checks with an interval over seeds."""
    lines = []
    for claim in judged:
        for outcome in claim.outcomes:
            if outcome.verdict.word == UNDECIDED and (outcome.estimate.seeds or not known):
                which = f" ({outcome.what})" if len(claim.outcomes) > 1 else ""
                lines.append(f"{claim.says}{which}: {_of_check(outcome, selection)}.")
    return lines


def _of_check(outcome: Outcome, selection: Selection) -> str:
    check, found = outcome.check, outcome.estimate
    arms, _ = find_arms(arms_of(check, selection.study), selection)
    bounds = (check.at_least, check.at_most, check.equal_within)
    if check.statistic in OF_ALL:
        return "seeds of every arm and noises of every checkpoint would narrow the interval"
    if found.seeds is None:
        alone = all(len(arm.runs) == 1 for arm in arms)
        reason = "one seed" if alone else why_unknown(arms, paired=True)
        return f"the spread over seeds is not known ({reason})"
    if found.within and judge(replace(found, seeds=None), *bounds).word == UNDECIDED:
        return "more seeds alone would not decide it, as the interval within the runs reaches over the bound too"
    needed = more_seeds(check, arms, *_distances(found, check))
    what = "a number" if len(arms) == 1 else "a difference"
    return f"{needed} would decide {what} of this size in {100 * POWER:.0f} % of studies"


def _distances(found: Estimate, check: Check) -> tuple[list[float], float]:
    """The number's distances from the bounds that its interval would have to exclude, and the error of each test."""
    assert found.number is not None
    low, high = ends(check.at_least, check.at_most, check.equal_within)
    if not low <= found.number <= high:
        return [max(low - found.number, found.number - high)], TWO_SIDED
    finite = [each for each in (found.number - low, high - found.number) if math.isfinite(each)]
    return finite, ONE_SIDED if check.equal_within else TWO_SIDED


def more_seeds(check: Check, arms: Sequence[Arm], distances: Sequence[float], tail: float = TWO_SIDED) -> str:
    """`about 4 more seeds (2 to 30)`: so many, on top of those there are, exclude bounds at these distances from the
    true number in 80 % of studies. In brackets: by the ends of the interval of the spread. Empty if that is unknown."""
    spread = spread_of(check, arms, paired=True) or spread_of(check, arms, paired=False)
    if spread is None:
        return ""
    middle, low, high = seeds_range(POWER, distances, spread, tail)
    each = " in each arm" * (spread.samples == 2)
    if middle is None:
        return f"over {MOST:,} more seeds{each}"
    reach = " to ".join(f"over {MOST:,}" if end is None else f"{max(0, end - spread.seeds):,}" for end in (low, high))
    more = max(0, middle - spread.seeds)
    return f"about {more:,} more seed{'s' * (more != 1)}{each} ({reach})"
