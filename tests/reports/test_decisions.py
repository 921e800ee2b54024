"""Decisions: their p-values, Holm's correction, and how often they are wrong in simulated studies.

The simulations use the product's own judge, correction and planner. Their tolerance is three standard errors of a share
of so many studies.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pytest
from scipy import stats

from reports.judging.judge import FAILS, HOLDS, Judged, P, Verdict, corrected, holm, judge, side, together
from reports.stats.intervals import Estimate, Interval, around, at_level, student, welch
from reports.stats.power import ONE_SIDED, Spread, detectable, power, seeds_needed

STUDIES, FEWER = 4000, 2000
SEEDS = (2, 4, 8)


def error_of(share: float, studies: int = STUDIES) -> float:
    """Three standard errors of a share."""
    return 3 * math.sqrt(share * (1 - share) / studies)


def paired(values: np.ndarray) -> Estimate:
    """The mean of the seeds' differences."""
    return Estimate(float(values.mean()), tuple(values), seeds=student(values))


def unpaired(baseline: np.ndarray, variant: np.ndarray) -> Estimate:
    """The difference of two arms that share no seeds."""
    return Estimate(float(variant.mean() - baseline.mean()), seeds=welch(baseline, variant))


@lru_cache
def studies(seeds: int, samples: int, effect: float = 0.0, count: int = STUDIES) -> list[Estimate]:
    """Estimates of an effect with standard deviation 1: of paired differences, or within each of two arms."""
    values = np.random.default_rng(10 * seeds + samples).normal(size=(count, samples, seeds))
    values[:, -1] += effect
    return [paired(each[0]) if samples == 1 else unpaired(each[0], each[1]) for each in values]


# ---- p-values --------------------------------------------------------------------------------------------


def test_p_values_are_those_of_the_t_tests() -> None:
    """Against scipy's tests. Catches a one-sided p-value, a distance from another bound, lost degrees of freedom."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 1, 4), rng.normal(3, 2, 6)
    one, two = paired(a), unpaired(a, b)
    for bound in (0.3, 2.0):
        wanted = stats.ttest_1samp(a, bound).pvalue
        assert min(judge(one, bound, None).p or ()) == pytest.approx(wanted)
        assert min(judge(one, None, bound).p or ()) == pytest.approx(wanted)
    assert min(judge(two, None, 0.0).p or ()) == pytest.approx(stats.ttest_ind(b, a, equal_var=False).pvalue)
    wanted = max(
        stats.ttest_1samp(a, -4, alternative="greater").pvalue, stats.ttest_1samp(a, 4, alternative="less").pvalue
    )
    assert judge(one, None, None, 4.0).p == pytest.approx(P(wanted, 1.0))
    assert judge(one, -4.0, 4.0).p == pytest.approx(P(2 * wanted, 1.0))  # two bounds: the nearer one counts
    normal = Estimate(1.0, within=around(1.0, 1.959964 * 0.5))
    assert judge(normal, 0.0, None).p == pytest.approx(P(2 * stats.norm.sf(2), 1.0), rel=1e-5)


@pytest.mark.parametrize("bounds", [(0.0, None), (None, 0.0), (-2.0, 1.0), (None, None, 1.5)])
def test_p_is_at_most_five_percent_exactly_if_a_check_is_decided(bounds: Sequence[float | None]) -> None:
    """400 studies with effects around the bounds, with one interval and with two. Catches a p-value of another test
    than the interval that decides, and one of the interval over seeds for a verdict on these runs alone."""
    rng = np.random.default_rng(1)
    words = set()
    for _ in range(400):
        found = paired(rng.normal(rng.uniform(-4, 4), rng.uniform(0.1, 2), int(rng.integers(2, 6))))
        assert found.number is not None
        within = around(found.number, rng.uniform(0.1, 3)) if rng.random() < 0.5 else None
        verdict = judge(Estimate(found.number, found.per_seed, within, found.seeds), *bounds)
        assert verdict.p
        words.add(verdict.word)
        assert (verdict.word == HOLDS) == (verdict.p.holds <= 0.05) and (verdict.word == FAILS) == (
            verdict.p.fails <= 0.05
        )
    assert len(words) == 3


def test_seeds_that_are_all_equal_decide() -> None:
    """Catches a division by 0 of an interval without width, on the bound and beside it."""
    still = Estimate(1.0, (1.0, 1.0), seeds=Interval(1.0, 1.0, 1))
    assert judge(still, 1.0, None).p == P(0.0, 1.0) and judge(still, None, 0.5).p == P(1.0, 0.0)


def verdict_of(word: str, p: P | None) -> Verdict:
    return Verdict(word, p=p)


def test_the_p_value_of_a_claim_with_several_checks() -> None:
    """It holds by the largest p-value, and fails by the smallest times their number. Checks as logged are no tests.
    Catches the smallest p-value of a claim that needs all of its checks, and a failure without the price of choosing
    among three checks."""
    holds = [verdict_of(HOLDS, P(p, 1.0)) for p in (0.001, 0.04, 0.02)]
    assert together(holds).p == P(0.04, 1.0)
    assert together([*holds[:2], verdict_of(FAILS, P(1.0, 0.01))]).p == P(1.0, pytest.approx(0.03))
    assert together([verdict_of(FAILS, P(1.0, 0.4))] * 3).p == P(1.0, 1.0)
    assert together([*holds, Verdict(HOLDS)]).p == P(0.04, 1.0)
    assert together([*holds, Verdict(FAILS)]).p is None and together([Verdict(HOLDS)]).p is None
    assert together([*holds, Verdict("undecided")]).p == P(1.0, 1.0)


# ---- Holm ------------------------------------------------------------------------------------------------


def test_holm_by_hand() -> None:
    """Sorted: 4 x 0.005, 3 x 0.01, 2 x 0.03 and 1 x 0.04, which may not be below the one before. Catches Bonferroni,
    a wrong order, and a value that falls below its predecessor."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([0.2]) == [0.2] and holm([]) == []


def test_the_corrected_verdict_stands_beside_the_plain_one() -> None:
    """0.01 becomes 0.03; 0.03 becomes 0.06; undecided stays undecided; a verdict as logged is no part of the family.
    Catches a family of four, and a verdict that comes from nowhere."""
    claims = [Judged("", "", (), word, p=p) for word, p in (("pass", 0.01), ("fail", 0.03), ("undecided", 0.2))]
    found = corrected([*claims, Judged("", "", (), "pass")], "criteria")
    assert [claim.adjusted for claim in found] == [
        *("pass", "undecided after Holm's correction over 3 criteria", "undecided", "pass"),
    ]
    assert [claim.p_holm for claim in found] == [pytest.approx(0.03), pytest.approx(0.06), pytest.approx(0.2), None]
    assert [claim.verdict for claim in found] == ["pass", "fail", "undecided", "pass"]


# ---- simulated studies -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", SEEDS)
def test_coverage_of_the_equivalence_interval(seeds: int) -> None:
    """The 90 % interval holds the truth in 90 % of studies. Catches the normal quantile, and 95 %."""
    held = [at_level(0.9, found.number or 0.0, found.seeds) for found in studies(seeds, 1) if found.seeds]
    share = np.mean([low <= 0 <= high for low, high in held])
    assert share == pytest.approx(0.9, abs=error_of(0.9)) and len(held) == STUDIES


@pytest.mark.parametrize("seeds", SEEDS)
def test_coverage_of_the_interval_of_a_spread(seeds: int) -> None:
    """The chi-square interval holds the true standard deviation in 95 % of studies. Catches swapped quantiles, and a
    variance in place of its root."""
    values = np.random.default_rng(seeds).normal(0, 3, size=(STUDIES, seeds))
    ends = [Spread(float(sd), seeds - 1, seeds, 1).interval for sd in values.std(axis=1, ddof=1)]
    assert np.mean([low <= 3 <= high for low, high in ends]) == pytest.approx(0.95, abs=error_of(0.95))


@pytest.mark.parametrize("samples", [1, 2])
def test_no_difference_is_rarely_called_one(samples: int) -> None:
    """12,000 studies without a difference, of 2, 4 and 8 seeds: at most 5 % are decided; of pairs 5 %, as the t test is
    exact. Catches an interval that is too narrow for few seeds, and a judge that never decides."""
    for seeds in SEEDS:
        wrong = np.mean([side(found)[0] != 0 for found in studies(seeds, samples)])
        assert wrong <= 0.05 + error_of(0.05)
        assert samples == 2 or wrong >= 0.05 - error_of(0.05)


def test_a_family_of_criteria_is_rarely_wrong_after_holm() -> None:
    """1,500 reports with eight criteria and no difference in any. Plain verdicts decide one or more in a third of them,
    corrected ones in at most 5 %. Catches a correction that is not applied, or over too few."""
    drawn = studies(4, 1, count=12_000)
    families = [drawn[place : place + 8] for place in range(0, 12_000, 8)]
    wrong = {"plain": 0, "corrected": 0}
    for family in families:
        verdicts = [judge(found, None, 0.0) for found in family]
        claims = [Judged("", "", (), verdict.word, p=min(verdict.p or ())) for verdict in verdicts]
        wrong["plain"] += any(claim.verdict != "undecided" for claim in claims)
        wrong["corrected"] += any(not claim.adjusted.startswith("undecided") for claim in corrected(claims, "criteria"))
    assert wrong["plain"] / 1500 == pytest.approx(1 - 0.95**8, abs=error_of(0.34, 1500))
    assert wrong["corrected"] / 1500 <= 0.05 + error_of(0.05, 1500)


@pytest.mark.parametrize("seeds", SEEDS)
def test_a_difference_of_the_margin_is_rarely_called_equal(seeds: int) -> None:
    """At a true difference of exactly the margin, 5 % of studies find equality if the margin is wide, and fewer if it
    is narrow. Catches two tests at 10 %, and a margin on one side alone."""
    for margin in (100.0, 1.0):
        wrong = np.mean(
            [judge(f, None, None, margin).word == HOLDS for f in studies(seeds, 1, effect=margin, count=FEWER)]
        )
        assert wrong <= 0.05 + error_of(0.05, FEWER)
        assert margin == 1.0 or wrong >= 0.05 - error_of(0.05, FEWER)


@pytest.mark.parametrize("samples", [1, 2])
def test_the_planned_seeds_find_the_effect(samples: int) -> None:
    """At an effect of 2 standard deviations the planned seeds find it in 80 % of studies or more, and one seed fewer in
    less. For pairs the share is the stated power. Catches a plan for the normal distribution, one that takes the two
    arms' seeds together, and one that is too careful."""
    seeds = seeds_needed(0.8, [2.0], 1.0, samples)
    assert seeds
    found = np.mean([side(each)[0] == 1 for each in studies(seeds, samples, effect=2.0, count=FEWER)])
    fewer = np.mean([side(each)[0] == 1 for each in studies(seeds - 1, samples, effect=2.0, count=FEWER)])
    assert found >= 0.8 - error_of(0.8, FEWER) and fewer < 0.8 + error_of(0.8, FEWER)
    stated = power([2.0], 1.0, seeds, samples)
    assert stated >= 0.8 > power([2.0], 1.0, seeds - 1, samples)
    assert samples == 2 or found == pytest.approx(stated, abs=error_of(0.8, FEWER))


def test_the_planned_seeds_show_equality() -> None:
    """Without a difference, equality within 2 standard deviations is found in 80 % of studies or more. Catches a plan
    for one of the two tests, and one at 2.5 %."""
    seeds = seeds_needed(0.8, [2.0, 2.0], 1.0, 1, ONE_SIDED)
    assert seeds
    found = np.mean([judge(each, None, None, 2.0).word == HOLDS for each in studies(seeds, 1)])
    assert found >= 0.8 - error_of(0.8)
    assert seeds < (seeds_needed(0.8, [2.0, 2.0], 1.0, 1) or 0)


# ---- the planner -----------------------------------------------------------------------------------------


def test_seeds_of_the_textbook() -> None:
    """Cohen (1988): for 80 % power at 5 %, two-sided, two groups need 393 to 394, 64 and 26 each for d = 0.2, 0.5 and
    0.8; pairs need 199, 34 and 15. Catches one-sided tests, and seeds in all in place of each arm."""
    assert [seeds_needed(0.8, [d], 1.0, 2) for d in (0.2, 0.5, 0.8)] == [394, 64, 26]
    assert [seeds_needed(0.8, [2 * d], 2.0, 1) for d in (0.2, 0.5, 0.8)] == [199, 34, 15]


def test_what_seeds_can_see_is_what_they_are_needed_for() -> None:
    """Catches a smallest difference of another power, spread or design than the number of seeds."""
    for samples in (1, 2):
        for seeds in (2, 3, 7, 50):
            seen = detectable(0.9, 2.5, seeds, samples)
            assert power([seen], 2.5, seeds, samples) == pytest.approx(0.9, abs=1e-6)
            assert seeds_needed(0.9, [1.001 * seen], 2.5, samples) == seeds
    margin = detectable(0.8, 1.0, 5, 1, ONE_SIDED, bounds=2)
    assert power([margin, margin], 1.0, 5, 1, ONE_SIDED) == pytest.approx(0.8, abs=1e-6)


def test_extreme_plans() -> None:
    """Catches an error for seeds that do not differ, for a huge effect, or for one that no number of seeds finds."""
    assert seeds_needed(0.8, [1.0], 0.0, 1) == 2 and seeds_needed(0.8, [1.0], 1e-9, 2) == 2
    assert seeds_needed(0.8, [1e-9], 1.0, 1) is None and seeds_needed(0.8, [0.0], 1.0, 2) is None
    assert 0 < detectable(0.999, 1.0, 2, 1) < math.inf and detectable(0.1, 1.0, 2, 1) > 0
