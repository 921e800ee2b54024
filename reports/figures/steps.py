"""Figures with the step on the x-axis."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation

from reports.experiments.selection import PREDICTIONS_DIFFER, Arm, Selection, differing_predictions, differing_schedules
from reports.figures import style
from reports.figures.curves import band, plot_line, plot_smoothed, raw_points, smooth, smoothing_text, smoothing_window
from reports.figures.style import Drawn, NothingToDraw, arms_with, label, seeds_text
from reports.protocols import check_protocols, protocol_difference
from reports.stats.statistics import COMMON, NEUTRAL, TRAINED, at_end, curve, standard_error, unlike, weightings_differ

_CEILING_SHOWN = 2.0  # times the highest FID: a line further up would squeeze the curves


def loss_fid_vs_step(selection: Selection, allow_mixed: bool) -> Drawn:
    """Loss above, FID below: milestones as markers, the final evaluation as stars, for all arms."""
    arms = arms_with(selection.arms, "train/loss")
    scored = [arm for arm in arms if len(curve(arm, "val/fid")) or at_end(arm, "final/fid")]
    labels = style.arm_labels(arms, selection)
    rows, height = (2, 3.1) if scored else (1, 3.6)
    figure, (top, *below) = style.panels(rows, style.WIDTH, height, most=1, sharex=True)
    for arm in arms:
        plot_smoothed(top, arm, "train/loss", labels[arm.experiment])
    differ = "\nthe arms optimise differently weighted losses" if weightings_differ(arms) else ""
    top.set(
        ylabel=style.log_if_wide(top, arms, "train/loss"),
        title=f"Training loss ({smoothing_text(arms, 'train/loss')}){differ}",
    )
    for axes in below:
        for arm in scored:
            plot_line(axes, arm, "val/fid", "_nolegend_")
        _plot_finals(axes, scored)
        finals = any(at_end(arm, "final/fid") for arm in scored)
        stars = "; stars, side by side at the last step: final evaluation" if finals else ""
        axes.set(ylabel=label("val/fid"), title=f"FID (markers: milestones{stars})")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="best")
    style.step_axis([top, *below][-1], arms)
    style.legend(figure, top)
    style.note_on(figure, *(check_protocols(arms, metric, allow_mixed) for metric in ("val/fid", "final/fid")))
    caption = f"Training loss{' and FID' if scored else ''} by step, {seeds_text(arms)}."
    return Drawn(figure, caption + _fid_sentence(scored))


def _plot_finals(axes: Axes, arms: Sequence[Arm]) -> None:
    """Stars at the last step, a star's width apart so that they do not hide each other.

    The legend says if their protocol is not the milestones'.
    """
    final = [arm for arm in arms if at_end(arm, "final/fid")]
    stars = {"marker": "*", "markersize": 14, "markeredgecolor": "black", "linestyle": "none"}
    for place, arm in enumerate(final):
        apart = min(12, 72 / len(final)) / 72
        aside = ScaledTranslation((place - (len(final) - 1) / 2) * apart, 0, axes.figure.dpi_scale_trans)
        values = at_end(arm, "final/fid")
        look: dict[str, Any] = {**stars, "color": style.colour(arm.experiment), "transform": axes.transData + aside}
        axes.plot([arm.last_step] * len(values), values, clip_on=False, zorder=5, **look)
        # moved points do not count towards the axis limits
        axes.update_datalim([(arm.last_step, value) for value in values])
    axes.autoscale_view()
    if final:
        runs = [run for arm in final for run in arm.runs]
        other = any(run.protocol_of("final/fid") != run.protocol_of("val/fid") for run in runs)
        text = "final FID" + (" (another protocol than the milestones')" if other else "")
        axes.plot([], [], color="white", label=text, **stars)  # type: ignore[arg-type]


def _fid_sentence(arms: Sequence[Arm]) -> str:
    parts = []
    for arm in arms:
        values = curve(arm, "val/fid")
        if len(values):
            ends = dict.fromkeys((0, len(values) - 1))
            said = " and ".join(f"{values.iloc[end]:.2f} at {values.index[end]}" for end in ends)
            parts.append(f"{arm.experiment} {said}")
    return f" FID at the first and last milestone: {'; '.join(parts)}." if parts else ""


def fid_vs_step(selection: Selection, allow_mixed: bool) -> Drawn:
    """Milestone FID of the arms and of the context arms measured under the same protocol."""
    arms = arms_with(selection.arms, "val/fid")
    reasons = {arm: context_reason(arm, arms) for arm in selection.context}
    shown = [*(arm for arm, reason in reasons.items() if not reason), *arms]
    labels = style.arm_labels(shown, selection)
    figure, (axes,) = style.panels(1, style.WIDTH, 4.0)
    for arm in shown:
        plot_line(axes, arm, "val/fid", labels[arm.experiment])
    for floor in sorted(_ends(shown, "val/fid_floor")):
        axes.axhline(floor, color="black", linestyle=":", linewidth=1, label=f"as many real images: {floor:.2f}")
    ceilings = sorted(_ends(shown, "val/fid_ceiling"))
    for ceiling in ceilings:
        if ceiling < _CEILING_SHOWN * max(curve(arm, "val/fid").max() for arm in shown):
            axes.axhline(ceiling, color="black", linestyle="-.", linewidth=1, label=f"uniform noise: {ceiling:.2f}")
    axes.set_ylabel(label("val/fid"))
    style.step_axis(axes, shown)
    style.legend(figure, axes)
    style.note_on(figure, check_protocols(arms, "val/fid", allow_mixed))
    said = [f"FID at the milestones, {seeds_text(shown)}." + _fid_sentence(shown)]
    if any(len(arm.runs) == 1 and len(standard_error(arm, "val/fid")) for arm in shown):
        said.append("Bars: 95 % interval of a single seed's value from the noise of its samples.")
    said += [f"Uniform noise scores {ceiling:.2f}." for ceiling in ceilings]
    said += [f"{arm.experiment} is left out: {reason}." for arm, reason in reasons.items() if reason]
    return Drawn(figure, " ".join(said))


def _ends(arms: Sequence[Arm], metric: str) -> set[float]:
    """What real images, or noise, score: one number for each of the runs' protocols."""
    ends = [run.series(metric) for arm in arms for run in arm.runs]
    return {round(float(end.iloc[-1]), 6) for end in ends if len(end)}


def context_reason(context: Arm, arms: Sequence[Arm]) -> str | None:
    """Why a context arm is not shown beside `arms`; None if it is."""
    if curve(context, "val/fid").empty:
        return "no val/fid was logged"
    difference = protocol_difference([context, arms[0]], "val/fid")
    return f"another FID protocol: {difference}" if difference else None


def curvature_vs_step(selection: Selection, _allow_mixed: bool) -> Drawn:
    """The trace of each arm's trained loss; below it, if logged, those of the common unweighted loss and of the neutral
    loss."""
    arms = arms_with(selection.arms, TRAINED)
    metrics = [TRAINED] + [metric for metric in (COMMON, NEUTRAL) if any(len(curve(arm, metric)) for arm in arms)]
    labels = style.arm_labels(arms, selection)
    figure, rows = style.panels(len(metrics), style.WIDTH, 3.9, most=1, sharex=True)
    for axes, metric in zip(rows, metrics, strict=True):
        for arm in arms:
            if len(curve(arm, metric)):
                _plot_trace(axes, arm, metric, labels[arm.experiment])
        axes.set(ylabel=label(metric), title=_trace_title(metric, arms))
    style.step_axis(rows[-1], arms)
    style.legend(figure, rows[0], loc="upper right")
    missing = "" if COMMON in metrics else " The trace of the common unweighted loss was not logged."
    if NEUTRAL not in metrics and (differ := differing_schedules([arm.config for arm in arms])):
        missing += f" The schedules differ ({differ}), and the trace of the neutral loss was not logged."
    return Drawn(figure, f"Hutchinson trace by step, {seeds_text(arms, bands=False)}; {_band_text(arms)}.{missing}")


def _trace_title(metric: str, arms: Sequence[Arm]) -> str:
    other = differing_predictions([arm.config for arm in arms])
    if metric == COMMON:
        whose = "the same in every arm, as all have one schedule"
        if unlike(arms):
            whose = f"each arm's own, as they differ in {', '.join(unlike(arms))}"
        return f"Common unweighted loss: {whose}\n({_band_text(arms)})"
    if metric == NEUTRAL:
        same = PREDICTIONS_DIFFER if other else "the same under every schedule"
        return f"Neutral loss (log SNR uniform): {same}\n({_band_text(arms)})"
    differ = "\nthe arms' trained losses are different functions: part of the gap is the weighting's scale"
    differ = f"\n{PREDICTIONS_DIFFER}" if other else differ if weightings_differ(arms) else ""
    return f"Trained loss ({_band_text(arms)}){differ}"


def _band_text(arms: Sequence[Arm]) -> str:
    """What the band around a trace is."""
    several, single = ([arm for arm in arms if (len(arm.runs) > 1) is many] for many in (True, False))
    parts = ["points: every seed; band: 95 % bootstrap interval over seeds"] if several else []
    if any(len(standard_error(arm, TRAINED)) for arm in single):
        who = f" for {', '.join(arm.experiment for arm in single)}" if several else ""
        parts.append(f"band{who}: ±1 standard error over the probes")
    return "; ".join(parts) or "no error bars, as no error is known"


def _plot_trace(axes: Axes, arm: Arm, metric: str, text: str) -> None:
    """Measurements with their error band: over seeds, or for one seed over its probes."""
    values = curve(arm, metric)
    dense = len(values) > 200  # a line through all measurements would be a black bar
    window = smoothing_window(len(values)) if dense else 1
    pooled = dense or len(arm.runs) > 1
    if pooled:
        raw_points(axes, arm, metric)
    look = style.look(arm.experiment) | {"linewidth": 1.0, "markersize": 4, "marker": "" if pooled else "."}
    line = smooth(values, window)
    axes.plot(line.index, line, label=text, zorder=3, **look)
    band(axes, arm, metric, window)
    error = standard_error(arm, metric)
    if len(error) and len(arm.runs) == 1:
        error = smooth(error.reindex(values.index), window)
        axes.fill_between(values.index, line - error, line + error, color=look["color"], alpha=0.25, linewidth=0)


def curvature_with_loss(selection: Selection, _allow_mixed: bool) -> Drawn:
    """Trace above loss over the same steps, a column for each arm that has the trace."""
    arms = arms_with(selection.arms, TRAINED)
    if all(curve(arm, "train/loss").empty for arm in arms):
        raise NothingToDraw("train/loss was not logged beside the trace")
    labels = style.arm_labels(selection.arms, selection)
    columns = min(len(arms), 4)
    blocks = -(-len(arms) // columns)
    width = style.WIDTH if len(arms) == 1 else 4.2 if len(arms) < 4 else 3.4
    figure = style.new_figure(columns * width, 5.6 * blocks)
    grid = figure.subplots(2 * blocks, columns, sharey=False, squeeze=False)
    for place, arm in enumerate(arms):
        top, bottom = grid[2 * (place // columns) : 2 * (place // columns) + 2, place % columns]
        _plot_trace(top, arm, TRAINED, "_nolegend_")
        plot_smoothed(bottom, arm, "train/loss", "_nolegend_")
        top.set_title(style.wrapped(labels[arm.experiment], width))
        for axes in (top, bottom):
            style.step_axis(axes, [arm])
        top.set_xlabel("")
    for place in range(len(arms), blocks * columns):
        for axes in grid[-2:, place % columns]:
            axes.remove()
    _share_rows(grid, arms, columns)
    absent = style.without(selection.arms, arms, "No trace was logged in {}.")
    above = f"Above, the trace of the trained loss ({_band_text(arms)})"
    below = f"below, train/loss ({smoothing_text(arms, 'train/loss')})"
    return Drawn(figure, f"{above}; {below}; {seeds_text(arms, bands=False)}.{absent}")


def _share_rows(grid: Any, arms: Sequence[Arm], columns: int) -> None:
    """One y-axis for all traces and one for all losses, labelled at the left of each row."""
    for kind, metric in enumerate((TRAINED, "train/loss")):
        drawn = [axes for row in grid[kind::2] for axes in row if axes.figure is not None]
        text = style.log_if_wide(drawn[0], arms, metric) if kind else label(metric)
        ends = [end for axes in drawn for end in axes.get_ylim()]
        for axes in drawn:
            axes.set_yscale(drawn[0].get_yscale())
        if kind and drawn[0].get_yscale() == "log":
            ends = [end for axes in drawn for end in axes.get_ylim() if end > 0]
        for axes in drawn:
            axes.set_ylim(min(ends), max(ends))
        for row in grid[kind::2]:
            if row[0].figure is not None:
                row[0].set_ylabel(text)
            for axes in row[1:]:
                axes.tick_params(labelleft=False, which="both")


_SMALL = ("train/loss", "val/fid", "train/grad_global_L2", TRAINED)


def small_multiples(selection: Selection, allow_mixed: bool) -> Drawn:
    """Loss, FID, gradient norm and trace over the same steps, a panel each, all arms in each."""
    found = {metric: [arm for arm in selection.arms if len(curve(arm, metric))] for metric in _SMALL}
    shown = [metric for metric in _SMALL if found[metric]]
    if len(shown) < 2:
        raise NothingToDraw(f"fewer than two of {', '.join(_SMALL)} were logged")
    labels = style.arm_labels(selection.arms, selection)
    figure, row = style.panels(len(shown), 4.3, 2.9, most=2)
    for axes, metric in zip(row, shown, strict=True):
        arms = found[metric]
        draw = plot_line if metric == "val/fid" else plot_smoothed
        for arm in arms:
            draw(axes, arm, metric, labels[arm.experiment])
        if metric != "val/fid":
            axes.set_title(style.wrapped(smoothing_text(arms, metric), 4.8), fontsize=8.5)
        axes.set_ylabel(style.log_if_wide(axes, arms, metric) if metric == "train/loss" else label(metric))
        style.step_axis(axes, arms)
    style.legend_below(figure, row)
    style.note_on(figure, check_protocols(found["val/fid"], "val/fid", allow_mixed))
    differ = " The arms optimise differently weighted losses." if weightings_differ(selection.arms) else ""
    if differing_predictions([arm.config for arm in selection.arms]):
        differ += f" Traces do not compare: {PREDICTIONS_DIFFER}."
    absent = [metric for metric in _SMALL if metric not in shown]
    missing = f" Not logged: {', '.join(absent)}." if absent else ""
    return Drawn(figure, f"{', '.join(shown)} by step; {seeds_text(selection.arms)}.{differ}{missing}")
