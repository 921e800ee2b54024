"""Curvature against FID over all runs: colour is the loss, marker the schedule, a row of panels for each protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ddpm.config.run import flatten
from ddpm.names import SCHEDULES, WEIGHTINGS
from reports.figures.style import Drawn, NothingToDraw, label, legend, palette, panels, wrapped
from reports.runs import Run, flat_config
from reports.stats.statistics import COMMON, TRAINED, rank_correlation

TRACES = (TRAINED, COMMON)
# Colours follow the order of WEIGHTINGS. `snr` has place 6, the colour that it has in earlier figures.
_LOSSES = [name for name in WEIGHTINGS if name != "snr"]
_LOSSES.insert(6, "snr")
_MARKERS = "o^vsDPX<>"  # in the order of SCHEDULES


@dataclass(frozen=True, eq=False)
class Entry:
    """A run in the library. `points`: columns trace, fid at the steps that have both; `trace`: which of `TRACES`."""

    run: Run
    loss: str
    schedule: str
    protocol: str
    trace: str
    points: pd.DataFrame


def entries(runs: Sequence[Run]) -> list[Entry]:
    """One entry for each run and each trace that it logged at a milestone."""
    found = []
    for run in runs:
        config = flat_config(run)
        loss, schedule = (str(config.get(key, "unknown")) for key in ("loss.weighting", "diffusion.beta_schedule"))
        for trace in TRACES:
            both = {"trace": run.series(trace), "fid": run.series("val/fid")}
            points = pd.concat(both, axis=1, join="inner").sort_index()
            if len(points):
                found.append(Entry(run, loss, schedule, run.protocol_of("val/fid"), trace, points))
    return found


def grouped(shown: Sequence[Entry]) -> dict[tuple[str, str], list[Entry]]:
    """(protocol, trace) -> its entries, which may be none, for each protocol and each trace that is there.

    The protocol with most entries comes first.
    """
    names = sorted({entry.protocol for entry in shown}, key=lambda p: -sum(e.protocol == p for e in shown))
    traces = [trace for trace in TRACES if any(entry.trace == trace for entry in shown)]
    keys = [(protocol, trace) for protocol in names for trace in traces]
    return {key: [entry for entry in shown if (entry.protocol, entry.trace) == key] for key in keys}


def draw_library(shown: Sequence[Entry]) -> Drawn:
    """A row of panels for each protocol, a column for each trace: FIDs of two protocols never share an axis."""
    if not shown:
        raise NothingToDraw("no run has a Hessian trace at a step with a FID")
    groups = grouped(shown)
    figure, grid = panels(len(groups), 4.8, 3.9, most=len({trace for _, trace in groups}))
    for axes, ((protocol, trace), there) in zip(grid, groups.items(), strict=True):
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
    look: dict[str, Any] = {"color": loss_colour(entry.loss), "marker": schedule_marker(entry.schedule)}
    table, last = entry.points, entry.points.iloc[-1:]
    axes.plot(table["trace"], table["fid"], linewidth=0.6, markersize=2.5, alpha=0.5, **look)
    axes.plot(last["trace"], last["fid"], markersize=8, markeredgecolor="black", alpha=0.9, **look)


def loss_colour(loss: str) -> str:
    """The weighting's colour, the same in every library; grey for a name that is not in `ddpm.names.WEIGHTINGS`."""
    return palette(_LOSSES.index(loss)) if loss in _LOSSES else "#4d4d4d"


def schedule_marker(schedule: str) -> str:
    """The schedule's marker, the same in every library; a star for a name that is not in `ddpm.names.SCHEDULES`."""
    return _MARKERS[SCHEDULES.index(schedule) % len(_MARKERS)] if schedule in SCHEDULES else "*"


def _keys(axes: Axes, shown: Sequence[Entry]) -> None:
    """Add the legend's entries for colours and markers, which draw nothing else."""
    for loss in sorted({entry.loss for entry in shown}):
        axes.add_line(Line2D([], [], color=loss_colour(loss), linewidth=4, label=f"loss.weighting = {loss}"))
    for schedule in sorted({entry.schedule for entry in shown}):
        look: dict[str, Any] = {"linestyle": "none", "marker": schedule_marker(schedule), "markersize": 8}
        axes.add_line(Line2D([], [], color="black", label=f"diffusion.beta_schedule = {schedule}", **look))


def protocol_text(shown: Sequence[Entry], protocol: str) -> str:
    """The protocol in one line: fingerprint, sampler, NFE, samples and features."""
    return described(protocol, next((entry.run.protocols.get(protocol, {}) for entry in shown), {}))


def described(protocol: str, description: Mapping[str, Any]) -> str:
    """The fingerprint `protocol` and what its description says of sampler, NFE, samples and features."""
    flat = flatten(description)
    known = [f"{key} = {flat[key]}" for key in ("sampler", "nfe", "n_samples", "features") if key in flat]
    return f"protocol {protocol}" + (f": {', '.join(known)}" if known else "")


def last_correlation(shown: Sequence[Entry]) -> float | None:
    """Spearman's correlation of trace and FID at the runs' last milestones; None for fewer than three runs."""
    ends = pd.DataFrame([entry.points.iloc[-1] for entry in shown]).reset_index(drop=True)
    return rank_correlation(ends["trace"], ends["fid"])
