"""Scores that were measured later, against a run's own: another protocol, and other noise of the samples."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reports.experiments import Check
from reports.experiments.selection import Arm
from reports.runs import Later, Run
from reports.stats.rescored import protocol_change, seed_over_noise

OWN = {"sampler": "ddpm", "nfe": 50}
METRIC = "val/fid"


def a_run(arm: str, seed: int, fid: float, later: tuple[Later, ...] = (), error: float = 1.0) -> Run:
    rows = {METRIC: [fid + 5, fid], f"{METRIC}_sem": [error, error]}
    history = pd.DataFrame(rows, index=pd.Index([50, 100], name="step"))
    config = {"experiment": arm, "seed": seed}
    about = {"protocols": {"own": OWN}, "fingerprints": {METRIC: "own"}, "later": later}
    return Run(f"{arm}-{seed}", arm, seed, config, history, Path(), **about)


def a_score(value: float, noise: int = 0, step: int = 100, reach: float = 1.0, **protocol: object) -> Later:
    return Later(step, "evaluate/fid", "", value, value - reach, value + reach, OWN | protocol, noise)


def test_another_protocol_is_compared_on_the_same_checkpoint() -> None:
    """The change by hand, with both errors. Catches a score of another step, another noise, or a protocol that differs
    in more than was asked for, and an error that is taken per seed instead of over seeds."""
    others = a_score(1.0, t_start=7, nfe=20), a_score(2.0, step=50, t_start=7), a_score(3.0, noise=1, t_start=7)
    runs = (
        a_run("e5", 1, 40.0, (*others, a_score(30.0, t_start=7))),
        a_run("e5", 2, 50.0, (a_score(45.0, reach=2.0, t_start=7), a_score(1.0))),
        a_run("e5", 3, 60.0, others),
    )
    check = Check(metric=METRIC, arm="e5", of="protocol_change_pct", protocol={"t_start": 7}, at_most=0)
    found = protocol_change(check, Arm("e5", "baseline", runs))
    assert found.per_seed == pytest.approx((-25.0, -10.0))
    z = stats.norm.ppf(0.975)
    first = np.hypot(100 * 1 / 40, 100 * z * 30 / 40**2)
    second = np.hypot(100 * 2 / 50, 100 * z * 45 / 50**2)
    reach = np.hypot(first, second) / 2
    assert found.number == pytest.approx(-17.5)
    assert found.within == pytest.approx((-17.5 - reach, -17.5 + reach))
    t = stats.t.ppf(0.975, 1) * 7.5
    assert found.seeds == pytest.approx((-17.5 - t, -17.5 + t))
    nothing = protocol_change(check, Arm("e5", "baseline", runs[2:]))
    assert nothing.number is None and "t_start = 7" in nothing.basis


def studies(shared: bool, ratio: float, repeats: int) -> tuple[float, list[float]]:
    """(the share of intervals that cover the true ratio; the estimates) over studies of 2 arms with 4 seeds and 3 other
    noises each. shared: the runs' other noises are the same three, which add the same to all."""
    rng = np.random.default_rng(0)
    covered, numbers = 0, []
    for _ in range(repeats):
        common = rng.normal(size=4)
        arms = []
        for arm in ("e5", "e6"):
            runs = []
            for seed in range(4):
                level = 40 + np.sqrt(ratio**2 - 1) * rng.normal()
                noises = [1, 2, 3] if shared else list(range(9 * seed + 40 * (arm == "e6") + 1, 1000))[:3]
                added = common if shared else rng.normal(size=4)
                later = tuple(a_score(level + added[k + 1], noise) for k, noise in enumerate(noises))
                own = level + (rng.normal() if shared else added[0])
                runs.append(a_run(arm, seed, own, later))
            arms.append(Arm(arm, "variant", tuple(runs)))
        found = seed_over_noise(METRIC, arms)
        assert found.seeds and found.number
        covered += found.seeds[0] <= ratio <= found.seeds[1]
        numbers.append(found.number)
    return covered / repeats, numbers


@pytest.mark.parametrize("shared", [False, True])
def test_the_ratio_of_spreads_covers(shared: bool) -> None:
    """Over 400 studies with normal scores the 95 % interval of sd(seeds) / sd(noise) covers the true ratio 95 times in
    100, within three binomial errors; also if all runs share their other noises, which then move together. Catches
    noises that count once for each run, and a spread between arms that counts as one of seeds."""
    share, numbers = studies(shared, 2.0, 400)
    assert share > 0.95 - 3 * np.sqrt(0.95 * 0.05 / 400)
    if not shared:
        assert np.median(numbers) == pytest.approx(2.0, rel=0.1)


def test_the_ratio_needs_seeds_and_noises() -> None:
    """One seed an arm, or one other noise, is not enough; scores from the run's own noise, or by another protocol, do
    not count. Catches an estimate from too little."""
    again = a_score(41.0, noise=1), a_score(43.0, noise=2)
    one_seed = [Arm("e5", "baseline", (a_run("e5", 1, 40.0, again),)), Arm("e6", "variant", (a_run("e6", 1, 30.0),))]
    assert seed_over_noise(METRIC, one_seed).number is None
    own = a_score(41.0), a_score(43.0, noise=1), a_score(1.0, noise=2, nfe=20), a_score(1.0, noise=2, step=50)
    seeds = Arm("e5", "baseline", (a_run("e5", 1, 40.0, own), a_run("e5", 2, 44.0)))
    assert seed_over_noise(METRIC, [seeds]).number is None
    enough = Arm("e5", "baseline", (a_run("e5", 1, 40.0, again), a_run("e5", 2, 44.0)))
    assert seed_over_noise(METRIC, [enough]).number == pytest.approx(2.0)  # sqrt(8) over sqrt(2)
