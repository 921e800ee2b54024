"""The page's input: the records of the rerun, and the original study's logs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ddpm.errors import UserError
from reports.experiments import load
from reports.experiments.selection import Arm, Selection, differing_schedules, select
from reports.figures.library import Entry, entries
from reports.runs import Run, flat_config
from reports.sources import folders
from reports.stats.statistics import NEUTRAL
from reports.studies.min_snr import scores, traces

FAITHFUL = "e5_study"


@dataclass(frozen=True)
class Material:
    """The pages' input.

    runs: all of the rerun, with their FIDs by sampler. selection: e5 and e6 of the rerun; study: those of the original
    logs. faithful: the rerun with the study's time embedding and draws. pairs: traces draw by draw. swept: the sweep's
    runs for the library. panel: runs that differ in the seeds of their parts. frame: the protocol that all FIDs share.
    notes: what was left out. grids: (sampler, step) -> grid of samples of the run `grids_of`.
    """

    runs: list[Run]
    selection: Selection
    study: Selection
    faithful: Arm | None
    pairs: pd.DataFrame
    swept: list[Entry]
    panel: list[Run]
    frame: dict[str, Any]
    notes: list[str]
    grids_of: str
    grids: dict[tuple[str, int], Path]

    @property
    def split(self) -> str:
        """In what the sweep's schedules differ, if that splits its library: without the neutral trace, runs are
        compared only within a schedule. Empty if it does not."""
        neutral = any(entry.trace == NEUTRAL for entry in self.swept)
        return "" if neutral else split_of(self.swept)

    @property
    def library(self) -> list[Entry]:
        """The rerun's own runs, without the faithful one, whose FIDs are on another scale."""
        return entries([run for run in self.runs if run.experiment != FAITHFUL])

    @property
    def arms(self) -> list[Arm]:
        """The rerun's arms, the faithful one last."""
        return [*self.selection.arms, *([self.faithful] if self.faithful else [])]


def split_of(found: Sequence[Entry]) -> str:
    """In what the schedules of a library's runs differ; empty if in nothing."""
    return differing_schedules([flat_config(entry.run) for entry in found])


def gather(records: Path, original: Path) -> Material:
    """The material in `records` (`runs/`, and if present `probes/`, `sweep/`, `samples/`) and in the study's own logs.

    Raises UserError: no records of e5 and e6, or no logs."""
    logs = _read(original, "the study's logs of e5 and e6")
    runs = _read(records / "runs", "records; ddpm findings --keep RUNS makes them")
    found, frame, notes = scores.read_scores(runs)
    runs = [scores.with_scores(run, found) for run in runs]
    faithful = sorted((run for run in runs if run.experiment == FAITHFUL), key=lambda run: run.seed or 0)
    selection = select(load("e6"), [run for run in runs if run.experiment in ("e5", "e6")])
    pairs, alone = traces.read_pairs(records / "probes", {run.id for run in runs})
    swept = folders.read(folders.find(records / "sweep"))
    return Material(
        runs,
        selection,
        select(load("e6"), [scores.as_the_study(run) for run in logs if run.experiment in ("e5", "e6")]),
        Arm(FAITHFUL, "variant", tuple(faithful)) if faithful else None,
        pairs,
        entries(sorted(swept, key=lambda run: (run.experiment, run.seed or 0, run.id))),
        sorted(folders.read(folders.find(records / "panel")), key=lambda run: run.id),
        frame,
        [*notes, *alone, *(f"left out: {line}." for line in selection.left_out if "(context)" not in line)],
        *_grids(records / "samples"),
    )


def _grids(folder: Path) -> tuple[str, dict[tuple[str, int], Path]]:
    """The first run with pictures RUN_ID/SAMPLER-STEP.png in `folder`, for the page's samplers; and the pictures."""
    for run in sorted(folder.glob("*/")):
        found = {}
        for path in sorted(run.glob("*.png")):
            sampler, _, step = path.stem.rpartition("-")
            if sampler in scores.SAMPLERS and step.isdigit():
                found[sampler, int(step)] = path
        if found:
            return run.name, found
    return "", {}


def _read(folder: Path, what: str) -> list[Run]:
    runs = folders.read(folders.find(folder))
    if not any(run.experiment in ("e5", "e6") for run in runs):
        raise UserError(f"{folder} holds no {what}.")
    return runs
