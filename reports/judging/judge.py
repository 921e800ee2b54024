"""The judge: what an estimate decides about a claim. Criteria, statements and findings all go through it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from scipy import special

from reports.stats.intervals import LEVEL, Estimate, Interval, at_level, standard_error

HOLDS, FAILS, UNDECIDED, UNSAID = "holds", "does not hold", "undecided", "cannot be said"
ALPHA = 0.05
EQUIVALENCE = 0.90  # the level of the interval by which two one-sided tests at 5 % decide (Schuirmann 1987)
OF_THESE, GIVEN = " in these runs", ", given the draws"


class P(NamedTuple):
    """p-values of the two decisions about a claim: that it holds, and that it fails. 1 for the one that the number
    speaks against."""

    holds: float
    fails: float


@dataclass(frozen=True)
class Verdict:
    """`word` (`HOLDS`, `FAILS`, `UNDECIDED` or `UNSAID`) and its limits. of_these_runs: other seeds could change it.
    given_draws: other draws of the probe could. reason: why nothing is decided. p: None for a number without an
    interval or as logged; else one is at most 5 % exactly if the word is `HOLDS` or `FAILS`."""

    word: str
    of_these_runs: bool = False
    given_draws: bool = False
    reason: str = field(default="", compare=False)
    p: P | None = field(default=None, compare=False)

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
    """A claim, its checks' outcomes and the verdict on all of it in the words of the page.

    p: the p-value of its decision; None if no interval was asked. p_holm, adjusted: p-value and verdict after Holm's
    correction over the claims of the page that have one (`corrected`).
    """

    says: str
    note: str
    outcomes: tuple[Outcome, ...]
    verdict: str
    document: str = ""
    p: float | None = None
    p_holm: float | None = None
    adjusted: str = ""


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
    known = [each for each in (found.within, found.seeds) if each]
    votes = [_vote(found.number, each, low, high, level) for each in known]
    by_t = not any(math.isnan(each.df) for each in known)
    tests = [_p(found.number, each, low, high, 1 if equal_within else 2) for each in known if by_t]
    if not votes or votes[0] == UNDECIDED:
        reason = "the interval reaches over the bound" if votes else found.basis
        return Verdict(UNDECIDED, reason=reason, p=_largest(tests))
    alone = found.within is not None and votes != [votes[0], votes[0]]
    return Verdict(votes[0], alone, found.given_draws, p=_largest(tests[:1] if alone else tests))


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


def _p(number: float, interval: Interval, low: float, high: float, sides: int) -> P:
    """p-values by Student's t for the number's distance from the bounds. sides: 2 for the decision by the 95 %
    interval, 1 for that by two one-sided tests; what lies outside is decided by the 95 % interval."""
    inside = low <= number <= high
    distance = min(number - low, high - number) if inside else max(low - number, number - high)
    error = standard_error(number, interval)
    errors = distance / error if error else math.inf
    p = (sides if inside else 2) * float(special.stdtr(interval.df, -errors))
    return P(p, 1.0) if inside else P(1.0, p)


def _largest(tests: Sequence[P]) -> P | None:
    """All of the tests have to decide alike: the largest p-value of each decision."""
    return P(*map(max, zip(*tests, strict=True))) if tests else None


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on a claim with several checks. One that fails makes it fail, with the fewest limits of those that
    fail. It holds if all hold, with the most limits.

    Its p-value of holding is the largest of its checks' (an intersection-union test); that of failing is the smallest,
    times their number (Bonferroni).
    """
    return replace(_together(verdicts), p=_p_of_all(verdicts))


def _p_of_all(verdicts: Sequence[Verdict]) -> P | None:
    """Checks as logged that hold are no test; one that fails decides without one. What has no interval cannot hold."""
    tests = [verdict.p for verdict in verdicts if verdict.p]
    if not tests or any(verdict.word == FAILS and not verdict.p for verdict in verdicts):
        return None
    untested = any(verdict.word != HOLDS and not verdict.p for verdict in verdicts)
    holds = 1.0 if untested else max(p.holds for p in tests)
    return P(holds, min(1.0, len(tests) * min(p.fails for p in tests)))


def _together(verdicts: Sequence[Verdict]) -> Verdict:
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


# ---- several claims --------------------------------------------------------------------------------------


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values after Holm's correction (Holm 1979), in the same order: the chance that one true hypothesis or more of
    the family is rejected stays below the level, whatever the tests have in common."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def corrected(claims: Sequence[Judged], what: str) -> list[Judged]:
    """The claims with their verdicts after Holm's correction over those that have a p-value: the same verdict, or
    `undecided after Holm's correction over 3 criteria`, where `what` is `criteria`. Verdicts without one stay."""
    tested = [claim.p for claim in claims if claim.p is not None]
    after = iter(holm(tested))
    found = []
    for claim in claims:
        p = None if claim.p is None else next(after)
        open_ = claim.verdict.startswith((UNDECIDED, UNSAID))
        stays = p is None or p <= ALPHA or open_
        verdict = claim.verdict if stays else f"undecided after Holm's correction over {len(tested)} {what}"
        found.append(replace(claim, p_holm=p, adjusted=verdict))
    return found
