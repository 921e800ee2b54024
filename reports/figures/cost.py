"""Figures of quality against what it cost: images, seconds, network calls; and where the seconds went."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator, NullFormatter

from reports.experiments.selection import Arm, Selection
from reports.figures.style import (
    WIDTH,
    Drawn,
    NothingToDraw,
    arm_labels,
    colour,
    dash,
    label,
    legend,
    marker,
    new_figure,
    note_on,
    panels,
    seeds_text,
    thousands,
    wrapped,
)
from reports.protocols import check_protocols, differing_fields
from reports.runs import FID_METRICS, Run
from reports.stats.statistics import curve

_SCORES = ("val/fid", "val/kid")
_COSTS = ("time/total_s", "train/images_seen")
_PARTS = ("train", "probe", "sample", "features", "distance", "recon")


def fid_vs_cost(selection: Selection, allow_mixed: bool) -> Drawn:
    """Milestone FID, and KID where it was logged, against wall-clock and against images seen."""
    scores = [s for s in _SCORES if any(len(curve(arm, s)) for arm in selection.arms)]
    costs = [c for c in _COSTS if any(len(_cost(arm, c)) for arm in selection.arms)]
    drawn = [(s, c) for s in scores for c in costs if any(len(_against(arm, s, c)) for arm in selection.arms)]
    if not drawn:
        raise NothingToDraw(f"no {' or '.join(_SCORES)} at a step with {' or '.join(_COSTS)}")
    notes = [check_protocols(selection.arms, score, allow_mixed) for score in scores]
    labels = arm_labels(selection.arms, selection)
    figure, row = panels(len(drawn), 4.6, 3.4, most=2)
    for axes, (score, cost) in zip(row, drawn, strict=True):
        for arm in selection.arms:
            table = _against(arm, score, cost)
            if len(table):
                look: dict[str, Any] = {"color": colour(arm.experiment), "linestyle": dash(arm.experiment)}
                axes.plot(
                    table["cost"], table["score"], marker=marker(arm.experiment), label=labels[arm.experiment], **look
                )
        axes.set_ylabel(label(score))
        axes.set_xlabel(label(cost))
        axes.xaxis.set_major_formatter(thousands)
    legend(figure, max(row, key=lambda axes: len(axes.get_legend_handles_labels()[0])), below=True)
    note_on(figure, " ".join(note for note in notes if note) or None)
    clock = (
        ""
        if "time/total_s" not in costs
        else (" Wall-clock counts training, probes and evaluation alike, on whichever machines the runs were made.")
    )
    everywhere = [arm for arm in selection.arms if all(len(_against(arm, score, cost)) for score, cost in drawn)]
    absent = _without(selection.arms, everywhere).removeprefix(".")
    absent = f"{absent}, in every panel." if absent else ""
    seeds = seeds_text(selection.arms, bands=False)
    return Drawn(figure, f"Score at the milestones against cost, {seeds}.{absent}{clock}")


def _cost(arm: Arm, cost: str) -> pd.Series:
    """`cost` by step; images from step and batch size where the run did not log them."""
    values = curve(arm, cost)
    batch = arm.config.get("data.batch_size")
    if cost == "train/images_seen" and values.empty and isinstance(batch, int):
        steps = curve(arm, "val/fid").index
        return pd.Series(steps.to_numpy(dtype=float) * batch, index=steps)
    return values


def _against(arm: Arm, score: str, cost: str) -> pd.DataFrame:
    return pd.concat({"cost": _cost(arm, cost), "score": curve(arm, score)}, axis=1, join="inner").sort_index()


def time_breakdown(selection: Selection, _allow_mixed: bool) -> Drawn:
    """Seconds of each arm by what they were spent on, a mean over its runs, up to each run's last row."""
    totals = {arm.experiment: {part: _seconds(arm, f"time/{part}_s") for part in _PARTS} for arm in selection.arms}
    timed = [arm for arm in selection.arms if any(totals[arm.experiment].values())]
    if not timed:
        raise NothingToDraw("time/... was not logged")
    labels = arm_labels(selection.arms, selection)
    names = [wrapped(labels[arm.experiment], 3.2) for arm in timed]
    lines = max(name.count("\n") + 1 for name in names)
    figure = new_figure(WIDTH, 1.5 + max(0.42, 0.18 * lines + 0.1) * len(timed))
    axes = figure.subplots()
    left = np.zeros(len(timed))
    shades = [colour(name) for name in ("e5", "e6", "e2", "e3", "e7a", "e4")]
    for part, shade, hatch in zip(_PARTS, shades, ("", "//", "..", "xx", "oo", "\\\\"), strict=True):
        widths = np.array([totals[arm.experiment][part] for arm in timed])
        if widths.any():
            axes.barh(range(len(timed)), widths, left=left, color=shade, hatch=hatch, edgecolor="white", label=part)
        left += widths
    everything = np.array([_seconds(arm, "time/total_s") for arm in timed])
    other = (everything - left).clip(min=0)
    if other.any():
        axes.barh(range(len(timed)), other, left=left, color="lightgrey", edgecolor="white", label="other")
    axes.set_yticks(range(len(timed)), names)
    axes.invert_yaxis()
    axes.set_xlabel("wall-clock (s)")
    axes.grid(visible=False, axis="y")
    legend(figure, axes, below=True)
    said = "; ".join(
        _share(arm.experiment, totals[arm.experiment]["train"], max(left[i], everything[i]))
        for i, arm in enumerate(timed)
    )
    said += _without(selection.arms, timed)
    return Drawn(figure, f"Where the time went, {seeds_text(timed, bands=False)}. {said}.")


def _seconds(arm: Arm, metric: str) -> float:
    ends = [float(values.iloc[-1]) for run in arm.runs if len(values := run.series(metric))]
    return float(np.mean(ends)) if ends else 0.0


def _share(name: str, train: float, whole: float) -> str:
    return f"{name}: {100 * (whole - train) / whole:.0f} % of {whole:,.0f} s outside the training steps"


def _without(arms: Sequence[Arm], shown: Sequence[Arm]) -> str:
    absent = [arm.experiment for arm in arms if arm not in shown]
    return f". Not logged in {', '.join(absent)}" if absent else ""


def nfe_fid(selection: Selection, allow_mixed: bool) -> Drawn:
    """A run's last FID against the network calls of its sampler; lines join an arm's points of one sampler.

    On this axis protocols may differ in sampler and NFE, which it shows, and in nothing else.
    """
    reasons = []
    for metric in FID_METRICS:
        points, fields = _by_nfe(selection, metric)
        shown = {nfe for values in points.values() for nfe, _ in values}
        if len(shown) < 2:
            reasons.append(f"{metric} was taken at {f'NFE {min(shown):.0f} alone' if shown else 'no known NFE'}")
        elif fields and not allow_mixed:
            reasons.append(f"the protocols of {metric} at different NFE differ in {', '.join(fields)} too")
        else:
            return _draw_nfe(selection, metric, points, fields)
    raise NothingToDraw("; ".join(reasons))


_Points = dict[tuple[str, str], list[tuple[float, float]]]


def _by_nfe(selection: Selection, metric: str) -> tuple[_Points, list[str]]:
    """(arm, sampler) -> (NFE, FID) of its runs; and in what their protocols differ besides."""
    points: _Points = {}
    found: list[tuple[str, Run]] = []
    for arm in selection.arms:
        for run in arm.runs:
            described, values = run.protocols.get(run.protocol_of(metric), {}), run.series(metric)
            if len(values) and isinstance(described.get("nfe"), int):
                key = (arm.experiment, str(described.get("sampler")))
                points.setdefault(key, []).append((float(described["nfe"]), float(values.iloc[-1])))
                found.append((run.protocol_of(metric), run))
    return points, sorted(differing_fields(found) - {"sampler", "nfe", "adjacent_posterior"}) if found else []


def _draw_nfe(selection: Selection, metric: str, points: _Points, fields: Sequence[str]) -> Drawn:
    labels = arm_labels(selection.arms, selection)
    figure = new_figure(WIDTH, 4.0)
    axes = figure.subplots()
    for (name, sampler), values in points.items():
        table = pd.DataFrame(values, columns=["nfe", "fid"]).groupby("nfe")["fid"].mean()
        look: dict[str, Any] = {"color": colour(name), "linestyle": dash(name), "marker": marker(name)}
        axes.plot(table.index, table, label=f"{labels[name]}, sampler = {sampler}", **look)
    axes.set(xscale="log", xlabel="NFE (network calls per image, log scale)", ylabel=label(metric))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    legend(figure, axes)
    note_on(figure, f"Protocols differ in {', '.join(fields)} too: not comparable." if fields else None)
    return Drawn(figure, f"Each run's last {metric} by its sampler's NFE, {seeds_text(selection.arms, bands=False)}.")
