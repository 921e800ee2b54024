"""Figures of one metric against another."""

import matplotlib
import pandas as pd
from matplotlib.colors import Normalize
from matplotlib.ticker import FuncFormatter

from reports.experiments.selection import PREDICTIONS_DIFFER, Arm, Selection, differing_predictions, differing_schedules
from reports.figures import style
from reports.figures.curves import gathered, scatter_by_step
from reports.figures.place_labels import place_labels
from reports.figures.style import Drawn, NothingToDraw, label
from reports.protocols import check_protocols
from reports.stats.statistics import (
    COMMON,
    NEUTRAL,
    TRAINED,
    curve,
    rank_correlation,
    standard_error,
    weightings_differ,
)

_LABEL_ALL = 4  # with more arms, only the first and the last milestone are labelled


def curvature_vs_fid(selection: Selection, allow_mixed: bool) -> Drawn:
    """Trace against FID at the milestones, joined in order of step: of the trained loss, or of the neutral loss if the
    schedules differ."""
    differ = differing_schedules([arm.config for arm in selection.arms])
    metric = NEUTRAL if differ else TRAINED
    if differ and not any(len(curve(arm, NEUTRAL)) for arm in selection.arms):
        raise NothingToDraw(
            f"the schedules differ ({differ}), so each arm's trace is of another function, and {NEUTRAL}, which would "
            "compare them, was not logged"
        )
    tables = {arm: _at_milestones(arm, metric) for arm in style.arms_with(selection.arms, metric)}
    tables = {arm: table for arm, table in tables.items() if len(table)}
    if not tables:
        raise NothingToDraw("val/fid was not logged at any step with a trace")
    arms = list(tables)
    labels = style.arm_labels(arms, selection)
    figure, (axes,) = style.panels(1, style.WIDTH, 5.0)
    points: list[tuple[float, float, str, str]] = []
    lines: list[list[tuple[float, float]]] = []
    moves = []
    for arm, table in tables.items():
        name, known = arm.experiment, table["error"].notna().all()
        look = style.look(name, marked=True) | {"linewidth": 1.2, "elinewidth": 1.0, "capsize": 3}
        error = table["error"] if known else None
        axes.errorbar(table["trace"], table["fid"], xerr=error, label=labels[name], **look)
        spots = list(zip(map(float, table["trace"]), map(float, table["fid"]), strict=True))
        labelled = range(len(spots)) if len(tables) <= _LABEL_ALL else {0, len(spots) - 1}
        points += [(*spots[i], style.thousands(float(table.index[i])), style.colour(name)) for i in sorted(labelled)]
        lines.append(spots)
        if known:
            lines += [[(x - e, y), (x + e, y)] for (x, y), e in zip(spots, map(float, table["error"]), strict=True)]
        ends = [f"trace {spots[i][0]:.4g} and FID {spots[i][1]:.2f} (step {table.index[i]})" for i in (0, -1)]
        moves.append(f"{name} goes from {ends[0]} to {ends[1]}")
    axes.set(xlabel=label(metric), ylabel=label("val/fid"))
    note = "\nthe arms' trained losses are different functions" if weightings_differ(arms) else ""
    if differ:
        note = "\nneutral loss: the same under every schedule, while the trained losses are different functions"
    if differing_predictions([arm.config for arm in arms]):
        note += f"\n{PREDICTIONS_DIFFER}"
    axes.set_title(f"Milestones in order of step (labels: step; bars: ±1 standard error of the trace){note}")
    axes.margins(0.1)
    style.legend(figure, axes)
    style.note_on(figure, check_protocols(arms, "val/fid", allow_mixed))
    place_labels(axes, points, lines)
    return Drawn(figure, f"{'; '.join(moves)}. {style.seeds_text(arms, bands=False).capitalize()}.")


def _at_milestones(arm: Arm, metric: str) -> pd.DataFrame:
    """Columns trace, fid, error (NaN if unknown) at the steps that have trace and FID."""
    table = pd.concat({"trace": curve(arm, metric), "fid": curve(arm, "val/fid")}, axis=1, join="inner")
    table["error"] = standard_error(arm, metric).reindex(table.index)
    return table.sort_index()


def trained_vs_common_trace(selection: Selection, _allow_mixed: bool) -> Drawn:
    """Each arm's trace of its trained loss against that of the unweighted loss, and their ratio by step.

    If only the scale differs, the ratio is the mean weight throughout (drawn if it was logged).
    """
    arms = [arm for arm in style.arms_with(selection.arms, COMMON) if len(curve(arm, TRAINED))]
    if not arms:
        raise NothingToDraw(f"{TRAINED} was not logged beside {COMMON}")
    labels = style.arm_labels(selection.arms, selection)
    figure, (left, right) = style.panels(2, 4.6, 4.0)
    parts = []
    for arm in arms:
        trained, common = curve(arm, TRAINED), curve(arm, COMMON)
        ratio = (trained / common.where(common != 0)).dropna()
        if ratio.empty:
            continue
        look = style.look(arm.experiment)
        points = {"marker": style.marker(arm.experiment), "markersize": 4, "alpha": 0.7, "linestyle": "none"}
        left.plot(common, trained.reindex(common.index), rasterized=len(common) > 1000, **(look | points))
        right.plot(ratio.index, ratio, label=labels[arm.experiment], linewidth=1.4, **look)
        weight = curve(arm, "loss/mean_weight")
        said = ""
        if len(weight):
            right.axhline(float(weight.iloc[0]), color=look["color"], linestyle=":", linewidth=1)
            said = f", mean weight {weight.iloc[0]:.3f}"
        parts.append(f"{arm.experiment} {ratio.median():.3f} (median){said}")
    ends = [*left.get_xlim(), *left.get_ylim()]
    left.plot([min(ends), max(ends)], [min(ends), max(ends)], color="grey", linewidth=1, zorder=1)
    title = "Each point: one measurement (line: equal traces)"
    if differing_schedules([arm.config for arm in arms]):
        title += "\nthe losses of different schedules are different functions"
    left.set(xlabel=label(COMMON), ylabel=label(TRAINED), title=title)
    right.set(ylabel="trace of trained loss /\ntrace of unweighted loss", title="Their ratio (dotted: mean weight)")
    style.step_axis(right, arms)
    style.legend(figure, right, below=True)
    return Drawn(figure, f"Trace of the trained loss divided by that of the unweighted loss: {'; '.join(parts)}.")


def trace_mean_vs_std(selection: Selection, _allow_mixed: bool) -> Drawn:
    """Mean against std over the probes, coloured by step, a panel for each arm."""
    std = TRAINED.replace("_mean", "_std")
    return _by_step(selection, TRAINED, std, "Each point is one measurement: its mean and its std over the probes")


def trace_vs_gradient(selection: Selection, _allow_mixed: bool) -> Drawn:
    """Gradient size against trace, coloured by step, a panel for each arm."""
    return _by_step(selection, "train/grad_abs_mean", TRAINED, "Each point is one logged step: gradient size and trace")


def _by_step(selection: Selection, x: str, y: str, what: str) -> Drawn:
    tables: dict[Arm, pd.DataFrame] = {}
    for arm in selection.arms:
        pairs = [pd.concat({"x": run.series(x), "y": run.series(y)}, axis=1, join="inner") for run in arm.runs]
        if any(map(len, pairs)):
            tables[arm] = pd.concat([table for table in pairs if len(table)])
    if not tables:
        names = ", ".join(arm.experiment for arm in selection.arms)
        raise NothingToDraw(f"no run of {names} logged {x} and {y} at the same step")
    labels = style.arm_labels(selection.arms, selection)
    steps = [step for table in tables.values() for step in table.index]
    norm = Normalize(min(steps), max(steps))
    few = len(tables) < 4
    width = 5.6 if len(tables) == 1 else 4.2 if few else 3.4
    figure, row = style.panels(len(tables), width, 4.3 if few else 3.4, sharex=True, sharey=True)
    for axes, (arm, table) in zip(row, tables.items(), strict=True):
        scatter_by_step(axes, table["x"].to_numpy(), table["y"].to_numpy(), table.index.to_numpy(), norm)
        axes.set(xlabel=label(x), title=style.wrapped(labels[arm.experiment], width))
        if x == "train/grad_abs_mean":
            axes.ticklabel_format(axis="x", style="sci", scilimits=(0, 0))
        if axes.get_subplotspec().is_first_col():  # type: ignore[union-attr]
            axes.set_ylabel(label(y))
    colours = matplotlib.cm.ScalarMappable(norm=norm, cmap="viridis")
    bar = figure.colorbar(colours, ax=list(row), label="step", format=FuncFormatter(style.thousands))
    bar.outline.set_visible(False)
    correlation = "; ".join(_correlation(arm, table.reset_index(drop=True)) for arm, table in tables.items())
    if any(gathered(len(table)) for table in tables.values()):
        what += "; where points are very many, cells show their mean step"
    absent = style.without(selection.arms, list(tables), "Not logged in {}.")
    return Drawn(figure, f"{what}. Rank correlation (Spearman): {correlation}.{absent}")


def _correlation(arm: Arm, table: pd.DataFrame) -> str:
    found = rank_correlation(table["x"], table["y"])
    return f"{arm.experiment} {'not defined' if found is None else f'{found:+.2f}'} over {len(table)} points"
