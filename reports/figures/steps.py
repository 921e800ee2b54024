"""Figures with the step on the x-axis."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation

from reports.experiments.selection import Arm, Selection
from reports.figures.curves import band, plot_line, plot_smoothed, raw_points, smoothing_text, smoothing_window
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
    log_if_wide,
    new_figure,
    note_on,
    panels,
    seeds_text,
    step_axis,
    wrapped,
)
from reports.protocols import check_protocols, protocol_difference
from reports.stats.statistics import (
    COMMON,
    TRAINED,
    at_end,
    curve,
    standard_error,
    unlike,
    weightings_differ,
)

_CEILING_SHOWN = 2.0  # times the highest FID: a line further up would press the curves together


def loss_fid_vs_step(selection: Selection, allow_mixed: bool) -> Drawn:
    """Loss above, FID below: milestones as markers, the final evaluation as stars, for all arms."""
    arms = arms_with(selection.arms, "train/loss")
    scored = [arm for arm in arms if len(curve(arm, "val/fid")) or at_end(arm, "final/fid")]
    notes = [check_protocols(arms, metric, allow_mixed) for metric in ("val/fid", "final/fid")]
    labels = arm_labels(arms, selection)
    figure = new_figure(WIDTH, 6.2 if scored else 3.6)
    rows = figure.subplots(2 if scored else 1, 1, sharex=True, squeeze=False)[:, 0]

    for arm in arms:
        plot_smoothed(rows[0], arm, "train/loss", labels[arm.experiment])
    rows[0].set_ylabel(log_if_wide(rows[0], arms, "train/loss"))
    differ = "\nthe arms optimise differently weighted losses" if weightings_differ(arms) else ""
    rows[0].set_title(f"Training loss ({smoothing_text(arms, 'train/loss')}){differ}")
    if scored:
        for arm in scored:
            plot_line(rows[1], arm, "val/fid", "_nolegend_")
        _plot_finals(rows[1], scored)
        rows[1].set_ylabel(label("val/fid"))
        rows[1].set_title("FID" + _milestone_title(scored))
        if rows[1].get_legend_handles_labels()[0]:
            rows[1].legend(loc="best")
    step_axis(rows[-1], arms)
    legend(figure, rows[0])
    note_on(figure, " ".join(note for note in notes if note) or None)
    caption = f"Training loss{' and FID' if scored else ''} by step, {seeds_text(arms)}."
    return Drawn(figure, caption + _fid_sentence(scored))


def _milestone_title(arms: Sequence[Arm]) -> str:
    finals = any(at_end(arm, "final/fid") for arm in arms)
    stars = "; stars, side by side at the last step: final evaluation" if finals else ""
    return f" (markers: milestones{stars})"


def _plot_finals(axes: Axes, arms: Sequence[Arm]) -> None:
    """Stars at the last step, a star's width apart so that arms do not hide each other.

    The legend says where their protocol is another than the milestones'.
    """
    final = [arm for arm in arms if at_end(arm, "final/fid")]
    stars: dict[str, Any] = {"marker": "*", "markersize": 14, "markeredgecolor": "black"}
    for place, arm in enumerate(final):
        apart = min(12, 72 / len(final)) / 72
        aside = ScaledTranslation((place - (len(final) - 1) / 2) * apart, 0, axes.figure.dpi_scale_trans)
        values = at_end(arm, "final/fid")
        axes.plot(
            [arm.last_step] * len(values),
            values,
            color=colour(arm.experiment),
            linestyle="none",
            transform=axes.transData + aside,
            clip_on=False,
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
            ends = dict.fromkeys((0, len(values) - 1))
            said = " and ".join(f"{values.iloc[end]:.2f} at {values.index[end]}" for end in ends)
            parts.append(f"{arm.experiment} {said}")
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
        plot_line(axes, arm, "val/fid", labels[arm.experiment])
    for floor in sorted(_ends(shown, "val/fid_floor")):
        axes.axhline(floor, color="black", linestyle=":", linewidth=1, label=f"as many real images: {floor:.2f}")
    ceilings = sorted(_ends(shown, "val/fid_ceiling"))
    for ceiling in ceilings:
        if ceiling < _CEILING_SHOWN * max(curve(arm, "val/fid").max() for arm in shown):
            axes.axhline(ceiling, color="black", linestyle="-.", linewidth=1, label=f"uniform noise: {ceiling:.2f}")
    axes.set_ylabel(label("val/fid"))
    step_axis(axes, shown)
    legend(figure, axes)
    note_on(figure, note)
    out = [f"{arm.experiment} is left out: {context_reason(arm, arms)}." for arm in selection.context]
    out = [text for text, arm in zip(out, selection.context, strict=True) if context_reason(arm, arms)]
    said = [f"FID at the milestones, {seeds_text(shown)}." + _fid_sentence(shown)]
    if any(len(arm.runs) == 1 and len(standard_error(arm, "val/fid")) for arm in shown):
        said.append("Bars: 95 % interval of one seed's value over the noise of its samples.")
    said += [f"Uniform noise scores {ceiling:.2f}." for ceiling in ceilings]
    return Drawn(figure, " ".join([*said, *out]))


def _ends(arms: Sequence[Arm], metric: str) -> set[float]:
    """What real images, or noise, score under the runs' protocols: one number, unless the protocols are several."""
    ends = [run.series(metric) for arm in arms for run in arm.runs]
    return {round(float(end.iloc[-1]), 6) for end in ends if len(end)}


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
    for axes, metric in zip(rows, metrics, strict=True):
        for arm in arms:
            if len(curve(arm, metric)):
                _plot_trace(axes, arm, metric, labels[arm.experiment])
        axes.set_ylabel(label(metric))
        axes.set_title(_trace_title(metric, arms))
    step_axis(rows[-1], arms)
    legend(figure, rows[0], loc="upper right")
    missing = "" if COMMON in metrics else " The trace of the common unweighted loss was not logged."
    return Drawn(figure, f"Hutchinson trace by step, {seeds_text(arms, bands=False)}; {_band_text(arms)}.{missing}")


def _trace_title(metric: str, arms: Sequence[Arm]) -> str:
    if metric == COMMON:
        whose = (
            f"each arm's own, as they differ in {', '.join(unlike(arms))}" if unlike(arms) else "the same in every arm"
        )
        return f"Common unweighted loss: {whose}\n({_band_text(arms)})"
    title = f"Trained loss ({_band_text(arms)})"
    if weightings_differ(arms):
        title += "\nthe arms' trained losses are different functions: part of the gap is the weighting's scale"
    return title


def _band_text(arms: Sequence[Arm]) -> str:
    """What the band around a trace is."""
    several, single = ([arm for arm in arms if (len(arm.runs) > 1) is many] for many in (True, False))
    parts = ["points: every seed; band: 95 % bootstrap interval over seeds"] if several else []
    if any(len(standard_error(arm, TRAINED)) for arm in single):
        who = f", of {', '.join(arm.experiment for arm in single)}" if several else ""
        parts.append(f"band{who}: ±1 standard error over the probes")
    return "; ".join(parts) or "without error bars: none known"


def _plot_trace(axes: Axes, arm: Arm, metric: str, text: str) -> None:
    """Measurements with their error band: of the seeds, or of one seed's probes."""
    values, error = curve(arm, metric), standard_error(arm, metric)
    shade = colour(arm.experiment)
    dense = len(values) > 200  # a line through so many measurements is a black bar
    window = smoothing_window(len(values)) if dense else 1
    smooth = values.rolling(window, center=True, min_periods=1).mean()
    if dense or len(arm.runs) > 1:
        raw_points(axes, arm, metric)
    look: dict[str, Any] = {"color": shade, "linestyle": dash(arm.experiment), "linewidth": 1.0, "markersize": 4}
    look["marker"] = "" if dense or len(arm.runs) > 1 else "."
    axes.plot(smooth.index, smooth, label=text, zorder=3, **look)
    band(axes, arm, metric, window)
    if error.empty or len(arm.runs) > 1:
        return
    error = error.reindex(values.index).rolling(window, center=True, min_periods=1).mean()
    axes.fill_between(values.index, smooth - error, smooth + error, color=shade, alpha=0.25, linewidth=0)


def curvature_with_loss(selection: Selection, _allow_mixed: bool) -> Drawn:
    """Trace above loss over the same steps, one column per arm that has the trace."""
    arms = arms_with(selection.arms, TRAINED)
    if all(curve(arm, "train/loss").empty for arm in arms):
        raise NothingToDraw("train/loss was not logged beside the trace")
    labels = arm_labels(selection.arms, selection)
    columns = min(len(arms), 4)
    blocks = -(-len(arms) // columns)
    width = WIDTH if len(arms) == 1 else 4.2 if len(arms) < 4 else 3.4
    figure = new_figure(columns * width, 5.6 * blocks)
    grid = figure.subplots(2 * blocks, columns, sharey=False, squeeze=False)
    for place, arm in enumerate(arms):
        top, bottom = grid[2 * (place // columns) : 2 * (place // columns) + 2, place % columns]
        _plot_trace(top, arm, TRAINED, "_nolegend_")
        plot_smoothed(bottom, arm, "train/loss", "_nolegend_")
        top.set_title(wrapped(labels[arm.experiment], width))
        for axes in (top, bottom):
            step_axis(axes, [arm])
        top.set_xlabel("")
    unused = [axes for place in range(len(arms), blocks * columns) for axes in grid[-2:, place % columns]]
    for axes in unused:
        axes.remove()
    _share_rows(grid, arms, columns)
    without = [arm.experiment for arm in selection.arms if arm not in arms]
    absent = f" No trace was logged in {', '.join(without)}." if without else ""
    return Drawn(
        figure,
        f"Above, the trace of the trained loss ({_band_text(arms)}); below, train/loss "
        f"({smoothing_text(arms, 'train/loss')}); "
        f"{seeds_text(arms, bands=False)}.{absent}",
    )


def _share_rows(grid: Any, arms: Sequence[Arm], columns: int) -> None:
    """One y-axis for all traces and one for all losses, labelled at the left of each row."""
    for kind, metric in enumerate((TRAINED, "train/loss")):
        drawn = [axes for row in grid[kind::2] for axes in row if axes.figure is not None]
        text = log_if_wide(drawn[0], arms, metric) if kind else label(metric)
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
    note = check_protocols(found["val/fid"], "val/fid", allow_mixed)
    labels = arm_labels(selection.arms, selection)
    figure, row = panels(len(shown), 4.3, 2.9, most=2)
    for axes, metric in zip(row, shown, strict=True):
        for arm in found[metric]:
            if metric == "val/fid":
                plot_line(axes, arm, metric, labels[arm.experiment])
            else:
                plot_smoothed(axes, arm, metric, labels[arm.experiment])
        if metric != "val/fid":
            axes.set_title(wrapped(smoothing_text(found[metric], metric), 4.8), fontsize=8.5)
        axes.set_ylabel(log_if_wide(axes, found[metric], metric) if metric == "train/loss" else label(metric))
        step_axis(axes, found[metric])
    legend(figure, max(row, key=lambda axes: len(axes.get_legend_handles_labels()[0])), below=True)
    note_on(figure, note)
    differ = " The arms optimise differently weighted losses." if weightings_differ(selection.arms) else ""
    absent = [metric for metric in _SMALL if metric not in shown]
    missing = f" Not logged: {', '.join(absent)}." if absent else ""
    return Drawn(figure, f"{', '.join(shown)} by step; {seeds_text(selection.arms)}.{differ}{missing}")
