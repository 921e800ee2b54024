"""What the dashboard keeps of a run: thinned curves and the run without its rows, so that memory stays bounded."""

from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from reports.browser.thin import Thinned, thin
from reports.experiments.selection import missing_rows
from reports.figures.timesteps import PER_T
from reports.runs import Run
from reports.stats.statistics import COMMON, TRAINED, run_error

NEUTRAL = "curvature/neutral_trace_mean"
TRACES = (TRAINED, COMMON, NEUTRAL)
_WITH_ERROR = (*TRACES, "val/fid", "final/fid")
_LATE = 0.2  # the last part of a run, whose mean the table shows
_MEANS = ("train/loss", "train/mse_mean", *TRACES, "curvature/trace_ratio")
_LASTS = ("val/fid", "final/fid", "time/total_s")


@dataclass(frozen=True, eq=False)
class Card:
    """A run as the page shows it. `run` keeps one column of its rows. `curves`: metric -> thinned. `pairs`: trace ->
    arrays `step`, `x`, `ex` (trace and its standard error), `y`, `ey` (FID and its) at the steps that have both.
    `numbers`: for the table. `changed`: when its files changed last (seconds since 1970). `unlisted`: how many metrics
    of single timesteps have no curve.
    """

    run: Run
    curves: dict[str, Thinned]
    pairs: dict[str, Thinned]
    numbers: dict[str, float]
    notes: tuple[str, ...]
    changed: float
    unlisted: int


def make_card(run: Run, changed: float) -> Card:
    """Condense a run, whose rows can then go."""
    names = [name for name in run.history.columns if not PER_T.match(name)]
    curves = {name: thin(values, _error(run, name)) for name in names if len(values := run.series(name))}
    kept = [name for name in ("train/loss", *run.history.columns) if name in run.history.columns][:1]
    light = replace(run, history=run.history[kept].copy())
    notes = [*run.notes, *filter(None, [missing_rows(light)])]
    if (diverged := run.diverged_after) is not None:
        notes.append(f"the loss is not finite after step {diverged}")
    pairs = {trace: found for trace in TRACES if (found := _pairs(run, trace))}
    return Card(light, curves, pairs, _numbers(run), tuple(notes), changed, len(run.history.columns) - len(names))


def _error(run: Run, metric: str) -> pd.Series | None:
    return run_error(run, metric) if metric in _WITH_ERROR or metric.startswith("curvature/trace_by_noise/") else None


def _pairs(run: Run, trace: str) -> Thinned:
    both = {"x": run.series(trace), "y": run.series("val/fid")}
    table = pd.concat(both, axis=1, join="inner").sort_index()
    if table.empty:
        return {}
    table["ex"] = run_error(run, trace).reindex(table.index)
    table["ey"] = run_error(run, "val/fid").reindex(table.index)
    return {"step": table.index.to_numpy()} | {name: table[name].to_numpy() for name in ("x", "ex", "y", "ey")}


def _numbers(run: Run) -> dict[str, Any]:
    """The table's cells: late means of what every step has, the last and the lowest of what milestones have."""
    fid = run.series("val/fid")
    found = {"val/fid (lowest)": float(fid.min())} if len(fid) else {}
    for name in _LASTS:
        if len(values := run.series(name)):
            found[f"{name} (last)"] = float(values.iloc[-1])
    for name in _MEANS:
        values = run.series(name)
        late = values[values.index >= (1 - _LATE) * run.last_step]
        if len(late):
            found[f"{name} (mean of the last fifth)"] = float(late.mean())
    return found
