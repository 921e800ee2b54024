"""Figures of one metric against another."""

from typing import Any

import matplotlib
import pandas as pd
from matplotlib.colors import Normalize
from matplotlib.ticker import FuncFormatter

from reports.experiments.selection import Arm, Selection
from reports.figures.curves import gathered, scatter_by_step
from reports.figures.labels import place_labels
from reports.figures.style import (
    WIDTH,
    Drawn,
    NothingToDraw,
    arm_labels,
    arms_with,
    colour,
    dash,
    label,
    legend,
    marker,
    new_figure,
    note_on,
    panels,
    seeds_text,
    step_axis,
    thousands,
    wrapped,
)
from reports.protocols import check_protocols
from reports.stats.statistics import COMMON, TRAINED, curve, rank_correlation, standard_error, weightings_differ

_LABEL_ALL = 4  # of more arms only the first and the last milestone carry their step


def curvature_vs_fid(selection: Selection, allow_mixed: bool) -> Drawn:
    """Trace against FID at the milestones, joined in order of step."""
    arms = [arm for arm in arms_with(selection.arms, TRAINED) if len(_at_milestones(arm))]
    if not arms:
        raise NothingToDraw("val/fid was not logged at any step with a trace")
    note = check_protocols(arms, "val/fid", allow_mixed)
    labels = arm_labels(arms, selection)
    figure = new_figure(WIDTH, 5.0)
    axes = figure.subplots()
    points: list[tuple[float, float, str, str]] = []
    lines: list[list[tuple[float, float]]] = []
    for arm in arms:
        table = _at_milestones(arm)
        known = table["error"].notna().all()
        axes.errorbar(
            table["trace"],
            table["fid"],
            xerr=table["error"] if known else None,
            marker=marker(arm.experiment),
            color=colour(arm.experiment),
            linestyle=dash(arm.experiment),
            label=labels[arm.experiment],
            linewidth=1.2,
            elinewidth=1.0,
            capsize=3,
        )
        spots = list(zip(map(float, table["trace"]), map(float, table["fid"]), strict=True))
        points += [
            (x, y, thousands(float(step)), colour(arm.experiment))
            for place, (step, (x, y)) in enumerate(zip(table.index, spots, strict=True))
            if len(arms) <= _LABEL_ALL or place in (0, len(spots) - 1)
        ]
        lines.append(spots)
        if known:
            errors = map(float, table["error"])
            lines += [[(x - e, y), (x + e, y)] for (x, y), e in zip(spots, errors, strict=True)]
    axes.set_xlabel(label(TRAINED))
    axes.set_ylabel(label("val/fid"))
    differ = "\nthe arms' trained losses are different functions" if weightings_differ(arms) else ""
    axes.set_title(f"Milestones in order of step (labels: step; bars: ±1 standard error of the trace){differ}")
    axes.margins(0.1)
    legend(figure, axes)
    note_on(figure, note)
    place_labels(axes, points, lines)
    return Drawn(figure, f"{_directions(arms)} {seeds_text(arms, bands=False).capitalize()}.")


def _at_milestones(arm: Arm) -> pd.DataFrame:
    """Columns trace, fid, error (NaN where unknown) at the steps that have trace and FID."""
    table = pd.concat({"trace": curve(arm, TRAINED), "fid": curve(arm, "val/fid")}, axis=1, join="inner")
    table["error"] = standard_error(arm, TRAINED).reindex(table.index)
    return table.sort_index()


def _directions(arms: list[Arm]) -> str:
    parts = []
    for arm in arms:
        table = _at_milestones(arm)
        first, last = table.iloc[0], table.iloc[-1]
        parts.append(
            f"{arm.experiment} goes from trace {first.trace:.4g} and FID {first.fid:.2f} "
            f"(step {table.index[0]}) to trace {last.trace:.4g} and FID {last.fid:.2f} "
            f"(step {table.index[-1]})"
        )
    return "; ".join(parts) + "."


def trained_vs_common_trace(selection: Selection, _allow_mixed: bool) -> Drawn:
    """Per arm the trace of what it trains on against the trace of the unweighted loss, and their ratio by step.

    Where only the scale differs, the ratio is the weights' mean (drawn where it was logged) throughout.
    """
    arms = [arm for arm in arms_with(selection.arms, COMMON) if len(curve(arm, TRAINED))]
    if not arms:
        raise NothingToDraw(f"{TRAINED} was not logged beside {COMMON}")
    labels = arm_labels(selection.arms, selection)
    figure, (left, right) = panels(2, 4.6, 4.0)
    parts = []
    for arm in arms:
        trained, common = curve(arm, TRAINED), curve(arm, COMMON)
        ratio = (trained / common.where(common != 0)).dropna()
        if ratio.empty:
            continue
        shade = colour(arm.experiment)
        points: dict[str, Any] = {"marker": marker(arm.experiment), "markersize": 4, "alpha": 0.7, "linestyle": "none"}
        left.plot(common, trained.reindex(common.index), color=shade, rasterized=len(common) > 1000, **points)
        look: dict[str, Any] = {"color": shade, "linestyle": dash(arm.experiment), "linewidth": 1.4}
        right.plot(ratio.index, ratio, label=labels[arm.experiment], **look)
        weight = curve(arm, "loss/mean_weight")
        said = ""
        if len(weight):
            right.axhline(float(weight.iloc[0]), color=shade, linestyle=":", linewidth=1)
            said = f", its mean weight being {weight.iloc[0]:.3f}"
        parts.append(f"{arm.experiment} {ratio.median():.3f} (median){said}")
    ends = [*left.get_xlim(), *left.get_ylim()]
    left.plot([min(ends), max(ends)], [min(ends), max(ends)], color="grey", linewidth=1, zorder=1)
    left.set(xlabel=label(COMMON), ylabel=label(TRAINED), title="Each point: one measurement (line: equal traces)")
    right.set(ylabel="trace of trained loss /\ntrace of unweighted loss", title="Their ratio (dotted: mean weight)")
    step_axis(right, arms)
    legend(figure, right, below=True)
    return Drawn(figure, f"Trace of the trained loss over that of the unweighted one: {'; '.join(parts)}.")


def trace_mean_vs_std(selection: Selection, _allow_mixed: bool) -> Drawn:
    """Mean against std over the probes, coloured by step, a panel per arm."""
    std = TRAINED.replace("_mean", "_std")
    return _by_step(selection, TRAINED, std, "Each point is one measurement: its mean and its std over the probes")


def trace_vs_gradient(selection: Selection, _allow_mixed: bool) -> Drawn:
    """Gradient size against trace, coloured by step, a panel per arm."""
    return _by_step(selection, "train/grad_abs_mean", TRAINED, "Each point is one logged step: gradient size and trace")


def _by_step(selection: Selection, x: str, y: str, what: str) -> Drawn:
    tables: list[tuple[Arm, list[pd.DataFrame]]] = []
    for arm in selection.arms:
        per_run = [pd.concat({"x": run.series(x), "y": run.series(y)}, axis=1, join="inner") for run in arm.runs]
        per_run = [table for table in per_run if len(table)]
        if per_run:
            tables.append((arm, per_run))
    if not tables:
        names = ", ".join(arm.experiment for arm in selection.arms)
        raise NothingToDraw(f"no run of {names} logged {x} and {y} at the same step")
    arms = [arm for arm, _ in tables]
    labels = arm_labels(selection.arms, selection)
    ends = [step for _, per_run in tables for table in per_run for step in (table.index[0], table.index[-1])]
    norm = Normalize(min(ends), max(ends))

    width = 5.6 if len(arms) == 1 else 4.2 if len(arms) < 4 else 3.4
    figure, row = panels(len(arms), width, 4.3 if len(arms) < 4 else 3.4, sharex=True, sharey=True)
    for axes, (arm, per_run) in zip(row, tables, strict=True):
        points = pd.concat(per_run)
        scatter_by_step(axes, points["x"].to_numpy(), points["y"].to_numpy(), points.index.to_numpy(), norm)
        axes.set_title(wrapped(labels[arm.experiment], width))
        axes.set_xlabel(label(x))
        if x == "train/grad_abs_mean":
            axes.ticklabel_format(axis="x", style="sci", scilimits=(0, 0))
    for axes in row:
        if axes.get_subplotspec().is_first_col():  # type: ignore[union-attr]
            axes.set_ylabel(label(y))
    colours = matplotlib.cm.ScalarMappable(norm=norm, cmap="viridis")
    bar = figure.colorbar(colours, ax=list(row), label="step", format=FuncFormatter(thousands))
    bar.outline.set_visible(False)
    correlation = "; ".join(_correlation(arm, pd.concat(per_run, ignore_index=True)) for arm, per_run in tables)
    if any(gathered(sum(map(len, per_run))) for _, per_run in tables):
        what += "; very many points are gathered in cells, coloured by their mean step"
    without = [arm.experiment for arm in selection.arms if arm not in arms]
    absent = f" Not logged in {', '.join(without)}." if without else ""
    return Drawn(figure, f"{what}. Rank correlation (Spearman): {correlation}.{absent}")


def _correlation(arm: Arm, table: pd.DataFrame) -> str:
    found = rank_correlation(table["x"], table["y"])
    return f"{arm.experiment} {'not defined' if found is None else f'{found:+.2f}'} over {len(table)} points"
