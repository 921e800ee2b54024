"""FIDs of the runs' checkpoints by sampler, from the runs' own rows and from the rows that `ddpm evaluate` added."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from ddpm.files.rows import parse
from ddpm.metrics import Z95
from reports.experiments.selection import Arm
from reports.runs import Run, canonical, flat_config

OLD, RESPACED, DDIM = "ddpm_adjacent_posterior", "ddpm", "ddim"
SAMPLERS = (OLD, RESPACED, DDIM)
NAMES = {OLD: "the study's sampler", RESPACED: "respaced DDPM", DDIM: "DDIM"}
_OF_THE_SAMPLER = ("sampler", "adjacent_posterior")


@dataclass(frozen=True)
class Score:
    """An FID of a run's checkpoint. sem: its standard error over the noise of the samples. floor, ceiling: the FID of
    as many real images, and of images of uniform noise. frame: the protocol without the sampler, and the seed of the
    noise; FIDs with one frame are on one scale. influence: of each sample (`ddpm evaluate --influence`), if known."""

    run: str
    step: int
    sampler: str
    fid: float
    sem: float
    floor: float
    ceiling: float
    frame: str
    influence: tuple[float, ...] = ()


def read_scores(runs: Sequence[Run]) -> tuple[list[Score], dict[str, Any], list[str]]:
    """The runs' scores with one frame, each point once; the frame; and a line for what is left out.

    The frame is the one that most points have; others are on another scale. If a point was scored twice, the run's own
    row counts, or the one with influences."""
    found = [score for run in runs for score in (*_own(run), *_evaluated(run))]
    if not found:
        return [], {}, []
    frame = Counter(score.frame for score in found).most_common(1)[0][0]
    kept: dict[tuple[str, int, str], Score] = {}
    others = 0
    for score in found:
        if score.frame == frame:
            point = score.run, score.step, score.sampler
            if point not in kept or (score.influence and not kept[point].influence):
                kept[point] = score
        else:
            others += 1
    notes = [f"{others} FID(s) with another protocol than most, or from other noise, are left out."] if others else []
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
    """The rows that `ddpm evaluate` wrote to the run's folder; unreadable lines are skipped."""
    path = run.source / "evaluations.jsonl"
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            for row in parse(line)["out"]:
                if row["metric"] == "fid":
                    sem = (row["high"] - row["low"]) / 2 / Z95
                    numbers = row["value"], sem, row["floor"], row["ceiling"]
                    frame, each = _frame(row["described"], row["seed"]), tuple(row.get("influence", ()))
                    yield Score(run.id, row["step"], row["sampler"], *numbers, frame, each)
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
    """The run with its FIDs by sampler as metrics `fid/SAMPLER`, `..._sem`, `..._floor` and `..._ceiling`, and the
    influences as lists `..._influence`."""
    columns: dict[str, dict[int, float]] = {}
    lists = dict(run.lists)
    for score in scores:
        if score.run == run.id:
            name = metric(score.sampler)
            if score.influence:
                known = influence_name(score.sampler)
                lists[known] = lists.get(known, {}) | {score.step: score.influence}
            ends = ("", score.fid), ("_sem", score.sem), ("_floor", score.floor), ("_ceiling", score.ceiling)
            for end, value in ends:
                columns.setdefault(f"{name}{end}", {})[score.step] = value
    added = pd.DataFrame({name: pd.Series(values, dtype=float) for name, values in columns.items()})
    return replace(run, history=run.history.join(added, how="outer").rename_axis("step"), lists=lists)


def influence_name(sampler: str) -> str:
    """The name of the lists that `with_scores` adds."""
    return f"{metric(sampler)}_influence"


def as_the_study(run: Run) -> Run:
    """A run of the original study with its FIDs as those by its sampler."""
    scores = [
        Score(run.id, int(str(step)), OLD, value, np.nan, np.nan, np.nan, "")
        for step, value in run.series("val/fid").items()
    ]
    return with_scores(run, scores)


def scored(arm: Arm, *samplers: str) -> list[Run]:
    """The arm's runs with FIDs by each of the samplers."""
    return [run for run in arm.runs if all(len(run.series(metric(sampler))) for sampler in samplers)]


def steps_of(arms: Sequence[Arm], *samplers: str) -> list[int]:
    """The steps at which every run of the arms that was scored by all of the samplers has an FID by each; empty if an
    arm has no such run."""
    each = [
        set(run.series(metric(sampler)).index) for arm in arms for run in scored(arm, *samplers) for sampler in samplers
    ]
    return sorted(set.intersection(*each)) if all(scored(arm, *samplers) for arm in arms) and each else []


def end_of(arm: Arm, sampler: str, step: int, name: str) -> float:
    """The FID of real images (`floor`) or uniform noise (`ceiling`) beside the arm's FID; NaN if unknown."""
    return float(scored(arm, sampler)[0].series(f"{metric(sampler)}_{name}").get(step, np.nan))
