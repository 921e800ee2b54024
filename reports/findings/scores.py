"""FIDs of the runs' checkpoints by sampler, from the runs' own rows and from what `ddpm evaluate` noted beside them."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from reports.experiments.choice import Arm
from reports.findings.known import Known, of_measured
from reports.runs import Run, canonical, flat_config
from reports.sources.rows import parse
from reports.statistics import Z95, shared_seeds

OLD, RESPACED, DDIM = "ddpm_adjacent_posterior", "ddpm", "ddim"
SAMPLERS = (OLD, RESPACED, DDIM)
NAMES = {OLD: "the study's sampler", RESPACED: "respaced DDPM", DDIM: "DDIM"}
_OF_THE_SAMPLER = ("sampler", "adjacent_posterior")


@dataclass(frozen=True)
class Score:
    """An FID of a run's checkpoint. sem: its standard error over the noise of the samples; floor, ceiling: as many
    real images, and images of uniform noise. `frame`: all of the protocol but the sampler, and the seed of the noise:
    FIDs of one frame are on one scale."""

    run: str
    step: int
    sampler: str
    fid: float
    sem: float
    floor: float
    ceiling: float
    frame: str


def read_scores(runs: Sequence[Run]) -> tuple[list[Score], dict[str, Any], list[str]]:
    """The runs' scores of one frame, each point once; the frame; and a line for what is left out.

    The frame is that of most points: what was scored in another way is on another scale. Of a point that was scored
    twice the run's own row counts."""
    found = [score for run in runs for score in (*_own(run), *_evaluated(run))]
    if not found:
        return [], {}, []
    frame = Counter(score.frame for score in found).most_common(1)[0][0]
    kept: dict[tuple[str, int, str], Score] = {}
    others = 0
    for score in found:
        if score.frame == frame:
            kept.setdefault((score.run, score.step, score.sampler), score)
        else:
            others += 1
    notes = [f"{others} FID(s) of another protocol than most, or of other noise, are left out."] if others else []
    return sorted(kept.values(), key=lambda score: (score.run, score.sampler, score.step)), json.loads(frame), notes


def _own(run: Run) -> Iterator[Score]:
    """The milestones in the run's own rows."""
    described = run.protocols.get(run.protocol_of("val/fid"), {})
    table = pd.concat(
        {name: run.series(f"val/{name}") for name in ("fid", "fid_sem", "fid_floor", "fid_ceiling")}, axis=1
    ).dropna(subset=["fid"])
    noise = flat_config(run).get("eval.sample_seed", 0)
    for step, row in table.iterrows():
        numbers = row["fid"], row["fid_sem"], row["fid_floor"], row["fid_ceiling"]
        yield Score(run.id, int(str(step)), str(described.get("sampler", "")), *numbers, _frame(described, noise))


def _evaluated(run: Run) -> Iterator[Score]:
    """What `ddpm evaluate` noted in the run's folder; lines that do not read are passed by."""
    path = run.source / "evaluations.jsonl"
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            for row in parse(line)["out"]:
                if row["metric"] == "fid":
                    sem = (row["high"] - row["low"]) / 2 / Z95
                    numbers = row["value"], sem, row["floor"], row["ceiling"]
                    yield Score(run.id, row["step"], row["sampler"], *numbers, _frame(row["described"], row["seed"]))
        except (ValueError, LookupError, TypeError):
            continue


def _frame(described: dict[str, Any], noise: int) -> str:
    shared = {key: value for key, value in described.items() if key not in _OF_THE_SAMPLER}
    return canonical(shared | {"noise": noise})


# ---- as metrics of the runs ------------------------------------------------------------------------------


def metric(sampler: str) -> str:
    """The name under which `with_scores` puts a sampler's FIDs into a run's history."""
    return f"fid/{sampler}"


def with_scores(run: Run, scores: Sequence[Score]) -> Run:
    """The run, its FIDs by sampler as metrics `fid/SAMPLER`, with `..._sem`, `..._floor` and `..._ceiling`."""
    columns: dict[str, dict[int, float]] = {}
    for score in scores:
        if score.run == run.id:
            name = metric(score.sampler)
            ends = ("", score.fid), ("_sem", score.sem), ("_floor", score.floor), ("_ceiling", score.ceiling)
            for end, value in ends:
                columns.setdefault(f"{name}{end}", {})[score.step] = value
    added = pd.DataFrame({name: pd.Series(values, dtype=float) for name, values in columns.items()})
    return replace(run, history=run.history.join(added, how="outer").rename_axis("step"))


def as_the_study(run: Run) -> Run:
    """A run of the original study, whose FIDs are all by its sampler."""
    scores = [
        Score(run.id, int(str(step)), OLD, value, np.nan, np.nan, np.nan, "")
        for step, value in run.series("val/fid").items()
    ]
    return with_scores(run, scores)


def scored(arm: Arm, *samplers: str) -> list[Run]:
    """The arm's runs with FIDs by each of the samplers."""
    return [run for run in arm.runs if all(len(run.series(metric(sampler))) for sampler in samplers)]


def steps_of(arms: Sequence[Arm], *samplers: str) -> list[int]:
    """The steps at which every run of the arms that was scored by the samplers has an FID by each; empty where an arm
    has no such run."""
    each = [
        set(run.series(metric(sampler)).index) for arm in arms for run in scored(arm, *samplers) for sampler in samplers
    ]
    return sorted(set.intersection(*each)) if all(scored(arm, *samplers) for arm in arms) and each else []


# ---- what is said of them --------------------------------------------------------------------------------


def at(run: Run, sampler: str, step: int) -> tuple[float, float]:
    """An FID and its standard error; NaN where it is not known."""
    name = metric(sampler)
    error = run.series(f"{name}_sem")
    return float(run.series(name)[step]), float(error.get(step, np.nan))


def level(arm: Arm, sampler: str, step: int) -> Known:
    """The FID at a step."""
    return _known([at(run, sampler, step) for run in scored(arm, sampler)])


def share(arm: Arm, sampler: str, step: int) -> Known:
    """The FID in per cent of what uniform noise scores."""
    pairs = []
    for run in scored(arm, sampler):
        noise = run.series(f"{metric(sampler)}_ceiling").get(step, np.nan)
        value, error = at(run, sampler, step)
        pairs.append((100 * value / noise, 100 * error / noise))
    return _known(pairs)


def change(arm: Arm, sampler: str, first: int, last: int, *, percent: bool = True) -> Known:
    """The FID at `last` less that at `first`, in per cent of the latter. Both are of one noise, which their errors are
    not told of: the interval within the runs is at most too wide."""
    found = scored(arm, sampler)
    return _known([_against(at(run, sampler, first), at(run, sampler, last), percent) for run in found])


def difference(baseline: Arm, variant: Arm, sampler: str, step: int, *, percent: bool = True) -> Known:
    """The variant's FID less the baseline's of the same seed, in per cent of the latter; the same of its interval."""
    both = [replace(arm, runs=tuple(scored(arm, sampler))) for arm in (baseline, variant)]
    pairs = [(both[0].runs[i], both[1].runs[j]) for i, j in shared_seeds(*both)]
    return _known([_against(at(b, sampler, step), at(v, sampler, step), percent) for b, v in pairs])


def between_samplers(arm: Arm, one: str, other: str, step: int) -> Known:
    """The FID by `other` less that by `one`, of the same weights, in per cent of the latter."""
    return _known([_against(at(run, one, step), at(run, other, step), True) for run in scored(arm, one, other)])


def parting(arm: Arm, one: str, other: str, first: int, last: int) -> Known:
    """By how much more the FID by `other` rises from `first` to `last` than that by `one`, in percentage points."""
    pairs = []
    for run in scored(arm, one, other):
        (a, a_error), (b, b_error) = (_against(at(run, s, first), at(run, s, last), True) for s in (one, other))
        pairs.append((b - a, float(np.hypot(a_error, b_error))))
    return _known(pairs)


def band(arm: Arm, sampler: str) -> Known:
    """From the lowest to the highest FID over the steps, in per cent of the mean."""
    values = [run.series(metric(sampler)) for run in scored(arm, sampler)]
    numbers = tuple(100 * float(x.max() - x.min()) / float(x.mean()) for x in values if len(x) > 1)
    return replace(of_measured(numbers, ()), seeds=None, counted=True) if numbers else of_measured((), ())


def _against(one: tuple[float, float], other: tuple[float, float], percent: bool) -> tuple[float, float]:
    """other - one with its standard error, as of independent numbers; in per cent of `one` by the delta method."""
    (a, a_error), (b, b_error) = one, other
    if not percent:
        return b - a, float(np.hypot(a_error, b_error))
    return 100 * (b - a) / a, 100 / a * float(np.hypot(b_error, b / a * a_error))


def _known(pairs: Sequence[tuple[float, float]]) -> Known:
    values, errors = ([pair[i] for pair in pairs] for i in (0, 1))
    if not np.isfinite(values).all():
        return Known(reason="not measured")
    return of_measured(values, errors if np.isfinite(errors).all() else ())
