"""Curvature against FID over all runs of a project: colour is the loss, shape the schedule, a row for each protocol."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ddpm.config.run import flatten
from reports.figures.style import Drawn, NothingToDraw, label, legend, palette, panels, wrapped
from reports.runs import Run, flat_config
from reports.stats.statistics import COMMON, TRAINED, rank_correlation

TRACES = (TRAINED, COMMON)
# One colour for a loss, whatever is there; the two most often compared have those of e5 and e6.
_LOSSES = ("constant", "minsnr", "minsnr_norm", "soft_minsnr", "truncated_snr", "p2", "snr")
_SCHEDULES = {"linear": "o", "cosine": "^", "cosine_match_linear": "v", "sigmoid": "s", "scaled_linear": "D"}
_OTHER = "*"


@dataclass(frozen=True, eq=False)
class Entry:
    """A run in the library. `points`: columns trace, fid by step, where it has both; `trace`: which of `TRACES`."""

    run: Run
    loss: str
    schedule: str
    protocol: str
    trace: str
    points: pd.DataFrame


def entries(runs: Sequence[Run]) -> list[Entry]:
    """What the library shows of `runs`: one entry for each trace that a run logged at a milestone."""
    found = []
    for run in runs:
        config = flat_config(run)
        for trace in TRACES:
            both = {"trace": run.series(trace), "fid": run.series("val/fid")}
            points = pd.concat(both, axis=1, join="inner").sort_index()
            if len(points):
                loss, schedule = (
                    str(config.get(key, "unknown")) for key in ("loss.weighting", "diffusion.beta_schedule")
                )
                found.append(Entry(run, loss, schedule, run.protocol_of("val/fid"), trace, points))
    return found


def draw_library(shown: Sequence[Entry]) -> Drawn:
    """A row of panels for each protocol, a column for each trace: FIDs of two protocols are on no common axis."""
    if not shown:
        raise NothingToDraw("no run has a Hessian trace at a step with a FID")
    protocols = sorted({entry.protocol for entry in shown}, key=lambda p: -sum(e.protocol == p for e in shown))
    traces = [trace for trace in TRACES if any(entry.trace == trace for entry in shown)]
    figure, grid = panels(len(protocols) * len(traces), 4.8, 3.9, most=len(traces))
    for place, axes in enumerate(grid):
        protocol, trace = protocols[place // len(traces)], traces[place % len(traces)]
        there = [entry for entry in shown if entry.protocol == protocol and entry.trace == trace]
        for entry in there:
            _plot(axes, entry)
        axes.set(xlabel=label(trace), ylabel=label("val/fid"))
        axes.set_title(wrapped(protocol_text(there, protocol), 4.8), fontsize=8.5)
        if not there:
            axes.text(0.5, 0.5, "not logged", transform=axes.transAxes, ha="center", color="grey")
    _keys(grid[0], shown)
    legend(figure, grid[0], below=True)
    runs = {id(entry.run) for entry in shown}
    return Drawn(
        figure,
        f"{len(runs)} run{'s' * (len(runs) > 1)}, each a thin line over its milestones that ends in the large marker "
        "of the last; a row of panels for each FID protocol.",
    )


def _plot(axes: Axes, entry: Entry) -> None:
    look: dict[str, Any] = {"color": loss_colour(entry.loss), "marker": _SCHEDULES.get(entry.schedule, _OTHER)}
    table = entry.points
    axes.plot(table["trace"], table["fid"], linewidth=0.6, markersize=2.5, alpha=0.5, **look)
    axes.plot(
        table["trace"].iloc[-1:], table["fid"].iloc[-1:], markersize=8, markeredgecolor="black", alpha=0.9, **look
    )


def loss_colour(loss: str) -> str:
    """The colour of a weighting, the same in every library."""
    return palette(_LOSSES.index(loss)) if loss in _LOSSES else "#4d4d4d"


def _keys(axes: Axes, shown: Sequence[Entry]) -> None:
    """What colours and shapes mean, as entries of the legend that draw nothing else."""
    for loss in sorted({entry.loss for entry in shown}):
        axes.add_line(Line2D([], [], color=loss_colour(loss), linewidth=4, label=f"loss.weighting = {loss}"))
    for schedule in sorted({entry.schedule for entry in shown}):
        shape = _SCHEDULES.get(schedule, _OTHER)
        text = f"diffusion.beta_schedule = {schedule}"
        axes.add_line(Line2D([], [], color="black", linestyle="none", marker=shape, markersize=8, label=text))


def protocol_text(shown: Sequence[Entry], protocol: str) -> str:
    """A protocol in a line: its fingerprint, sampler, NFE, samples and features."""
    described = next((flatten(entry.run.protocols.get(protocol, {})) for entry in shown), {})
    known = [f"{key} = {described[key]}" for key in ("sampler", "nfe", "n_samples", "features") if key in described]
    return f"protocol {protocol}" + (f": {', '.join(known)}" if known else "")


def last_correlation(shown: Sequence[Entry]) -> float | None:
    """Spearman's, of trace and FID at the runs' last milestones; None for fewer than three runs."""
    ends = pd.DataFrame([entry.points.iloc[-1] for entry in shown]).reset_index(drop=True)
    return rank_correlation(ends["trace"], ends["fid"])
