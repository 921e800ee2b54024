"""Figures of quality against what it cost: images, seconds, network calls; and where the seconds went."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator, NullFormatter

from reports.experiments.selection import Arm, Selection
from reports.figures import style
from reports.figures.style import Drawn, NothingToDraw, seeds_text
from reports.protocols import check_protocols, differing_fields
from reports.runs import FID_METRICS, Run
from reports.stats.statistics import curve

_SCORES = ("val/fid", "val/kid")
_COSTS = ("time/total_s", "train/images_seen")
_PARTS = ("train", "probe", "sample", "features", "distance", "recon")


def fid_vs_cost(selection: Selection, allow_mixed: bool) -> Drawn:
    """Milestone FID, and KID if it was logged, against wall-clock time and against images seen."""
    arms = selection.arms
    found = {(s, c): {a.experiment: _against(a, s, c) for a in arms} for s in _SCORES for c in _COSTS}
    found = {pair: tables for pair, tables in found.items() if any(map(len, tables.values()))}
    if not found:
        raise NothingToDraw(f"no {' or '.join(_SCORES)} at a step with {' or '.join(_COSTS)}")
    labels = style.arm_labels(arms, selection)
    figure, row = style.panels(len(found), 4.6, 3.4, most=2)
    for axes, ((score, cost), tables) in zip(row, found.items(), strict=True):
        for name, table in tables.items():
            if len(table):
                axes.plot(table["cost"], table["score"], label=labels[name], **style.look(name, marked=True))
        axes.set(xlabel=style.label(cost), ylabel=style.label(score))
        axes.xaxis.set_major_formatter(style.thousands)
    style.legend_below(figure, row)
    style.note_on(figure, *(check_protocols(arms, s, allow_mixed) for s in dict.fromkeys(score for score, _ in found)))
    clock = ""
    if any(cost == "time/total_s" for _, cost in found):
        clock = " Wall-clock time covers training, probes and evaluation, on each run's own machine."
    everywhere = [arm for arm in arms if all(len(tables[arm.experiment]) for tables in found.values())]
    absent = style.without(arms, everywhere, "Not in every panel, for lack of logged values: {}.")
    return Drawn(figure, f"Score at the milestones against cost, {seeds_text(arms, bands=False)}.{absent}{clock}")


def _cost(arm: Arm, cost: str) -> pd.Series:
    """`cost` by step. Images follow from step and batch size if the run did not log them."""
    values = curve(arm, cost)
    batch = arm.config.get("data.batch_size")
    if cost == "train/images_seen" and values.empty and isinstance(batch, int):
        steps = curve(arm, "val/fid").index
        return pd.Series(steps.to_numpy(dtype=float) * batch, index=steps)
    return values


def _against(arm: Arm, score: str, cost: str) -> pd.DataFrame:
    return pd.concat({"cost": _cost(arm, cost), "score": curve(arm, score)}, axis=1, join="inner").sort_index()


def time_breakdown(selection: Selection, _allow_mixed: bool) -> Drawn:
    """Seconds of each arm by purpose, a mean over its runs, up to each run's last row."""
    arms, parts = selection.arms, list(_PARTS)
    spent = pd.DataFrame({arm.experiment: {part: _seconds(arm, part) for part in (*parts, "total")} for arm in arms}).T
    timed = [arm for arm in arms if spent.loc[arm.experiment, parts].any()]
    if not timed:
        raise NothingToDraw("time/... was not logged")
    spent = spent.loc[[arm.experiment for arm in timed]]
    spent["other"] = (spent["total"] - spent[parts].sum(axis=1)).clip(lower=0)
    labels = style.arm_labels(arms, selection)
    names = [style.wrapped(labels[arm.experiment], 3.2) for arm in timed]
    lines = max(name.count("\n") + 1 for name in names)
    figure, (axes,) = style.panels(1, style.WIDTH, 1.5 + max(0.42, 0.18 * lines + 0.1) * len(timed))
    left = np.zeros(len(timed))
    shades = [*map(style.colour, ("e5", "e6", "e2", "e3", "e7a", "e4")), "lightgrey"]
    for part, shade, hatch in zip((*_PARTS, "other"), shades, ("", "//", "..", "xx", "oo", "\\\\", ""), strict=True):
        if spent[part].any():
            look: dict[str, Any] = {"color": shade, "hatch": hatch, "edgecolor": "white"}
            axes.barh(range(len(timed)), spent[part], left=left, label=part, **look)
            left += spent[part]
    axes.set_yticks(range(len(timed)), names)
    axes.invert_yaxis()
    axes.set_xlabel("wall-clock (s)")
    axes.grid(visible=False, axis="y")
    style.legend(figure, axes, below=True)
    said = "; ".join(
        f"{name}: {100 * (whole - train) / whole:.0f} % of {whole:,.0f} s outside the training steps"
        for name, train, whole in zip(spent.index, spent["train"], left, strict=True)
    )
    absent = style.without(arms, timed, "Not logged in {}.")
    return Drawn(figure, f"Where the time went, {seeds_text(timed, bands=False)}. {said}.{absent}")


def _seconds(arm: Arm, part: str) -> float:
    ends = [float(values.iloc[-1]) for run in arm.runs if len(values := run.series(f"time/{part}_s"))]
    return float(np.mean(ends)) if ends else 0.0


def nfe_fid(selection: Selection, allow_mixed: bool) -> Drawn:
    """A run's last FID against the network calls of its sampler. Lines join an arm's points of one sampler.

    Protocols may differ in sampler and NFE, which the figure shows, and in nothing else.
    """
    reasons = []
    for metric in FID_METRICS:
        points, fields = _by_nfe(selection, metric)
        shown = {nfe for values in points.values() for nfe, _ in values}
        if len(shown) < 2:
            reasons.append(f"{metric} was measured at {f'NFE {min(shown):.0f} only' if shown else 'no known NFE'}")
        elif fields and not allow_mixed:
            reasons.append(f"the protocols of {metric} differ in {', '.join(fields)} too, not only in sampler and NFE")
        else:
            return _draw_nfe(selection, metric, points, fields)
    raise NothingToDraw("; ".join(reasons))


_Points = dict[tuple[str, str], list[tuple[float, float]]]


def _by_nfe(selection: Selection, metric: str) -> tuple[_Points, list[str]]:
    """(arm, sampler) -> (NFE, FID) of its runs with a known NFE; further fields in which their protocols differ."""
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
    labels = style.arm_labels(selection.arms, selection)
    figure, (axes,) = style.panels(1, style.WIDTH, 4.0)
    for (name, sampler), values in points.items():
        means = pd.DataFrame(values, columns=["nfe", "fid"]).groupby("nfe")["fid"].mean()
        axes.plot(means.index, means, label=f"{labels[name]}, sampler = {sampler}", **style.look(name, marked=True))
    axes.set(xscale="log", xlabel="NFE (network calls per image, log scale)", ylabel=style.label(metric))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    style.legend(figure, axes)
    style.note_on(figure, f"Protocols differ in {', '.join(fields)} too: not comparable." if fields else None)
    return Drawn(figure, f"Each run's last {metric} by its sampler's NFE, {seeds_text(selection.arms, bands=False)}.")
