"""The figures of docs/findings.md and docs/rerun.md."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from reports.experiments import Check
from reports.experiments.selection import Arm, Selection
from reports.figures import steps
from reports.figures.curves import smoothing_window
from reports.figures.noise_levels import plot_excess
from reports.figures.style import (
    Drawn,
    NothingToDraw,
    arm_labels,
    colour,
    dash,
    label,
    legend,
    marker,
    new_figure,
    palette,
    panels,
    step_axis,
    thousands,
)
from reports.judging.checks import estimated
from reports.stats.intervals import Estimate, half
from reports.stats.statistics import COMMON, TRAINED, curve, same_draws
from reports.studies.min_snr import against_log, fids, scores, traces
from reports.studies.min_snr.answer_tables import LATE_CHAIN, late_chain_means

_OF_SAMPLER = {scores.OLD: palette(3), scores.RESPACED: palette(2)}
_OF_LOSS = {TRAINED: (palette(7), (0, (5, 1.5))), COMMON: (palette(4), "-")}
_LOG = "#4d4d4d"
_THIN, _THICK = 0.6, 1.8


def the_point(selection: Selection, pairs: pd.DataFrame) -> Drawn:
    """Left: FID over steps for the same checkpoints by two samplers. Right: E6's trace against E5's for two losses."""
    arms = [arm for arm in selection.arms if any(_fids(arm, s) is not None for s in scores.SAMPLERS[:2])]
    both = len(selection.arms) > 1
    if not arms and not both:
        raise NothingToDraw("no checkpoint was scored, and there is only one arm")
    figure, (left, right) = panels(2, 4.9, 4.2)
    for sampler in scores.SAMPLERS[:2]:
        for arm in arms:
            _plot_fid(left, arm, sampler, f"{arm.experiment}: {scores.NAMES[sampler]}", _OF_SAMPLER[sampler])
    _ends(left, arms, scores.SAMPLERS[:2])
    left.set_ylim(bottom=0)
    left.set(ylabel=label("val/fid"), title="Same checkpoints, by sampler")
    _steps(left, selection.arms)
    if both:
        for metric in traces.LOSSES:
            _plot_relative(right, selection.arms[0], selection.arms[1], metric)
        _plot_pairs(right, pairs)
    right.axhline(0, color="black", linewidth=0.8)
    right.set(ylabel="E6's Hessian trace against E5's\n(change in %)", title="Same weights, by loss")
    _steps(right, selection.arms)
    for axes in (left, right):  # below, where it covers no curve
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2, fontsize=8)
    return Drawn(figure, "")


def answers(found: Mapping[str, Selection | None]) -> Drawn:
    """Left: FID over steps by prediction. Middle: the excess of the loss over the floor by noise level. Right:
    Min-SNR's effect on the last FID, by setting. found: the selections of the reports."""
    prediction = found["prediction"]
    if prediction is None:
        raise NothingToDraw("no run with another prediction")
    figure, (left, middle, right) = panels(3, 4.5, 4.3)
    labels = arm_labels(prediction.arms, prediction)
    for arm in prediction.arms:
        _plot_fid(left, arm, scores.RESPACED, labels[arm.experiment], colour(arm.experiment), line=dash(arm.experiment))
        _plot_late_chain(left, arm)
    _ends(left, prediction.arms, [scores.RESPACED])
    left.set(ylabel=label("val/fid"), title="FID over training")
    left.set_ylim(bottom=0)
    _steps(left, prediction.arms)
    plot_excess(middle, prediction.arms)
    middle.set(title="What the networks could know and do not")
    _plot_effects(right, found)
    legend(figure, left, below=True)
    return Drawn(figure, "")


def _plot_late_chain(axes: Axes, arm: Arm) -> None:
    """The FIDs of the same checkpoints with a chain that begins later (`late_chain_means`), dotted."""
    means, seeds = late_chain_means(arm.runs)
    if means:
        text = f"{arm.experiment}: chain begins at t = {LATE_CHAIN['t_start']} (seeds: {seeds})"
        look: dict[str, Any] = {"color": colour(arm.experiment), "linestyle": ":", "marker": "o", "zorder": 4}
        steps = np.array(list(means), dtype=float)
        axes.plot(steps, list(means.values()), label=text, markersize=6, markerfacecolor="white", **look)


SETTINGS = {"e6": "eps", "e6_x0": "x_0", "e6_v": "v", "e9b": "eps, cosine betas"}


def _plot_effects(axes: Axes, found: Mapping[str, Selection | None]) -> None:
    """Min-SNR's change of the last FID in %, each seed and the interval over seeds, a row for each setting."""
    check = Check(metric="val/fid", of="change_pct", statistic="last", at_most=0)
    rows = {}
    for name, text in SETTINGS.items():
        selection = found.get(name)
        changes = estimated(check, selection) if selection else Estimate()
        if changes.number is not None and selection:
            rows[text] = changes, colour(name)
    for place, (changes, shade) in enumerate(rows.values()):
        if changes.seeds:
            axes.plot(changes.seeds, [place, place], color=shade, linewidth=1.5)
        mean = np.array([changes.number], dtype=float)
        axes.plot(mean, [place], marker="o", color=shade, markersize=7)
        each_seed = np.array(changes.per_seed)
        axes.plot(each_seed, np.full(len(each_seed), place), "k.", markersize=5, zorder=4)
    each = [value for changes, _ in rows.values() for value in (*changes.per_seed, changes.number or 0.0)]
    reach = 3 * max(map(abs, each), default=1.0)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set(xlim=(-reach, reach), xlabel="Min-SNR's change of FID (%)", title="Does Min-SNR help, by setting?")


def fid(selection: Selection) -> Drawn:
    """FID over steps for both arms, a panel for each sampler, all on one scale."""
    shown = [s for s in scores.SAMPLERS if any(_fids(arm, s) is not None for arm in selection.arms)]
    if not shown:
        raise NothingToDraw("no checkpoint was scored")
    figure, row = panels(len(shown), 3.4, 3.3)
    for axes, sampler in zip(row, shown, strict=True):
        for arm in selection.arms:
            _plot_fid(axes, arm, sampler, arm.experiment, colour(arm.experiment), aside=True)
        _ends(axes, selection.arms, [sampler])
        axes.set_title(scores.NAMES[sampler])
        _steps(axes, selection.arms)
    top = max(axes.get_ylim()[1] for axes in row)
    for axes in row:  # one scale, or small changes look as large as large ones
        axes.set_ylim(0, top)
    row[0].set_ylabel(label("val/fid"))
    row[0].legend(loc="center right")
    return Drawn(figure, "")


def samples(grids: Mapping[tuple[str, int], Path]) -> Drawn:
    """Grids of one run's samples: a row for each sampler, a column for each checkpoint, all from the same noise."""
    if not grids:
        raise NothingToDraw("the records have no grids of samples")
    rows = [sampler for sampler in scores.SAMPLERS if any(sampler == s for s, _ in grids)]
    steps = sorted({step for _, step in grids})
    figure = new_figure(2.3 * len(steps), 2.45 * len(rows))
    for place, (sampler, step) in enumerate((sampler, step) for sampler in rows for step in steps):
        axes = figure.add_subplot(len(rows), len(steps), place + 1)
        axes.set_axis_off()
        if (sampler, step) in grids:
            axes.imshow(matplotlib.image.imread(grids[sampler, step]), interpolation="nearest")
            axes.set_title(f"{scores.NAMES[sampler]}, {thousands(step)}", fontsize=9)
    return Drawn(figure, "")


def curvature(selection: Selection) -> Drawn:
    """The traces of both arms, for the trained and the common loss."""
    return steps.curvature_vs_step(selection, False)


def log(original: Arm, arms: Sequence[Arm]) -> Drawn:
    """Loss, gradient norm and trace of the original log and of our runs of the same arm."""
    names = {
        "e5": "e5: our rerun",
        "e5_study": "e5_study: with the study's time embedding and draws",
    }
    figure, row = panels(3, 3.5, 3.3)
    row[0].plot([], [], color="grey", linewidth=_THIN, label="thin: what was logged")
    windows = {_window(arm, metric) for metric in against_log.METRICS for arm in (original, *arms)} - {1}
    smooth = f"thick: its centred rolling mean, over {' or '.join(map(str, sorted(windows)))} rows"
    if any(same_draws([arm]) for arm in arms):
        smooth += "; a trace on fixed draws as logged"
    row[0].plot([], [], color="grey", linewidth=_THICK, label=smooth)
    for axes, metric in zip(row, against_log.METRICS, strict=True):
        _plot_curve(axes, original, metric, _LOG, "-", "e5: the study's log")
        for arm in arms:
            text = names.get(arm.experiment, arm.experiment)
            _plot_curve(axes, arm, metric, colour(arm.experiment), dash(arm.experiment), text)
        axes.set_ylabel(label(metric))
        _steps(axes, [original, *arms])
        if metric != TRAINED:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
    legend(figure, row[0], below=True)
    return Drawn(figure, "")


# ---- parts -----------------------------------------------------------------------------------------------


def _fids(arm: Arm, sampler: str) -> tuple[list[int], list[float], list[float]] | None:
    """(steps, means over seeds, half intervals within the runs) of the FIDs by a sampler; None if it has none."""
    at = scores.steps_of([arm], sampler)
    found = [fids.level(arm, sampler, step) for step in at]
    if not found:
        return None
    reaches = [half(each.within) if each.within else 0.0 for each in found]
    return at, [float(each.number or np.nan) for each in found], reaches


def _plot_fid(
    axes: Axes, arm: Arm, sampler: str, text: str, shade: str, *, aside: bool = False, line: Any = None
) -> None:
    """Means over seeds with their interval, and each seed's point. aside: shift the arms, whose bars would overlap.
    line: its style; without one, variants are dashed."""
    found = _fids(arm, sampler)
    if found is None:
        return
    at, values, reaches = found
    place = np.array(at, dtype=float) + (120 * (1 if arm.role == "variant" else -1) if aside else 0)
    look: dict[str, Any] = {"color": shade, "marker": marker(arm.experiment), "markersize": 5, "capsize": 2.5}
    look["linestyle"] = line or ("-" if arm.role == "baseline" else (0, (5, 1.5)))
    axes.errorbar(place, values, reaches, label=text, linewidth=1.5, elinewidth=1, zorder=3, **look)
    runs = scores.scored(arm, sampler)
    if len(runs) > 1:
        for run in runs:
            each = run.series(scores.metric(sampler)).reindex(at)
            axes.plot(place, each, linestyle="none", marker=".", markersize=4, color="black", alpha=0.6, zorder=4)


def _ends(axes: Axes, arms: Sequence[Arm], samplers: Sequence[str]) -> None:
    """The FIDs of real images and uniform noise, as labelled lines."""
    for end, text, style in (("ceiling", "uniform noise", "-."), ("floor", "real images", ":")):
        known = [run.series(f"{scores.metric(s)}_{end}") for arm in arms for run in arm.runs for s in samplers]
        values = [float(series.iloc[-1]) for series in known if len(series)]
        if values:
            axes.axhline(values[0], color="black", linestyle=style, linewidth=1, zorder=2)
            note = axes.annotate(
                f"{text}: {values[0]:.3g}",
                (0.99, values[0]),
                xycoords=("axes fraction", "data"),
                xytext=(0, 2),
                textcoords="offset points",
                ha="right",
                fontsize=8,
            )
            note.set_in_layout(False)


def _plot_relative(axes: Axes, baseline: Arm, variant: Arm, metric: str) -> None:
    """The change of the mean curves, and the range of the seeds' changes as a band."""
    mean, each = traces.relative(baseline, variant, metric)
    if mean.empty:
        return
    shade, style = _OF_LOSS[metric]
    axes.plot(mean.index, mean, color=shade, linestyle=style, linewidth=1.6, label=traces.LOSSES[metric], zorder=3)
    if len(each) > 1:
        table = pd.concat(each, axis=1, join="inner")
        axes.fill_between(table.index, table.min(axis=1), table.max(axis=1), color=shade, alpha=0.25, linewidth=0)


def _plot_pairs(axes: Axes, pairs: pd.DataFrame) -> None:
    """The draw-by-draw changes at the checkpoints, mean over seeds, with their intervals over the draws."""
    single = pairs[(pairs["seed"] != "all") & (pairs["step"] > 0)] if len(pairs) else pairs
    for place, (loss, mine) in enumerate(single.groupby("loss", sort=True) if len(single) else ()):
        means = mine.groupby("step")[["change_pct", "low_pct", "high_pct"]].mean()
        reach = (means["high_pct"] - means["low_pct"]) / 2
        shade, _ = _OF_LOSS[traces.OF_PAIRS[str(loss)]]
        look: dict[str, Any] = {"color": shade, "linestyle": "none", "marker": "D", "markersize": 4, "capsize": 3}
        text = "bars: 95 % over the draws, paired" if place == 0 else None
        axes.errorbar(means.index, means["change_pct"], reach, elinewidth=1.2, zorder=4, label=text, **look)


def _window(arm: Arm, metric: str) -> int:
    """Rows in the rolling mean over a curve; 1 for a trace on fixed draws, which has no noise from step to step."""
    return 1 if metric == TRAINED and same_draws([arm]) else smoothing_window(len(curve(arm, metric)))


def _plot_curve(axes: Axes, arm: Arm, metric: str, shade: str, style: Any, text: str) -> None:
    """A curve, thin and faint, under its rolling mean."""
    values = curve(arm, metric)
    if values.empty:
        return
    smooth = values.rolling(_window(arm, metric), center=True, min_periods=1).mean()
    axes.plot(values.index, values, color=shade, linewidth=_THIN, alpha=0.35, zorder=2)
    axes.plot(smooth.index, smooth, color=shade, linestyle=style, linewidth=_THICK, label=text, zorder=3)


def _steps(axes: Axes, arms: Sequence[Arm]) -> None:
    step_axis(axes, arms)
    axes.set_xlim(right=1.03 * max(arm.last_step for arm in arms))
    if axes.get_xscale() == "linear":
        axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(FuncFormatter(thousands))
