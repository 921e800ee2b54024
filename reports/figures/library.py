"""Curvature against FID over all runs: colour is the loss, marker the schedule, a row of panels for each protocol.

Runs of different schedules share a panel only of the neutral trace: the losses over timesteps are other functions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ddpm.config.run import flatten
from ddpm.names import SCHEDULES, WEIGHTINGS
from reports.experiments.selection import differing_schedules
from reports.figures.style import Drawn, NothingToDraw, label, legend, palette, panels, wrapped
from reports.runs import Run, flat_config
from reports.stats.statistics import COMMON, NEUTRAL, TRAINED, rank_correlation

TRACES = (TRAINED, COMMON, NEUTRAL)
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


@dataclass(frozen=True, eq=False)
class Panel:
    """The entries, which may be none, that share an axis: those of one protocol, trace and prediction, and of one
    schedule if they are split by it. split: the prediction and the schedule in words, if that tells the rows apart.
    mixed: in what their schedules differ, if the trace is therefore not compared; else empty."""

    protocol: str
    trace: str
    entries: tuple[Entry, ...]
    mixed: str = ""
    split: str = ""


def grouped(shown: Sequence[Entry], split: bool = False) -> list[list[Panel]]:
    """A row of panels, one for each of `TRACES`, for each protocol and prediction (and schedule if `split`), the
    largest first. A network that predicts something else is another function of its weights."""
    several = len({_prediction(entry) for entry in shown}) > 1
    parts: dict[tuple[str, str], list[Entry]] = {}
    for entry in shown:
        apart = [f"prediction {_prediction(entry)}"] * several + [f"schedule {entry.schedule}"] * split
        parts.setdefault((entry.protocol, ", ".join(apart)), []).append(entry)
    largest = sorted(parts.items(), key=lambda part: (-len(part[1]), part[0]))
    return [[_panel(there, *key, trace) for trace in TRACES] for key, there in largest]


def _prediction(entry: Entry) -> str:
    return str(flat_config(entry.run).get("diffusion.prediction", "unknown"))


def _panel(there: Sequence[Entry], protocol: str, split: str, trace: str) -> Panel:
    mixed = "" if trace == NEUTRAL else differing_schedules([flat_config(entry.run) for entry in there])
    return Panel(protocol, trace, tuple(entry for entry in there if entry.trace == trace), mixed, split)


def _has_points(panel: Panel) -> bool:
    return bool(panel.entries) and not panel.mixed


def draw_library(shown: Sequence[Entry], split: bool = False) -> Drawn:
    """A row of panels for each protocol and prediction (and each schedule if `split`), a column for each trace: FIDs of
    two protocols never share an axis, nor do traces over the timesteps of two schedules."""
    if not shown:
        raise NothingToDraw("no run has a Hessian trace at a step with a FID")
    columns = [column for column in zip(*grouped(shown, split), strict=True) if any(map(_has_points, column))]
    if not columns:
        raise NothingToDraw("the schedules differ, and no run logged the neutral trace")
    flat = [panel for row in zip(*columns, strict=True) for panel in row]
    figure, grid = panels(len(flat), 4.8, 3.9, most=len(columns))
    for axes, panel in zip(grid, flat, strict=True):
        for entry in panel.entries if _has_points(panel) else ():
            _plot(axes, entry)
        axes.set(xlabel=label(panel.trace), ylabel=label("val/fid"))
        title = protocol_text(panel.entries, panel.protocol) + (f"\n{panel.split}" if panel.split else "")
        axes.set_title("\n".join(wrapped(line, 4.8) for line in title.split("\n")), fontsize=8.5)
        if not _has_points(panel):
            said = f"not compared:\n{wrapped(panel.mixed, 4)}" if panel.mixed else "not logged"
            axes.text(0.5, 0.5, said, transform=axes.transAxes, ha="center", va="center", color="grey")
    drawn = [entry for panel in flat if _has_points(panel) for entry in panel.entries]
    _keys(grid[0], drawn)
    legend(figure, grid[0], below=True)
    runs = {id(entry.run) for entry in drawn}
    return Drawn(
        figure,
        f"{len(runs)} run{'s' * (len(runs) > 1)}, each a thin line over its milestones that ends in the large marker "
        f"of the last; a row of panels for each FID protocol, prediction{' and schedule' if split else ''}.",
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
