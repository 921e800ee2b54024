"""What all figures share: theme, colours by experiment, labels from config differences, label placement."""

import itertools
import re
import textwrap
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from ddpm.metrics.table import axis_label
from reports.experiments.selection import Arm, Selection, differing_keys, matches, show
from reports.figures.letters import PlainFigure, drawable
from reports.stats.statistics import curve

DPI = 200
WIDTH = 7.5
_VALUE_LENGTH = 36  # longer values in legends are shortened
_LABEL_LENGTH = 24  # longer axis labels get a second line
_LEGEND_INSIDE = 3  # longer legends go below the figure
_PALETTE = [shade for i, shade in enumerate(sns.color_palette("colorblind").as_hex()) if i != 8]  # no yellow on white
_MARKERS = "os^vDPX<>"
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (6, 1.5, 1.2, 1.5)), (0, (1.5, 1.2)))


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
    figure = PlainFigure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(drawn: Drawn, stem: Path, *, dpi: int = DPI, svg: bool = True) -> Path:
    """Write `<stem>.png` and, if `svg`, `<stem>.svg`; returns the PNG. Without dates: equal data, equal bytes."""
    png = stem.with_name(stem.name + ".png")
    drawn.figure.draw_without_rendering()  # places everything, once: each file would do it again, at its own end twice
    drawn.figure.set_layout_engine(None)
    drawn.figure.savefig(png, dpi=dpi)
    if svg:
        drawn.figure.savefig(stem.with_name(stem.name + ".svg"), metadata={"Date": None})
    return png


# ---- colours and labels ----------------------------------------------------------------------------------


def palette(place: int) -> str:
    """Colour number `place` of the reports, for what is no experiment."""
    return _PALETTE[place % len(_PALETTE)]


def colour(experiment: str) -> str:
    """The experiment's colour, the same in every figure of every report."""
    return _look(experiment)[0]


def marker(experiment: str) -> str:
    """The experiment's marker shape, so that arms differ without colour too."""
    return _look(experiment)[1]


def dash(experiment: str) -> Any:
    """The experiment's line style: two arms of equal colour differ in it."""
    return _look(experiment)[2]


# the experiments that are drawn most often
_FIXED = {"e1": ("#4d4d4d", "D", "-"), "e5": (_PALETTE[0], "o", "-"), "e6": (_PALETTE[1], "s", "-")}


def _look(experiment: str) -> tuple[str, str, Any]:
    return _TOLD_APART.get().get(experiment) or _own_look(experiment)


def _own_look(experiment: str) -> tuple[str, str, Any]:
    """Colour, marker and dash, of the name alone. The study's numbers (e8a, e8b, e8c; e13, e14) count through the
    colours, so that those that are compared differ; other names have theirs by a stable hash, never e5's or e6's."""
    if experiment in _FIXED:
        return _FIXED[experiment]
    numbered = re.fullmatch(r"e(\d+)([a-z]?)", experiment)
    if numbered:
        letter = ord(numbered[2]) - ord("a") if numbered[2] else 0
        place, shade = 3 * int(numbered[1]) + letter, _PALETTE[(2 * int(numbered[1]) + letter) % len(_PALETTE)]
    else:
        place = zlib.crc32(experiment.encode())
        shade = _PALETTE[2 + place % (len(_PALETTE) - 2)]
    return shade, _MARKERS[place % len(_MARKERS)], _DASHES[place // len(_MARKERS) % len(_DASHES)]


# Of the report being drawn: the looks of experiments whose own are taken by another arm.
_TOLD_APART: ContextVar[dict[str, tuple[str, str, Any]]] = ContextVar("told_apart", default={})  # noqa: B039


@contextmanager
def told_apart(experiments: Sequence[str]) -> Iterator[None]:
    """Inside, no two of `experiments` share colour and dash: a later one takes the next that is free."""
    taken: dict[tuple[str, Any], str] = {}
    looks: dict[str, tuple[str, str, Any]] = {}
    free = itertools.product(_PALETTE[2:], _DASHES)
    for name in experiments:
        shade, shape, style = _own_look(name)
        while (shade, style) in taken and (another := next(free, None)):
            shade, style = another
        taken[shade, style], looks[name] = name, (shade, shape, style)
    token = _TOLD_APART.set(looks)
    try:
        yield
    finally:
        _TOLD_APART.reset(token)


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
        text = ", ".join(f"{key} = {_short(show(arm.config, key))}" for key in chosen)
        labels[arm.experiment] = drawable(f"{arm.experiment}: {text}" if text else arm.experiment)
    return labels


def _short(value: str) -> str:
    """A long value (a path, a list) by its two ends."""
    return value if len(value) <= _VALUE_LENGTH else f"{value[: _VALUE_LENGTH // 2 - 1]}…{value[-_VALUE_LENGTH // 2 :]}"


def _label_keys(arms: Sequence[Arm], selection: Selection) -> list[str]:
    def rank(key: str) -> tuple[int, int, str]:
        globs = selection.study.difference
        place = next((i for i, glob in enumerate(globs) if matches(key, [glob])), len(globs))
        return (key not in ("loss.weighting", "train.total_steps"), place, key)

    return sorted(differing_keys(arms), key=rank)


def _values(arm: Arm, keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(show(arm.config, key) for key in keys)


def seeds_text(arms: Sequence[Arm], *, bands: bool = True) -> str:
    """How seeds enter: `mean over 3 seeds, band: 95 % bootstrap interval over seeds`, or `one seed per arm`."""
    counts = [len(arm.runs) for arm in arms]
    if max(counts) == 1:
        return "one seed per arm" if len(arms) > 1 else "one seed"
    if len(set(counts)) == 1:
        said = f"mean over {counts[0]} seeds"
    else:
        said = "mean over seeds (" + ", ".join(f"{arm.experiment}: {len(arm.runs)}" for arm in arms) + ")"
    return said + (", band: 95 % bootstrap interval over seeds" if bands else "")


def arms_with(arms: Sequence[Arm], metric: str) -> list[Arm]:
    """The arms with values of `metric`. Raises NothingToDraw when there are none."""
    found = [arm for arm in arms if len(curve(arm, metric))]
    if not found:
        names = ", ".join(arm.experiment for arm in arms)
        raise NothingToDraw(f"{metric} was not logged in any run of {names}")
    return found


def wrapped(text: str, width: float) -> str:
    """`text` broken into lines that fit so many inches of a panel's title."""
    return "\n".join(textwrap.wrap(text, max(16, int(width * 10.5)), break_long_words=True))


def legend(figure: Figure, axes: Axes, loc: Literal["best", "upper right"] = "best", *, below: bool = False) -> None:
    """The legend of `axes`: inside where it is short, else (or if `below`) under the figure, which then grows."""
    handles, texts = axes.get_legend_handles_labels()
    if not handles:
        return
    if not below and len(texts) <= _LEGEND_INSIDE and max(map(len, texts)) <= 48:
        axes.legend(loc=loc)
        return
    width, height = figure.get_size_inches()
    texts = [wrapped(text, width - 1) for text in texts]
    longest = max(len(line) for text in texts for line in text.split("\n"))
    columns = max(1, min(len(texts), 4, int(width * 11 / (longest + 6))))
    lines = max(text.count("\n") + 1 for text in texts) * -(-len(texts) // columns)
    figure.set_size_inches(width, height + 0.17 * lines + 0.15)
    figure.legend(handles, texts, loc="outside lower center", ncols=columns, fontsize=8.5)


def panels(count: int, width: float, height: float, *, most: int = 4, **share: Any) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels of that many inches each, at most `most` to a row; empty places are left out."""
    columns = min(count, most)
    rows = -(-count // columns)
    figure = new_figure(columns * width, rows * height)
    grid = figure.subplots(rows, columns, squeeze=False, **share)
    for axes in list(grid.flat)[count:]:
        axes.remove()
    return figure, list(grid.flat)[:count]


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
