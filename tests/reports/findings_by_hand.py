"""Test data for the figures and tables of docs/findings.md: a few made-up FIDs by sampler, added to the curves of
`by_hand.py`, and the numbers that follow from them, worked out by hand."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from reports.experiments import load
from reports.experiments.selection import Arm, Selection
from reports.runs import Run
from reports.studies.probe_pairs import COLUMNS
from tests.reports import by_hand
from tests.reports.by_hand import STEPS, Z95, logged, student
from tests.reports.conftest import config_of

ARMS, SEEDS = ("e5", "e6"), (1, 2)
HUTCH, REF = "curvature/hutch_trace", "curvature/ref_trace"
OLD, NEW, DDIM = "ddpm_adjacent_posterior", "ddpm", "ddim"
NAMES = {OLD: "the study's sampler", NEW: "respaced DDPM", DDIM: "DDIM"}
FLOOR, CEILING = 1.5, 60.0
FIDS = {  # by step, for two seeds
    ("e5", OLD): {2000: (50.0, 52.0), 10_000: (55.0, 59.0)},
    ("e6", OLD): {2000: (51.0, 52.0), 10_000: (53.0, 51.5)},
    ("e5", NEW): {2000: (30.0, 32.0), 10_000: (20.0, 21.6)},
    ("e6", NEW): {2000: (33.0, 34.5), 10_000: (25.0, 26.8)},
    ("e5", DDIM): {10_000: (15.0, 16.0)},
    ("e6", DDIM): {10_000: (15.5, 16.2)},
}


def sem(arm: str, step: int, seed: int) -> float:
    """The standard error of such an FID."""
    return {"e5": 1.0, "e6": 0.8}[arm] * (0.5 if step == 10_000 else 1.0) * (1.5 if seed == 2 else 1.0)


def a_run(arm: str, seed: int) -> Run:
    """A run with the values of `by_hand.py`, its FIDs by sampler, and errors of predicted images."""
    columns = {
        name: pd.Series(values, index=STEPS)
        for name, values in logged(arm, seed).items()
        if not name.startswith("val/")
    }
    for (name, sampler), fids in FIDS.items():
        if name == arm:
            ends = {"": {step: found[seed - 1] for step, found in fids.items()}}
            ends |= {"_sem": {step: sem(arm, step, seed) for step in fids}}
            ends |= {"_floor": dict.fromkeys(fids, FLOOR), "_ceiling": dict.fromkeys(fids, CEILING)}
            columns |= {f"fid/{sampler}{end}": pd.Series(each) for end, each in ends.items()}
    e6 = arm == "e6"
    columns["val/recon_mse_t0100"] = pd.Series({2000: 0.010 + 0.002 * seed, 10_000: 0.011 + 0.002 * seed})
    other = {500: 9.0, 9000: 0.8} if e6 else {10_000: 9.0, 9000: 0.9}
    columns["val/recon_mse_t0990"] = pd.Series({2000: 2.0} | other)
    history = pd.DataFrame(columns).sort_index().rename_axis("step")
    return Run(f"{arm}-{seed}", arm, seed, config_of(arm, seed, train__total_steps=10_000), history, Path("none"))


@dataclass(frozen=True)
class Made:
    """`selection`: two seeds of e5 and e6. `swept`: a folder of three runs. `folder`: where a check may write."""

    selection: Selection
    swept: Path
    folder: Path

    @property
    def arms(self) -> tuple[Arm, Arm]:
        return self.selection.arms  # type: ignore[return-value]


def make(root: Path) -> Made:
    """Make the selection, and write the sweep's runs below `root`."""
    roles = {"e5": "baseline", "e6": "variant"}
    arms = tuple(Arm(name, role, tuple(a_run(name, seed) for seed in SEEDS)) for name, role in roles.items())
    return Made(Selection(load("e6"), arms), by_hand.write_runs(root / "swept", (1,), context=True), root)


# ---- numbers by hand -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ByHand:
    """A number for two seeds, with two intervals: over the noise of the samples (from the mean of the seeds' errors, as
    the seeds share their noise) and Student's over seeds."""

    each: tuple[float, ...]
    error: float

    @property
    def number(self) -> float:
        return sum(self.each) / len(self.each)

    @property
    def within(self) -> tuple[float, float]:
        return self.number - Z95 * self.error, self.number + Z95 * self.error

    @property
    def seeds(self) -> tuple[float, float]:
        return student(self.each)

    def spread(self, places: int) -> str:
        parts = [f"{low:.{places}f} to {high:.{places}f}" for low, high in (self.within, self.seeds)]
        return f"{parts[0]} within runs; {parts[1]} over 2 seeds"

    def word(self, up: str, down: str, neither: str) -> str:
        """The verdict by the interval over samples. It adds "in these runs" if the interval over seeds gives another
        verdict."""
        sides = [1 if low >= 0 else -1 if high <= 0 else 0 for low, high in (self.within, self.seeds)]
        if sides[0] == 0:
            return neither
        return (up if sides[0] > 0 else down) + ("" if sides[1] == sides[0] else " in these runs")


def level(arm: str, sampler: str, step: int, scale: float = 1.0) -> ByHand:
    fids = FIDS[arm, sampler][step]
    return ByHand(tuple(scale * x for x in fids), scale * float(np.mean([sem(arm, step, s) for s in SEEDS])))


def change(arm: str, sampler: str) -> ByHand:
    """The change from step 2000 to 10,000, in per cent."""
    first, last = (FIDS[arm, sampler][step] for step in (2000, 10_000))
    each = tuple(100 * (b / a - 1) for a, b in zip(first, last, strict=True))
    errors = [
        100 / a * math.hypot(sem(arm, 10_000, s), b / a * sem(arm, 2000, s))
        for a, b, s in zip(first, last, SEEDS, strict=True)
    ]
    return ByHand(each, float(np.mean(errors)))


def difference(sampler: str, step: int, *, percent: bool = False) -> ByHand:
    """e6 minus e5."""
    pairs = list(zip(FIDS["e5", sampler][step], FIDS["e6", sampler][step], SEEDS, strict=True))
    if percent:
        each = tuple(100 * (b / a - 1) for a, b, _ in pairs)
        errors = [100 / a * math.hypot(sem("e6", step, s), b / a * sem("e5", step, s)) for a, b, s in pairs]
    else:
        each = tuple(b - a for a, b, _ in pairs)
        errors = [math.hypot(sem("e6", step, s), sem("e5", step, s)) for *_, s in pairs]
    return ByHand(each, float(np.mean(errors)))


def relative(metric: str, seed: int) -> np.ndarray:
    """e6's change against e5 for one seed, in per cent, at each step."""
    return 100 * (logged("e6", seed)[metric] / logged("e5", seed)[metric] - 1)


def jackknife(statistic: Callable[[np.ndarray], float], count: int) -> float:
    """Half of Student's interval of six pseudo-values. `statistic` takes the places that are kept."""
    places = np.arange(count)
    blocks = places * 6 // count
    pseudo = [6 * statistic(places) - 5 * statistic(places[blocks != block]) for block in range(6)]
    return float(stats.t.ppf(0.975, 5) * np.std(pseudo, ddof=1) / math.sqrt(6))


_PAIRS = {  # loss and seed -> (step, change, half its interval)
    ("hutch", "1"): ((2000, -20, 2), (10_000, -15, 3), (0, -18, 2)),
    ("hutch", "2"): ((2000, -18, 6), (10_000, -16, 1), (0, -17, 4)),
    ("ref", "1"): ((2000, 5, 4), (10_000, 3, 2), (0, 4, 2)),
    ("ref", "2"): ((2000, 7, 6), (10_000, 5, 4), (0, 6, 3)),
    ("hutch", "all"): ((0, -17.5, 6.4),),
    ("ref", "all"): ((0, 5, 12.7),),
}
PAIRS = pd.DataFrame(
    [
        (loss, seed, step, 100.0, 100.0 + change, change, change - reach, change + reach, f"{seed}{step} draws")
        for (loss, seed), found in _PAIRS.items()
        for step, change, reach in found
    ],
    columns=list(COLUMNS),
)
