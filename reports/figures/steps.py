"""Figures with the step on the x-axis."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation

from reports.experiments.choice import Arm, Selection
from reports.figures.style import (
    WIDTH,
    Drawn,
    NothingToDraw,
    arm_labels,
    arms_with,
    band,
    colour,
    label,
    log_if_wide,
    marker,
    new_figure,
    note_on,
    plot_smoothed,
    seeds_text,
    smoothing_text,
    step_axis,
)
from reports.statistics import (
    COMMON,
    TRAINED,
    at_end,
    check_protocols,
    curve,
    protocol_difference,
    standard_error,
    weightings_differ,
)


def loss_fid_vs_step(selection: Selection, allow_mixed: bool) -> Drawn:
    """Loss above, FID below: milestones as markers, the final evaluation as stars, for all arms."""
    arms = arms_with(selection.arms, "train/loss")
    scored = [arm for arm in arms if len(curve(arm, "val/fid")) or at_end(arm, "final/fid")]
    notes = [check_protocols(arms, metric, allow_mixed) for metric in ("val/fid", "final/fid")]
    labels = arm_labels(arms, selection)
    figure = new_figure(WIDTH, 6.2 if scored else 3.6)
    rows = figure.subplots(2 if scored else 1, 1, sharex=True, squeeze=False)[:, 0]

    windows = [plot_smoothed(rows[0], arm, "train/loss", labels[arm.experiment]) for arm in arms]
    rows[0].set_ylabel(log_if_wide(rows[0], arms, "train/loss"))
    differ = "\nthe arms optimise differently weighted losses" if weightings_differ(arms) else ""
    rows[0].set_title(f"Training loss ({smoothing_text(windows)}){differ}")
    rows[0].legend(loc="best")
    if scored:
        for arm in scored:
            _plot_fid(rows[1], arm, "_nolegend_")
        _plot_finals(rows[1], scored)
        rows[1].set_ylabel(label("val/fid"))
        rows[1].set_title("FID" + _milestone_title(scored))
        handles, _ = rows[1].get_legend_handles_labels()
        if handles:
            rows[1].legend(loc="best")
    step_axis(rows[-1], arms)
    note_on(figure, " ".join(note for note in notes if note) or None)
    caption = f"Training loss{' and FID' if scored else ''} by step, {seeds_text(arms)}."
    return Drawn(figure, caption + _fid_sentence(scored))


def _milestone_title(arms: Sequence[Arm]) -> str:
    finals = any(at_end(arm, "final/fid") for arm in arms)
    stars = "; stars, side by side at the last step: final evaluation" if finals else ""
    return f" (markers: milestones{stars})"


def _plot_fid(axes: Axes, arm: Arm, text: str) -> None:
    values = curve(arm, "val/fid")
    shape, shade = marker(arm.experiment), colour(arm.experiment)
    axes.plot(values.index, values, marker=shape, color=shade, label=text, zorder=3)
    band(axes, arm, "val/fid")
    if len(arm.runs) > 1:
        for run in arm.runs:
            raw = run.series("val/fid")
            axes.plot(raw.index, raw, ".", color=colour(arm.experiment), alpha=0.4, markersize=4)


def _plot_finals(axes: Axes, arms: Sequence[Arm]) -> None:
    """Stars at the last step, a star's width apart so that arms do not hide each other.

    The legend says where their protocol is another than the milestones'.
    """
    final = [arm for arm in arms if at_end(arm, "final/fid")]
    stars: dict[str, Any] = {"marker": "*", "markersize": 14, "markeredgecolor": "black"}
    for place, arm in enumerate(final):
        aside = ScaledTranslation((place - (len(final) - 1) / 2) * 12 / 72, 0, axes.figure.dpi_scale_trans)
        values = at_end(arm, "final/fid")
        axes.plot(
            [arm.last_step] * len(values),
            values,
            color=colour(arm.experiment),
            linestyle="none",
            transform=axes.transData + aside,
            zorder=5,
            **stars,
        )
        # moved points do not count towards the axis limits
        axes.update_datalim([(arm.last_step, value) for value in values])
    axes.autoscale_view()
    if final:
        runs = [run for arm in final for run in arm.runs]
        other = any(run.protocol_of("final/fid") != run.protocol_of("val/fid") for run in runs)
        text = "final FID" + (" (another protocol than the milestones')" if other else "")
        axes.plot([], [], color="white", linestyle="none", label=text, **stars)


def _fid_sentence(arms: Sequence[Arm]) -> str:
    parts = []
    for arm in arms:
        values = curve(arm, "val/fid")
        if len(values):
            parts.append(
                f"{arm.experiment} {values.iloc[0]:.2f} at {values.index[0]} "
                f"and {values.iloc[-1]:.2f} at {values.index[-1]}"
            )
    return f" FID at the first and last milestone: {'; '.join(parts)}." if parts else ""


def fid_vs_step(selection: Selection, allow_mixed: bool) -> Drawn:
    """Milestone FID of the arms and of the context arms measured under the same protocol."""
    arms = arms_with(selection.arms, "val/fid")
    note = check_protocols(arms, "val/fid", allow_mixed)
    context = [arm for arm in selection.context if not context_reason(arm, arms)]
    shown = [*context, *arms]
    labels = arm_labels(shown, selection)
    figure = new_figure(WIDTH, 4.0)
    axes = figure.subplots()
    for arm in shown:
        _plot_fid(axes, arm, labels[arm.experiment])
    for floor in sorted(_floors(shown)):
        axes.axhline(floor, color="black", linestyle=":", linewidth=1, label=f"as many real images: {floor:.2f}")
    axes.set_ylabel(label("val/fid"))
    step_axis(axes, shown)
    axes.legend(loc="best")
    note_on(figure, note)
    out = [f"{arm.experiment} is left out: {context_reason(arm, arms)}." for arm in selection.context]
    out = [text for text, arm in zip(out, selection.context, strict=True) if context_reason(arm, arms)]
    return Drawn(figure, " ".join([f"FID at the milestones, {seeds_text(shown)}." + _fid_sentence(shown), *out]))


def _floors(arms: Sequence[Arm]) -> set[float]:
    """What real images score under the runs' protocols: one number, unless the protocols are several."""
    floors = [run.series("val/fid_floor") for arm in arms for run in arm.runs]
    return {round(float(floor.iloc[-1]), 6) for floor in floors if len(floor)}


def context_reason(context: Arm, arms: Sequence[Arm]) -> str | None:
    """Why a context arm is not shown beside `arms`; None where it is."""
    if curve(context, "val/fid").empty:
        return "no val/fid was logged"
    difference = protocol_difference([context, arms[0]], "val/fid")
    return f"another FID protocol: {difference}" if difference else None


def curvature_vs_step(selection: Selection, _allow_mixed: bool) -> Drawn:
    """The trace of each arm's trained loss; below it, where logged, that of the common unweighted loss."""
    arms = arms_with(selection.arms, TRAINED)
    metrics = [TRAINED] + ([COMMON] if any(len(curve(arm, COMMON)) for arm in arms) else [])
    labels = arm_labels(arms, selection)
    figure = new_figure(WIDTH, 3.9 * len(metrics))
    rows = figure.subplots(len(metrics), 1, sharex=True, squeeze=False)[:, 0]
    banded = False
    for axes, metric in zip(rows, metrics, strict=True):
        for arm in arms:
            if len(curve(arm, metric)):
                banded |= _plot_trace(axes, arm, metric, labels[arm.experiment])
        axes.set_ylabel(label(metric))
        axes.legend(loc="upper right")
        axes.set_title(_trace_title(metric, arms))
    step_axis(rows[-1], arms)
    error = ", with ±1 standard error over the probes" if banded else ", without error bars: none known"
    missing = "" if COMMON in metrics else " The trace of the common unweighted loss was not logged."
    return Drawn(figure, f"Hutchinson trace by step{error}, {seeds_text(arms)}.{missing}")


def _trace_title(metric: str, arms: Sequence[Arm]) -> str:
    if metric == COMMON:
        return "Common unweighted loss: the same function in every arm (band: ±1 standard error)"
    title = "Trained loss (points and line: measurements; band: ±1 standard error)"
    if weightings_differ(arms):
        title += "\nthe arms' trained losses are different functions: part of the gap is the weighting's scale"
    return title


def _plot_trace(axes: Axes, arm: Arm, metric: str, text: str) -> bool:
    """Raw measurements with their error band; whether there was one."""
    values, error = curve(arm, metric), standard_error(arm, metric)
    shade = colour(arm.experiment)
    axes.plot(values.index, values, ".-", color=shade, linewidth=1.0, markersize=4, label=text, zorder=3)
    band(axes, arm, metric)
    if error.empty:
        return False
    error = error.reindex(values.index)
    axes.fill_between(values.index, values - error, values + error, color=shade, alpha=0.25, linewidth=0)
    return True


def curvature_with_loss(selection: Selection, _allow_mixed: bool) -> Drawn:
    """Trace above loss over the same steps, one column per arm that has the trace."""
    arms = arms_with(selection.arms, TRAINED)
    labels = arm_labels(selection.arms, selection)
    figure = new_figure(WIDTH if len(arms) == 1 else 4.8 * len(arms), 6.0)
    grid = figure.subplots(2, len(arms), sharex="col", sharey="row", squeeze=False)
    windows = []
    for column, arm in enumerate(arms):
        top, bottom = grid[:, column]
        _plot_trace(top, arm, TRAINED, "_nolegend_")
        windows.append(plot_smoothed(bottom, arm, "train/loss", "_nolegend_"))
        top.set_title(labels[arm.experiment])
        step_axis(bottom, [arm])
    if all(curve(arm, "train/loss").empty for arm in arms):
        raise NothingToDraw("train/loss was not logged beside the trace")
    for column, window in enumerate(windows):
        grid[1, column].set_title(smoothing_text([window]), fontsize=9)
    grid[0, 0].set_ylabel(label(TRAINED))
    grid[1, 0].set_ylabel(log_if_wide(grid[1, 0], arms, "train/loss"))
    without = [arm.experiment for arm in selection.arms if arm not in arms]
    absent = f" No trace was logged in {', '.join(without)}." if without else ""
    return Drawn(
        figure,
        f"Above, the trace of the trained loss with ±1 standard error; below, train/loss "
        f"({smoothing_text(windows)}); {seeds_text(arms)}.{absent}",
    )
