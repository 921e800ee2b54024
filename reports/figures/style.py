"""What all figures share: theme, colours by experiment, labels from config differences, label placement."""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import Bbox

from ddpm.metrics import axis_label
from reports.experiments.choice import Arm, Selection, differing_keys, matches, show
from reports.statistics import curve, seed_table

DPI = 200
WIDTH = 7.5
_LABEL_LENGTH = 24  # longer axis labels get a second line
_PALETTE = sns.color_palette("colorblind").as_hex()
# colour and marker of the experiments that are most often drawn; of the others, by a stable hash
_FIXED = {"e1": ("#4d4d4d", "D"), "e5": (_PALETTE[0], "o"), "e6": (_PALETTE[1], "s")}
_OTHERS = [(_PALETTE[i], m) for i, m in zip((2, 4, 3, 9, 5, 6, 8), "^vP<>Xp", strict=True)]


class NothingToDraw(Exception):  # noqa: N818 - no error: an answer
    """The figure's data are absent; the message is the reason that the report gives."""


@dataclass
class Drawn:
    """A finished figure and its one-sentence caption."""

    figure: Figure
    caption: str


@contextmanager
def theme() -> Iterator[None]:
    """The seaborn theme for the drawing inside, leaving matplotlib's global settings alone."""
    settings = sns.axes_style("whitegrid") | sns.plotting_context("paper", font_scale=1.15)
    settings |= {"axes.titlesize": 10.5, "svg.hashsalt": "reports", "legend.framealpha": 0.9}
    with matplotlib.rc_context(settings):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that many inches on the Agg canvas, with constrained layout."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(drawn: Drawn, stem: Path) -> Path:
    """Write `<stem>.png` and `<stem>.svg`; returns the PNG. Without dates: equal data, equal bytes."""
    png = stem.with_name(stem.name + ".png")
    drawn.figure.savefig(png, dpi=DPI)
    drawn.figure.savefig(stem.with_name(stem.name + ".svg"), metadata={"Date": None})
    return png


# ---- colours and labels ----------------------------------------------------------------------------------


def colour(experiment: str) -> str:
    """The experiment's colour, the same in every figure of every report."""
    return _look(experiment)[0]


def marker(experiment: str) -> str:
    """The experiment's marker shape, so that arms differ without colour too."""
    return _look(experiment)[1]


def _look(experiment: str) -> tuple[str, str]:
    return _FIXED.get(experiment) or _OTHERS[zlib.crc32(experiment.encode()) % len(_OTHERS)]


def arm_labels(arms: Sequence[Arm], selection: Selection) -> dict[str, str]:
    """experiment -> legend text that names what is different, e.g. `e6: loss.weighting = minsnr`.

    As few config keys as tell the arms apart: declared ones first, in the study's order.
    """
    keys = _label_keys(arms, selection)
    chosen: list[str] = []
    while keys and len({_values(arm, chosen) for arm in arms}) < len(arms):
        # the key that separates most arms; the first of those at equality
        best = max(keys, key=lambda key: len({_values(arm, [*chosen, key]) for arm in arms}))
        chosen.append(best)
        keys.remove(best)
    labels = {}
    for arm in arms:
        text = ", ".join(f"{key} = {show(arm.config, key)}" for key in chosen)
        labels[arm.experiment] = f"{arm.experiment}: {text}" if text else arm.experiment
    return labels


def _label_keys(arms: Sequence[Arm], selection: Selection) -> list[str]:
    def rank(key: str) -> tuple[int, int, str]:
        globs = selection.study.difference
        place = next((i for i, glob in enumerate(globs) if matches(key, [glob])), len(globs))
        return (key not in ("loss.weighting", "train.total_steps"), place, key)

    return sorted(differing_keys(arms), key=rank)


def _values(arm: Arm, keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(show(arm.config, key) for key in keys)


def seeds_text(arms: Sequence[Arm]) -> str:
    """How seeds enter: `mean over 3 seeds, band from lowest to highest`, or `one seed per arm`."""
    counts = [len(arm.runs) for arm in arms]
    if max(counts) == 1:
        return "one seed per arm" if len(arms) > 1 else "one seed"
    number = str(counts[0]) if len(set(counts)) == 1 else ", ".join(map(str, counts))
    return f"mean over {number} seeds, band from lowest to highest seed"


def arms_with(arms: Sequence[Arm], metric: str) -> list[Arm]:
    """The arms with values of `metric`. Raises NothingToDraw when there are none."""
    found = [arm for arm in arms if len(curve(arm, metric))]
    if not found:
        names = ", ".join(arm.experiment for arm in arms)
        raise NothingToDraw(f"{metric} was not logged in any run of {names}")
    return found


# ---- axes ------------------------------------------------------------------------------------------------


def label(metric: str, *more: str) -> str:
    """Axis label of `metric`, its unit (and what `more` adds) on a second line where it is long."""
    text, _, unit = axis_label(metric).partition(" (")
    words = ", ".join(word for word in (unit.removesuffix(")"), *more) if word)
    if not words:
        return text
    return f"{text}\n({words})" if len(text + words) > _LABEL_LENGTH else f"{text} ({words})"


def thousands(value: float, _position: object = None) -> str:
    """Axis text of a step: `500`, `2k`, `2.5k`."""
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"


def step_axis(axes: Axes, arms: Sequence[Arm]) -> None:
    """The step axis; logarithmic where run lengths differ so much that the shorter would be squeezed."""
    lengths = [arm.last_step for arm in arms]
    if min(lengths) > 0 and max(lengths) >= 3 * min(lengths):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("step (log scale)")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, steps=[1, 2, 5, 10]))
        axes.set_xlabel("step")
    axes.xaxis.set_major_formatter(FuncFormatter(thousands))


def plot_smoothed(axes: Axes, arm: Arm, metric: str, text: str) -> int:
    """Raw points of every seed under a centred rolling mean; returns its window in points (1: none)."""
    values = curve(arm, metric)
    for run in arm.runs:
        raw = run.series(metric)
        axes.plot(raw.index, raw, ".", color=colour(arm.experiment), alpha=0.3, markersize=3.5, zorder=2)
    window = min(15, 2 * (len(values) // 16) + 1)  # odd, so that centred means centred
    smooth = values.rolling(window, center=True, min_periods=1).mean()
    band(axes, arm, metric, window)
    axes.plot(smooth.index, smooth, color=colour(arm.experiment), linewidth=1.8, label=text, zorder=3)
    return window


def band(axes: Axes, arm: Arm, metric: str, window: int = 1) -> None:
    """Shade from the lowest to the highest seed; nothing for one seed."""
    table = seed_table(arm, metric)
    if len(table.columns) > 1:
        table = table.rolling(window, center=True, min_periods=1).mean()
        low, high = table.min(axis=1), table.max(axis=1)
        axes.fill_between(table.index, low, high, color=colour(arm.experiment), alpha=0.2, linewidth=0)


def smoothing_text(windows: Sequence[int]) -> str:
    """How the lines were smoothed, for an axis title."""
    if max(windows) == 1:
        return "points: logged values"
    number = str(windows[0]) if len(set(windows)) == 1 else " / ".join(map(str, windows))
    return f"points: logged values; lines: centred rolling mean of {number}"


def log_if_wide(axes: Axes, arms: Sequence[Arm], metric: str) -> str:
    """The y label of `metric`; the axis becomes logarithmic where positive values span more than a decade."""
    values = pd.concat([curve(arm, metric) for arm in arms])
    if values.min() > 0 and values.max() > 10 * values.min():
        axes.set_yscale("log")
        return label(metric, "log scale")
    return label(metric)


def note_on(figure: Figure, note: str | None) -> None:
    """Write a protocol warning across the top of the figure."""
    if note:
        figure.suptitle(note, color="#b30000", fontsize=8, wrap=True)


def place_labels(
    axes: Axes,
    points: Sequence[tuple[float, float, str, str]],
    lines: Sequence[Sequence[tuple[float, float]]],
) -> None:
    """Text at points `(x, y, text, colour)`, moved around them until nothing overlaps.

    Greedy: each label takes the first of its candidate places that touches no point, no label placed
    before and none of `lines` (polylines in data coordinates), else the place that touches least.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.canvas.draw()  # settles the layout, so that pixels mean what they will mean
    pixel = figure.dpi / 72  # pixels per point
    boxes = [_square(axes, point[:2], 5 * pixel) for point in points]
    for line in lines:
        for start, end in pairwise(line):
            boxes += [_square(axes, spot, pixel) for spot in _along(start, end)]
    legend = axes.get_legend()
    if legend is not None:
        boxes.append(legend.get_window_extent())
    taken = np.array([box.extents for box in boxes])
    frame = np.array([axes.get_window_extent().extents])
    for x, y, text, shade in points:
        note = axes.annotate(
            text, (x, y), xytext=(0, 0), textcoords="offset points", color=shade, fontsize=8.5, zorder=6
        )
        note.set_in_layout(False)
        best: tuple[float, _Place, float, np.ndarray] | None = None
        for radius in (8, 12, 17, 23):
            for place in _PLACES:
                box = np.array(_put_label(note, place, radius).padded(pixel).extents)
                size = float(np.prod(box[2:] - box[:2]))
                cost = _overlap(box, taken) + size - _overlap(box, frame)  # outside the frame costs too
                if best is None or cost < best[0]:
                    best = (cost, place, radius, box)
        assert best is not None
        _put_label(note, best[1], best[2])
        taken = np.vstack([taken, best[3]])


def _put_label(note: Annotation, place: "_Place", radius: float) -> Bbox:
    dx, dy, across, up = place
    note.set(ha=across, va=up)
    note.xyann = (dx * radius, dy * radius)
    return note.get_window_extent()


def _square(axes: Axes, point: tuple[float, float], half: float) -> Bbox:
    x, y = axes.transData.transform(point)
    return Bbox.from_extents(x - half, y - half, x + half, y + half)


def _along(start: tuple[float, float], end: tuple[float, float], count: int = 60) -> list[tuple[float, float]]:
    (x0, y0), (x1, y1) = start, end
    return [(x0 + (x1 - x0) * i / count, y0 + (y1 - y0) * i / count) for i in range(count + 1)]


_Place = tuple[float, float, str, str]
_PLACES: list[_Place] = [
    (1, 0, "left", "center"),
    (-1, 0, "right", "center"),
    (0.7, 0.7, "left", "bottom"),
    (-0.7, -0.7, "right", "top"),
    (0.7, -0.7, "left", "top"),
    (-0.7, 0.7, "right", "bottom"),
    (0, 1, "center", "bottom"),
    (0, -1, "center", "top"),
]


def _overlap(box: np.ndarray, others: np.ndarray) -> float:
    """Area that `box`, shape (4,) as x0, y0, x1, y1, shares with `others`, shape (n, 4), in pixels²."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return float(np.prod(sides.clip(min=0), axis=1).sum())
