"""Which seed moves a number, on panels whose numbers are known."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reports.runs import Run
from reports.stats.parts import PARTS, moved_by

METRIC = "val/fid"


def panel(effects: dict[str, float], noise: float = 0.0, rng: np.random.Generator | None = None) -> list[Run]:
    """Eight runs: 10, plus or minus half of each seed's effect, plus noise."""
    runs = []
    for chosen in itertools.product((1, 2), repeat=3):
        seeds = dict(zip(PARTS, chosen, strict=True))
        value = 10 + sum((seeds[part] - 1.5) * effect for part, effect in effects.items())
        value += noise * float(rng.normal()) if rng else 0.0
        config = {"seed": 7, "seeds": {part.partition(".")[2]: seed for part, seed in seeds.items()}}
        history = pd.DataFrame({METRIC: [99.0, value]}, index=pd.Index([1, 2], name="step"))
        runs.append(Run("-".join(map(str, chosen)), "e5", 7, config, history, Path()))
    return runs


def test_each_seed_has_its_own_spread() -> None:
    """Two values that differ by d have the standard deviation d / sqrt(2). Catches pairs that differ in two seeds, and
    an effect that counts for another seed."""
    found = moved_by(panel({"seeds.init": 3.0, "seeds.noise": 1.0}), METRIC)
    assert [each.number for each in found.values()] == pytest.approx([3 / np.sqrt(2), 0.0, 1 / np.sqrt(2)])
    in_percent = moved_by(panel({"seeds.init": 3.0}), METRIC, percent=True)
    assert in_percent["seeds.init"].number == pytest.approx(30 / np.sqrt(2))


def test_the_interval_covers() -> None:
    """Over 1,000 panels of pure noise, the interval covers its standard deviation 95 times in 100, within three
    binomial errors. Catches wrong degrees of freedom."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(1000):
        ends = moved_by(panel({}, 2.0, rng), METRIC)["seeds.data"].seeds
        assert ends
        hits += ends[0] <= 2.0 <= ends[1]
    assert abs(hits / 1000 - 0.95) < 3 * np.sqrt(0.95 * 0.05 / 1000)


def test_it_needs_pairs() -> None:
    """Catches a spread from one pair, or from runs without a partner."""
    runs = panel({"seeds.init": 3.0})
    alone = [run for run in runs if run.id in ("1-1-1", "2-1-1", "1-2-2")]
    assert all(each.number is None and "two pairs" in each.reason for each in moved_by(alone, METRIC).values())
