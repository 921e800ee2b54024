"""The judge: what an estimate decides about a claim. Criteria, statements and findings all go through it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from reports.stats.intervals import LEVEL, Estimate, Interval, at_level

HOLDS, FAILS, UNDECIDED, UNSAID = "holds", "does not hold", "undecided", "cannot be said"
EQUIVALENCE = 0.90  # the level of the interval by which two one-sided tests at 5 % decide (Schuirmann 1987)
OF_THESE, GIVEN = " in these runs", ", given the draws"


@dataclass(frozen=True)
class Verdict:
    """`word` (`HOLDS`, `FAILS`, `UNDECIDED` or `UNSAID`) and its limits. of_these_runs: other seeds could change it.
    given_draws: other draws of the probe could. reason: why nothing is decided."""

    word: str
    of_these_runs: bool = False
    given_draws: bool = False
    reason: str = field(default="", compare=False)

    @property
    def limits(self) -> str:
        """The limits in words, to stand after the verdict."""
        return OF_THESE * self.of_these_runs + GIVEN * self.given_draws

    def __str__(self) -> str:
        return self.word + self.limits


@dataclass(frozen=True)
class Outcome:
    """A check (`Check`, or one of a study's own kinds) in words, its estimate and the verdict. study: the same number
    from the original study's logs, where it is shown beside."""

    check: Any
    what: str
    wanted: str
    unit: str
    estimate: Estimate
    verdict: Verdict
    study: Estimate | None = None


@dataclass(frozen=True)
class Judged:
    """A claim, its checks' outcomes and the verdict on all of it in the words of the page."""

    says: str
    note: str
    outcomes: tuple[Outcome, ...]
    verdict: str
    document: str = ""


def judge(found: Estimate, at_least: float | None, at_most: float | None, equal_within: float | None = None) -> Verdict:
    """Whether the number lies within the bounds, both included; None for an open end.

    equal_within: a margin m in place of bounds, for the claim that there is no difference: -m <= number <= m. It holds
    by two one-sided tests at 5 % each, so the 90 % interval has to lie inside; it fails as other claims do.

    Cannot be said: there is no number, or a reason not to use it. A number as logged decides about these runs if all
    seeds agree. Otherwise an interval decides if it lies wholly inside or wholly outside; no interval, or one that
    reaches over a bound, leaves it undecided. The interval within the runs goes first: seeds share the noise of the
    samples and the probe's draws, so the interval over seeds cannot decide what the other leaves open. Without a second
    interval that agrees, the interval within the runs decides about these runs only.
    """
    low, high = ends(at_least, at_most, equal_within)
    level = EQUIVALENCE if equal_within else LEVEL
    if found.number is None or found.reason:
        return Verdict(UNSAID, reason=found.reason or found.basis)
    if found.as_logged:
        inside = {low <= value <= high for value in found.per_seed}
        if len(inside) > 1:
            return Verdict(UNDECIDED, reason="the seeds disagree")
        return Verdict(HOLDS if inside.pop() else FAILS, True, found.given_draws)
    votes = [_vote(found.number, each, low, high, level) for each in (found.within, found.seeds) if each]
    if not votes or votes[0] == UNDECIDED:
        return Verdict(UNDECIDED, reason="the interval reaches over the bound" if votes else found.basis)
    alone = found.within is not None and votes != [votes[0], votes[0]]
    return Verdict(votes[0], alone, found.given_draws)


def ends(at_least: float | None, at_most: float | None, equal_within: float | None = None) -> tuple[float, float]:
    """The bounds as numbers, infinite if open; -+ the margin if there is one."""
    if equal_within is not None:
        return -equal_within, equal_within
    return -math.inf if at_least is None else at_least, math.inf if at_most is None else at_most


def _vote(number: float, interval: Interval, low: float, high: float, level: float) -> str:
    """level: that of the interval that has to lie inside. Outside it is the whole 95 % interval."""
    inner = interval if level == LEVEL else at_level(level, number, interval)
    if low <= inner[0] and inner[1] <= high:
        return HOLDS
    return FAILS if interval[1] < low or interval[0] > high else UNDECIDED


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on a claim with several checks. One that fails makes it fail, with the fewest limits of those that
    fail. It holds if all hold, with the most limits."""
    for word, choose in ((FAILS, min), (UNSAID, min), (UNDECIDED, min), (HOLDS, max)):
        found = [verdict for verdict in verdicts if verdict.word == word]
        if found:
            return choose(found, key=lambda verdict: (verdict.given_draws, verdict.of_these_runs))
    return Verdict(UNSAID)


def side(found: Estimate) -> tuple[int, str]:
    """(1 or -1 if the number is decided to lie above or below 0, else 0; the limits of that in words)."""
    for sign, at_least, at_most in ((1, None, 0.0), (-1, 0.0, None)):
        verdict = judge(found, at_least, at_most)
        if verdict.word == FAILS:
            return sign, verdict.limits
    return 0, ""
