"""Which of a training's seeds moves a number: the first weights', the data order's or the noise's."""

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from reports.runs import Run, flat_config
from reports.stats.intervals import Estimate, around_deviation

PARTS = {"seeds.init": "first weights", "seeds.data": "order of the images", "seeds.noise": "t, eps and dropout"}


def moved_by(runs: Sequence[Run], metric: str, *, percent: bool = False) -> dict[str, Estimate]:
    """For each of `PARTS`: the standard deviation of the runs' last value if that seed alone changes, with its interval
    (chi-square), from the pairs of runs that differ in it alone. percent: of the mean over all runs.

    A design with two values of each seed has four pairs a seed, of which no two share a run: four degrees of freedom.
    """
    values = {run: float(series.iloc[-1]) for run in runs if len(series := run.series(metric))}
    scale = 100 / abs(float(np.mean(list(values.values())))) if percent and values else 1.0
    return {part: _spread([scale * d for d in _differences(values, part)]) for part in PARTS}


def _differences(values: dict[Run, float], part: str) -> list[float]:
    groups: dict[tuple[object, ...], list[float]] = defaultdict(list)
    for run, value in values.items():
        config = flat_config(run)
        groups[tuple(config.get(key) for key in ("seed", *PARTS) if key != part)].append(value)
    return [group[0] - group[1] for group in groups.values() if len(group) == 2]


def _spread(differences: Sequence[float]) -> Estimate:
    """sqrt(mean(d^2) / 2) of differences d of two values with one standard deviation."""
    n = len(differences)
    if n < 2:
        return Estimate(reason="needs two pairs of runs that differ in this seed alone")
    sd = math.sqrt(sum(d * d for d in differences) / (2 * n))
    return Estimate(sd, seeds=around_deviation(sd, n), basis=f"{n} pairs of runs")
