"""Figures with the noise level on an axis: lambda = log SNR, which all schedules, predictions and weightings share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import LogNorm
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from ddpm.metrics import Z95
from ddpm.names import NOISE_BINS, NOISE_EDGES
from reports.experiments import Span
from reports.experiments.selection import Arm, Selection, differing_predictions
from reports.figures import style
from reports.figures.style import Drawn, NothingToDraw
from reports.stats.draws import can_pair, paired_ratio
from reports.stats.intervals import Estimate
from reports.stats.statistics import NEUTRAL, curve, in_window, standard_error

Array = NDArray[Any]
TRACE = "curvature/trace_by_noise/{}_mean"
LOSS = "loss_by_noise/{}_"
CENTRES = dict(zip(NOISE_BINS, (low + 1 for low in NOISE_EDGES[:-1]), strict=True))
_ACROSS = 4  # panels in a row
_COLUMNS = 60  # of measurements; with more, neighbouring ones share a column
_SCALES = (1.1, 1.25, 1.5, 2.0, 4.0)  # ends of the ratio's colour scale, which is symmetric around 1
_HATCH: dict[str, Any] = {"facecolor": "none", "edgecolor": "#404040", "linewidth": 0.0, "hatch": "////"}
_MILESTONES = 4
_DEEP = 1000  # how far below the lowest loss the axis may go to show the highest floor
_TICKS = NOISE_EDGES[::2]
_RATIO_TICKS = (0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.35, 1.5, 2, 3, 5, 10)


def by_level(arm: Arm, key: str) -> pd.DataFrame:
    """A metric by step (rows) and by the middle of the noise level's bin (columns), mean over seeds, without the bins
    that were not logged. key: the metric with `{}` for the bin."""
    found = {CENTRES[name]: curve(arm, key.format(name)) for name in NOISE_BINS}
    logged = {centre: values for centre, values in found.items() if len(values)}
    return pd.concat(logged, axis=1).sort_index() if logged else pd.DataFrame(dtype=float)


def _tables(arms: Sequence[Arm], key: str, needs: str) -> dict[Arm, pd.DataFrame]:
    tables = {arm: table for arm in arms if len(table := by_level(arm, key))}
    if not tables:
        names = ", ".join(arm.experiment for arm in arms)
        raise NothingToDraw(f"{key.format('lambda_...')} was not logged in any run of {names}; it needs {needs}")
    return tables


def _traces(arms: Sequence[Arm]) -> dict[Arm, pd.DataFrame]:
    return _tables(arms, TRACE, "curvature.neutral=true and curvature.draws=fixed")


def _level_axis(axes: Axes) -> None:
    """The x-axis of lambda: its ends say in words which is noise and which the image."""
    ends = {NOISE_EDGES[0]: "\nnoise", NOISE_EDGES[-1]: "\nclean image"}
    axes.set_xticks(_TICKS, [_minus(low) + ends.get(low, "") for low in _TICKS])
    axes.get_xticklabels()[0].set_horizontalalignment("left")  # within the panel: its neighbour's end is near
    axes.get_xticklabels()[-1].set_horizontalalignment("right")
    axes.set(xlim=(NOISE_EDGES[0], NOISE_EDGES[-1]), xlabel="noise level: log SNR λ")


def _minus(number: int) -> str:
    return f"{number}".replace("-", "−")


# ---- trace by step and noise level -----------------------------------------------------------------------


@dataclass(frozen=True)
class Cells:
    """A number for each column of steps and each bin, (n, bins), NaN if there is none; and the steps of each column.
    undecided: (n, bins), the ratios that may be 1. reason: why no ratio has an interval."""

    steps: list[pd.Index]
    values: Array
    undecided: Array
    reason: str = ""


def trace_by_noise(selection: Selection, _allow_mixed: bool) -> Drawn:
    """Trace of the eps-MSE by step and noise level, a panel for each arm on one scale; below, each variant's ratio to
    the baseline."""
    tables = _traces(selection.arms)
    arms, baseline = list(tables), selection.baseline
    labels = style.arm_labels(selection.arms, selection)
    cells = {arm: _cells(table) for arm, table in tables.items()}
    ratios = _ratios(baseline, tables) if baseline in tables else {}
    width = style.WIDTH if len(arms) == 1 else 4.4 if len(arms) == 2 else 3.4
    figure, above, below = _grid(arms, bool(ratios), width)
    norm = _log_norm([each.values for each in cells.values()])
    for axes, (arm, each) in zip(above, cells.items(), strict=True):
        _draw_cells(axes, each, norm, "viridis")
        axes.set_title(style.wrapped(labels[arm.experiment], width))
        style.step_axis(axes, arms)
    _bar(figure, above, norm, "viridis", "Hessian trace within the bin\n(log scale)")
    end = _end_of_scale([each.values for each in ratios.values()])
    for axes, arm in zip(below, arms, strict=False):
        if arm in ratios and baseline:
            _draw_cells(axes, ratios[arm], LogNorm(1 / end, end), "RdBu_r")
            why = f" (no interval: {ratios[arm].reason})" if ratios[arm].reason else ""
            axes.set_title(style.wrapped(f"{arm.experiment} / {baseline.experiment}{why}", width))
            style.step_axis(axes, arms)
        else:
            axes.set_axis_off()
            if arm is baseline:
                marks = [Patch(**_HATCH, label="may be 1: the 95 % interval\nover paired draws includes it")]
                axes.legend(handles=marks, loc="center", frameon=False, handlelength=3, handleheight=2)
    if ratios:
        bar = _bar(figure, below, LogNorm(1 / end, end), "RdBu_r", "ratio of the traces\n(log scale)")
        bar.set_ticks([end**power for power in (-1, -0.5, 0, 0.5, 1)])
        bar.set_ticklabels([f"{end**power:.2f}" for power in (-1, -0.5, 0, 0.5, 1)])
    for row in (above, below):
        for place in range(0, len(row), _ACROSS):
            _level_labels([axes for axes in row[place : place + _ACROSS] if axes.axison])
    return Drawn(figure, " ".join(_cells_caption(selection, cells, ratios)))


def _level_labels(row: Sequence[Axes]) -> None:
    """The y-axis of lambda, which a row of panels shares, with text at the first one only."""
    for axes in row:
        axes.set_yticks(_TICKS, [_minus(tick) for tick in _TICKS])
        axes.set_ylim(NOISE_EDGES[0], NOISE_EDGES[-1])
        axes.tick_params(labelleft=axes is row[0])
    for axes in row[:1]:
        axes.set_ylabel("noise level: log SNR λ\n(noise → clean image)")


def _grid(arms: Sequence[Arm], two: bool, width: float) -> tuple[Figure, list[Axes], list[Axes]]:
    """A figure with a panel for each arm, at most `_ACROSS` to a row, and if `two` another one below each."""
    columns = min(len(arms), _ACROSS)
    blocks, deep = -(-len(arms) // columns), 2 if two else 1
    figure = style.new_figure(columns * width + 1, 2.9 * blocks * deep)
    grid = figure.subplots(blocks * deep, columns, squeeze=False)
    rows = [[axes for row in grid[place::deep] for axes in row] for place in range(deep)]
    for axes in (axes for row in rows for axes in row[len(arms) :]):
        axes.remove()
    return figure, rows[0][: len(arms)], rows[1][: len(arms)] if two else []


def _columns(steps: pd.Index) -> list[pd.Index]:
    """The steps, one in a column, or neighbours together if they are many."""
    places = np.array_split(np.arange(len(steps)), min(len(steps), _COLUMNS))
    return [steps[each] for each in places]


def _cells(table: pd.DataFrame) -> Cells:
    columns = _columns(table.index)
    means = [table.loc[steps].mean().reindex(list(CENTRES.values())) for steps in columns]
    return Cells(columns, np.array(means, dtype=float), np.zeros((len(means), len(CENTRES)), dtype=bool))


def _ratios(baseline: Arm | None, tables: Mapping[Arm, pd.DataFrame]) -> dict[Arm, Cells]:
    """Each comparable arm's trace over the baseline's, in the columns of steps that both have."""
    assert baseline is not None
    found = {}
    for arm in _comparable(baseline, tables):
        steps = tables[baseline].index.intersection(tables[arm].index)
        if steps.empty:
            continue
        columns = _columns(steps)
        each = [[_ratio(baseline, arm, TRACE.format(name), steps) for name in NOISE_BINS] for steps in columns]
        values = np.array([[ratio.number for ratio in row] for row in each], dtype=float)
        undecided = np.array([[not _side(ratio) for ratio in row] for row in each]) & np.isfinite(values)
        found[arm] = Cells(columns, values, undecided, _why_unpaired(baseline, arm))
    return found


def _comparable(baseline: Arm, arms: Iterable[Arm]) -> list[Arm]:
    """The other arms whose networks predict the same: another one's trace is that of another function."""
    return [arm for arm in arms if arm is not baseline and not differing_predictions([baseline.config, arm.config])]


def _no_ratio(baseline: Arm | None, arms: Iterable[Arm]) -> list[str]:
    """The arms that have no ratio to the baseline's trace, in a sentence; empty if there are none."""
    others = [arm for arm in arms if baseline and arm is not baseline]
    left_out = [arm.experiment for arm in others if baseline and arm not in _comparable(baseline, others)]
    return [f"No ratio for {', '.join(left_out)}: the predictions differ."] if left_out else []


def _why_unpaired(baseline: Arm, variant: Arm) -> str:
    """Why no bin can be compared draw by draw; empty if some can."""
    reasons = [can_pair(baseline, variant, TRACE.format(name)) for name in NOISE_BINS]
    return reasons[0] if all(reasons) else ""


def _ratio(baseline: Arm, variant: Arm, metric: str, steps: pd.Index) -> Estimate:
    """variant / baseline of the means over `steps`, with its interval over paired draws if they can be paired. No
    number if a mean is missing or not positive."""
    means = [curve(arm, metric).reindex(steps).mean() for arm in (baseline, variant)]
    if not all(mean > 0 for mean in means):
        return Estimate()
    return paired_ratio(baseline, variant, metric, steps) or Estimate(float(means[1] / means[0]))


def _side(ratio: Estimate) -> int:
    """1 or -1 if the ratio's interval lies above or below 1, else 0."""
    if ratio.number is None or ratio.within is None:
        return 0
    low, high = ratio.within
    return int(low > 1) - int(high < 1)


def _log_norm(values: Sequence[Array]) -> LogNorm:
    positive = np.concatenate([each[each > 0] for each in values])
    return LogNorm(positive.min(), positive.max()) if len(positive) else LogNorm(1, 10)


def _end_of_scale(ratios: Sequence[Array]) -> float:
    """The upper end of the ratios' scale: the first of `_SCALES` that holds them all, else the last."""
    most = max((float(np.nanmax(np.abs(np.log(each)), initial=0)) for each in ratios), default=0)
    return next((end for end in _SCALES if most <= np.log(end)), _SCALES[-1])


def _draw_cells(axes: Axes, cells: Cells, norm: LogNorm, cmap: str) -> None:
    """Cells by colour, hatched if they are undecided. Grey shows through where there is no positive number."""
    across, up = _edges(cells.steps), np.array(NOISE_EDGES, dtype=float)
    shown = np.ma.masked_invalid(np.where(cells.values > 0, cells.values, np.nan))
    axes.set_facecolor("#d9d9d9")
    axes.grid(False)
    axes.pcolormesh(across, up, shown.T, norm=norm, cmap=cmap, rasterized=True, linewidth=0)
    if cells.undecided.any():
        corners = [
            [(across[i], up[j]), (across[i + 1], up[j]), (across[i + 1], up[j + 1]), (across[i], up[j + 1])]
            for i, j in zip(*np.nonzero(cells.undecided), strict=True)
        ]
        axes.add_collection(PolyCollection(corners, **_HATCH))
    axes.set_xlim(across[0], across[-1])


def _edges(columns: Sequence[pd.Index]) -> Array:
    """(n + 1,) the edges of columns of steps: halfway between neighbours, and as far beyond the outermost."""
    first, last = np.array([[steps[0], steps[-1]] for steps in columns], dtype=float).T
    inner = (last[:-1] + first[1:]) / 2
    ends = (inner[0] - last[0], first[-1] - inner[-1]) if len(inner) else (first[0] / 2 or 1, first[0] / 2 or 1)
    return np.concatenate([[max(first[0] - ends[0], first[0] / 2)], inner, [last[-1] + ends[1]]])


def _bar(figure: Figure, row: Sequence[Axes], norm: LogNorm, cmap: str, text: str) -> Any:
    bar = figure.colorbar(ScalarMappable(norm=norm, cmap=cmap), ax=list(row), label=text)
    bar.outline.set_visible(False)
    bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    return bar


def _cells_caption(selection: Selection, cells: Mapping[Arm, Cells], ratios: Mapping[Arm, Cells]) -> list[str]:
    said = [f"Trace of the eps-MSE by step and noise level, {style.seeds_text(list(cells), bands=False)}."]
    grouped = any(len(steps) > 1 for each in cells.values() for steps in each.steps)
    said += ["Neighbouring measurements share a column, which shows their mean."] * grouped
    for arm, each in ratios.items():
        decided = ~each.undecided  # a missing ratio is neither above nor below 1
        counts = [int((decided & (each.values > 1)).sum()), int((decided & (each.values < 1)).sum())]
        said.append(
            f"{arm.experiment} / {selection.study.baseline}: above 1 in {counts[0]} cells, below in {counts[1]}, "
            f"undecided (hatched) in {int(each.undecided.sum())}."
        )
    if ratios:
        said.append("An interval covers other draws of the probe at these weights, not other seeds.")
    empty = sum(int(np.sum(~(each.values > 0))) for each in cells.values())
    said += [f"Grey: not logged, or not positive ({empty} cells of the upper row)."] * bool(empty)
    said += _no_ratio(selection.baseline, cells)
    absent = style.without(selection.arms, list(cells), "Not logged in {}.").strip()
    return said + [absent] * bool(absent)


# ---- trace by noise level, late --------------------------------------------------------------------------


def trace_ratio_by_noise(selection: Selection, _allow_mixed: bool) -> Drawn:
    """Trace by noise level late in training: each arm's, and each variant's ratio to the baseline with its interval."""
    tables = _traces(selection.arms)
    arms, baseline = list(tables), selection.baseline
    labels = style.arm_labels(selection.arms, selection)
    late = {arm: _late_steps(arm, table, selection.study.windows.late) for arm, table in tables.items()}
    variants = _comparable(baseline, arms) if baseline in tables and baseline else []
    figure, (left, *rest) = style.panels(2 if variants else 1, 5.2, 4.2)
    for arm in arms:
        steps = late[arm]
        means = tables[arm].loc[steps].mean()
        errors = [_late_error(arm, TRACE.format(name), steps) for name, at in CENTRES.items() if at in means.index]
        left.errorbar(means.index, means, yerr=Z95 * np.array(errors), label=labels[arm.experiment], **_look(arm))
    left.set_yscale("log", nonpositive="clip")
    left.set(ylabel="Hessian trace within the bin\n(log scale)", title="Each arm's trace (bars: 95 % over the draws)")
    said = [_late_text(selection, late)]
    for place, arm in enumerate(variants):
        assert baseline is not None
        said.append(_plot_ratio(rest[0], baseline, arm, late, (place - (len(variants) - 1) / 2) * 0.25))
    for axes in rest:
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set(ylabel=f"ratio to {selection.study.baseline}'s trace\n(log scale)", yscale="log")
        low, high = axes.get_ylim()
        shown = [tick for tick in _RATIO_TICKS if low <= tick <= high]
        axes.set_yticks(shown, [f"{tick:g}" for tick in shown])
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_title("Ratio to the baseline's (bars: 95 % over paired draws)")
    for axes in (left, *rest):
        _level_axis(axes)
    style.legend(figure, left, below=True)
    absent = style.without(selection.arms, arms, "Not logged in {}.").strip()
    return Drawn(figure, " ".join([*said, *_no_ratio(baseline, arms), *[absent] * bool(absent)]))


def _late_steps(arm: Arm, table: pd.DataFrame, window: Span) -> pd.Index:
    """The measured steps in the window; the last one if none is."""
    steps = in_window(table.iloc[:, 0], arm.last_step, window).index
    return steps if len(steps) else table.index[-1:]


def _late_error(arm: Arm, metric: str, steps: pd.Index) -> float:
    """Standard error of a trace's mean over steps. The draws are the same at each step, so it does not average out."""
    return float(standard_error(arm, metric).reindex(steps).mean())


def _late_text(selection: Selection, late: Mapping[Arm, pd.Index]) -> str:
    spans = {arm: f"{steps[0]} to {steps[-1]}" if len(steps) > 1 else f"{steps[0]}" for arm, steps in late.items()}
    same = len(set(spans.values())) == 1
    each = next(iter(spans.values())) if same else ", ".join(f"{arm.experiment} {s}" for arm, s in spans.items())
    return f"Means over the measurements at steps {each}, {style.seeds_text(list(late), bands=False)}."


def _plot_ratio(axes: Axes, baseline: Arm, variant: Arm, late: Mapping[Arm, pd.Index], aside: float) -> str:
    """Draw a variant's ratios and say at which noise levels they lie above and below 1."""
    steps = late[baseline].intersection(late[variant])
    each = {name: _ratio(baseline, variant, TRACE.format(name), steps) for name in NOISE_BINS}
    shown = {name: found for name, found in each.items() if found.number is not None}
    name = variant.experiment
    if not shown:
        return f"{name} has no ratio: no bin was measured in both arms at one of these steps."
    x = np.array([CENTRES[bin_] + aside for bin_ in shown])
    numbers = np.array([found.number for found in shown.values()], dtype=float)
    ends = np.array([found.within or (np.nan, np.nan) for found in shown.values()])
    axes.errorbar(x, numbers, yerr=np.abs(ends.T - numbers), **_look(variant))
    parts = [
        f"{word} at log SNR {_spans([bin_ for bin_, found in shown.items() if _side(found) == side])}"
        for side, word in ((1, "above"), (-1, "below"), (0, "undecided"))
        if any(_side(found) == side for found in shown.values())
    ]
    whole = paired_ratio(baseline, variant, NEUTRAL, steps)
    over = ""
    if whole and whole.number is not None and whole.within:
        over = f"; over all levels its ratio is {whole.number:.3f} ({whole.within[0]:.3f} to {whole.within[1]:.3f})"
    reason = _why_unpaired(baseline, variant)
    why = f" No ratio has an interval: {reason}." if reason else ""
    return f"{name}'s trace against {baseline.experiment}'s: {', '.join(parts)}{over}.{why}"


def _spans(bins: Sequence[str]) -> str:
    """`-8 to -4 and 2 to 4`: the bins' levels, neighbours together."""
    found: list[list[int]] = []
    for low, high in ((low, low + 2) for low in NOISE_EDGES[:-1] if f"lambda_{low}" in bins):
        if found and found[-1][1] == low:
            found[-1][1] = high
        else:
            found.append([low, high])
    return " and ".join(f"{low} to {high}" for low, high in found)


# ---- loss by noise level ---------------------------------------------------------------------------------

_HOLLOW: dict[str, Any] = {"linestyle": (0, (2, 1.5)), "markerfacecolor": "white"}
_RECON = "eval.recon.enabled=true"


def loss_over_floor(selection: Selection, _allow_mixed: bool) -> Drawn:
    """Loss by noise level at the milestones, and its excess over the floor: the error of the best denoiser that knows
    all training images."""
    tables = _tables(selection.arms, LOSS + "excess", _RECON)
    labels = style.arm_labels(selection.arms, selection)
    steps = _milestones(tables)
    columns = len(steps)
    figure = style.new_figure(max(style.WIDTH, columns * 3.4), 6.2)
    grid = figure.subplots(2, columns, sharex=True, sharey="row", squeeze=False)
    cut = 0
    for column, step in enumerate(steps):
        top, bottom = grid[:, column]
        for arm in tables:
            _plot_levels(top, arm, "seen", step, labels[arm.experiment])
            cut += _plot_levels(bottom, arm, "excess", step)
        _log_from_lowest(top)  # before the floor, which can be a billionth
        highest = max((_at(arm, "floor", step).max() for arm in tables), default=0)
        low, high = top.get_ylim()
        top.set_ylim(max(min(low, highest / 2), low / _DEEP), high)
        _log_from_lowest(bottom)
        for arm in tables:
            floor = _at(arm, "floor", step)
            floor = floor[floor > 0]
            top.plot(floor.index, floor, color="black", linestyle=":", linewidth=1.5, scaley=False)
        top.plot([], [], color="black", linestyle=":", linewidth=1.5, label="floor: the best denoiser's loss")
        top.set_title(f"step {step}")
        _level_axis(bottom)
    grid[0, 0].set_ylabel("eps-MSE on training images\n(log scale)")
    grid[1, 0].set_ylabel("excess over the floor\n(eps-MSE, log scale)")
    style.legend(figure, grid[0, 0], below=True)
    said = [
        f"eps-MSE by noise level on training images, and below, its excess over that of the best denoiser, "
        f"{style.seeds_text(list(tables), bands=False)}. Bars: 95 % over images and noise. A floor below the axis is "
        "not shown."
    ]
    said += [f"{cut} excesses are not positive and not shown."] * bool(cut)
    absent = style.without(selection.arms, list(tables), "Not logged in {}.").strip()
    return Drawn(figure, " ".join([*said, *[absent] * bool(absent)]))


def plot_excess(axes: Axes, arms: Sequence[Arm]) -> None:
    """The excess of the loss over the floor by noise level, of each arm at its last step, on a log axis. Raises
    NothingToDraw if no arm logged it."""
    last = {arm: logged.index[-1] for arm, logged in _tables(arms, LOSS + "excess", _RECON).items()}
    for arm, step in last.items():
        _plot_levels(axes, arm, "excess", int(step))
    _log_from_lowest(axes)
    axes.set_ylabel("excess of the eps-MSE over the floor\n(log scale)")
    _level_axis(axes)


def seen_vs_unseen(selection: Selection, _allow_mixed: bool) -> Drawn:
    """Loss by noise level on training images and on images that were never trained on, and the gap between the two,
    at the last step that all arms have."""
    tables = _tables(selection.arms, LOSS + "gap", f"{_RECON} and images kept out of training (data.hold_out)")
    labels = style.arm_labels(selection.arms, selection)
    step = _milestones(tables)[-1]
    figure, (left, right) = style.panels(2, 5.2, 4.2)
    for arm in tables:
        _plot_levels(left, arm, "seen", step, labels[arm.experiment])
        _plot_levels(left, arm, "unseen", step, hollow=True)
        gap, seen = _at(arm, "gap", step), _at(arm, "seen", step)
        share = 100 * gap / seen.where(seen > 0)
        reach = 100 * Z95 * _at(arm, "gap", step, error=True) / seen.where(seen > 0)
        right.errorbar(share.index, share, yerr=reach.reindex(share.index), **_look(arm))
    _log_from_lowest(left)
    key: dict[str, Any] = {"color": "black", "marker": "o", "linewidth": 1.3}
    left.plot([], [], label="seen", **key)
    left.plot([], [], label="unseen", **(key | _HOLLOW))
    right.axhline(0, color="black", linewidth=0.8)
    left.set(ylabel="eps-MSE\n(log scale)", title=f"Seen and unseen images at step {step}")
    right.set_ylabel("gap: unseen - seen\n(% of the loss on seen images)")
    right.set_title("Their gap (bars: 95 %, paired by noise)")
    for axes in (left, right):
        _level_axis(axes)
    style.legend(figure, left, below=True)
    said = f"eps-MSE by noise level at step {step} on training images and on images that were never trained on, "
    absent = style.without(selection.arms, list(tables), "Not logged in {}.")
    gaps = "; ".join(_gap_text(arm, step) for arm in tables)
    return Drawn(figure, f"{said}{style.seeds_text(list(tables), bands=False)}. {gaps}.{absent}")


def _gap_text(arm: Arm, step: int) -> str:
    """At which levels the gap is beyond its interval."""
    gap, error = _at(arm, "gap", step), Z95 * _at(arm, "gap", step, error=True)
    sure = gap[gap.abs() > error.reindex(gap.index)]
    parts = []
    for word, found in (("higher", sure[sure > 0]), ("lower", sure[sure < 0])):
        if len(found):
            parts.append(f"{word} on unseen images at log SNR {_spans([f'lambda_{at - 1}' for at in found.index])}")
    said = f"is {', '.join(parts)}" if parts else "has no gap beyond its noise"
    return f"{arm.experiment}'s loss {said}"


def _milestones(tables: Mapping[Arm, pd.DataFrame]) -> list[int]:
    """Up to four of the steps that all arms have, evenly, the first and the last among them."""
    shared = sorted(set.intersection(*(set(table.index) for table in tables.values())))
    if not shared:
        raise NothingToDraw("the arms logged the loss by noise level at no common step")
    places = np.linspace(0, len(shared) - 1, min(len(shared), _MILESTONES)).round().astype(int)
    return [int(shared[place]) for place in places]


def _at(arm: Arm, what: str, step: int, *, error: bool = False) -> pd.Series:
    """A number of the loss by noise level at `step`, or its standard error, by the middle of the bin."""
    read: Callable[[Arm, str], pd.Series] = standard_error if error else curve
    found = {at: read(arm, LOSS.format(name) + what).get(step) for name, at in CENTRES.items()}
    return pd.Series({at: value for at, value in found.items() if value is not None}, dtype=float)


def _look(arm: Arm) -> dict[str, Any]:
    return style.look(arm.experiment, marked=True) | {"capsize": 2, "linewidth": 1.4, "markersize": 5}


def _plot_levels(axes: Axes, arm: Arm, what: str, step: int, text: str = "_nolegend_", *, hollow: bool = False) -> int:
    """Draw a line over the noise levels with its 95 % interval; returns how many values are not positive."""
    values, errors = _at(arm, what, step), _at(arm, what, step, error=True)
    look = _look(arm) | (_HOLLOW if hollow else {})
    axes.errorbar(values.index, values, yerr=Z95 * errors.reindex(values.index), label=text, **look)
    return int((values <= 0).sum())


def _log_from_lowest(axes: Axes) -> None:
    """A log axis that starts below the lowest positive value, and not at the end of an error bar near 0."""
    lines = [bar.lines[0] for bar in axes.containers if isinstance(bar, ErrorbarContainer)]
    drawn = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in lines])
    positive = drawn[drawn > 0]
    axes.set_yscale("log", nonpositive="clip")
    if len(positive):
        axes.set_ylim(positive.min() / 2, positive.max() * 2)
