"""What all figures share: theme, panels, colours by experiment, legends, axis labels, sentences of captions."""

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
    """The figure's data are absent; the report gives the message as the reason."""


@dataclass
class Drawn:
    """A finished figure and its one-sentence caption."""

    figure: Figure
    caption: str


@contextmanager
def theme() -> Iterator[None]:
    """Draw inside with the seaborn theme; matplotlib's global settings stay as they are."""
    settings = sns.axes_style("whitegrid") | sns.plotting_context("paper", font_scale=1.15)
    settings |= {"axes.titlesize": 10.5, "svg.hashsalt": "reports", "legend.framealpha": 0.9}
    with matplotlib.rc_context(settings):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, `width` by `height` inches, on the Agg canvas with constrained layout."""
    figure = PlainFigure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(drawn: Drawn, stem: Path, *, dpi: int = DPI, svg: bool = True) -> Path:
    """Write `<stem>.png` and, if `svg`, `<stem>.svg`; returns the PNG. Equal data give equal bytes: no dates."""
    png = stem.with_name(stem.name + ".png")
    drawn.figure.draw_without_rendering()  # computes the layout once, not once or twice for each file
    drawn.figure.set_layout_engine(None)
    drawn.figure.savefig(png, dpi=dpi)
    if svg:
        drawn.figure.savefig(stem.with_name(stem.name + ".svg"), metadata={"Date": None})
    return png


def panels(count: int, width: float, height: float, *, most: int = 4, **share: Any) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, each `width` by `height` inches, at most `most` to a row."""
    columns = min(count, most)
    rows = -(-count // columns)
    figure = new_figure(columns * width, rows * height)
    grid = figure.subplots(rows, columns, squeeze=False, **share)
    for axes in list(grid.flat)[count:]:
        axes.remove()
    return figure, list(grid.flat)[:count]


# ---- colours ---------------------------------------------------------------------------------------------


def palette(place: int) -> str:
    """Colour number `place` of the reports' palette, for anything but an experiment."""
    return _PALETTE[place % len(_PALETTE)]


def colour(experiment: str) -> str:
    """The experiment's colour, the same in every figure of every report."""
    return _look(experiment)[0]


def marker(experiment: str) -> str:
    """The experiment's marker, so that arms differ in black and white too."""
    return _look(experiment)[1]


def dash(experiment: str) -> Any:
    """The experiment's line style: two arms of equal colour differ in it."""
    return _look(experiment)[2]


def look(experiment: str, *, marked: bool = False) -> dict[str, Any]:
    """The experiment's colour and line style, and its marker if `marked`, as arguments of `Axes.plot`."""
    shade, shape, line = _look(experiment)
    return {"color": shade, "linestyle": line} | ({"marker": shape} if marked else {})


# The experiments that are drawn most often. e9a and e9b are e5 and e6 on cosine betas: a like colour, dashed.
# Of the x_0- and the v-prediction, Min-SNR is dashed.
_FIXED: dict[str, tuple[str, str, Any]] = {
    **{"e1": ("#4d4d4d", "D", "-"), "e5": (_PALETTE[0], "o", "-"), "e6": (_PALETTE[1], "s", "-")},
    **{"e5_x0": (_PALETTE[4], "P", "-"), "e6_x0": (_PALETTE[6], "X", _DASHES[1])},
    **{"e5_v": (_PALETTE[2], "D", "-"), "e6_v": (_PALETTE[5], "h", _DASHES[1])},
    **{"e9a": (_PALETTE[8], "^", _DASHES[1]), "e9b": (_PALETTE[3], "v", _DASHES[1])},
}


def _look(experiment: str) -> tuple[str, str, Any]:
    return _TOLD_APART.get().get(experiment) or _own_look(experiment)


def _own_look(experiment: str) -> tuple[str, str, Any]:
    """Colour, marker and line style from the name alone.

    Numbered experiments (e8a, e8b; e13, e14) count through the palette, so that neighbours differ. Other names use a
    stable hash and never get the colours of e5 and e6.
    """
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


# The looks in the report that is being drawn, where some arms have to give way.
_TOLD_APART: ContextVar[dict[str, tuple[str, str, Any]]] = ContextVar("told_apart", default={})  # noqa: B039


@contextmanager
def told_apart(experiments: Sequence[str]) -> Iterator[None]:
    """Inside, no two of `experiments` share colour and line style: a later one takes the next free pair."""
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


# ---- legends and captions --------------------------------------------------------------------------------


def arm_labels(arms: Sequence[Arm], selection: Selection) -> dict[str, str]:
    """experiment -> legend text that names the difference, e.g. `e6: loss.weighting = minsnr`.

    Uses as few config keys as tell the arms apart, declared ones first, in the study's order.
    """
    globs = selection.study.difference

    def rank(key: str) -> tuple[bool, int, str]:
        place = next((i for i, glob in enumerate(globs) if matches(key, [glob])), len(globs))
        return key not in ("loss.weighting", "train.total_steps"), place, key

    def values(arm: Arm, keys: Sequence[str]) -> tuple[str, ...]:
        return tuple(show(arm.config, key) for key in keys)

    keys = sorted(differing_keys(arms), key=rank)
    chosen: list[str] = []
    while keys and len({values(arm, chosen) for arm in arms}) < len(arms):
        # the key that separates most arms; the first one in a tie
        best = max(keys, key=lambda key: len({values(arm, [*chosen, key]) for arm in arms}))
        chosen.append(best)
        keys.remove(best)
    labels = {}
    for arm in arms:
        text = ", ".join(f"{key} = {_short(show(arm.config, key))}" for key in chosen)
        labels[arm.experiment] = drawable(f"{arm.experiment}: {text}" if text else arm.experiment)
    return labels


def _short(value: str) -> str:
    """`value`; of a long one (a path, a list) only its two ends."""
    return value if len(value) <= _VALUE_LENGTH else f"{value[: _VALUE_LENGTH // 2 - 1]}…{value[-_VALUE_LENGTH // 2 :]}"


def seeds_text(arms: Sequence[Arm], *, bands: bool = True) -> str:
    """`mean over 3 seeds, band: 95 % bootstrap interval over seeds`, or `one seed per arm`."""
    counts = [len(arm.runs) for arm in arms]
    if max(counts) == 1:
        return "one seed per arm" if len(arms) > 1 else "one seed"
    if len(set(counts)) == 1:
        said = f"mean over {counts[0]} seeds"
    else:
        said = "mean over seeds (" + ", ".join(f"{arm.experiment}: {len(arm.runs)}" for arm in arms) + ")"
    return said + (", band: 95 % bootstrap interval over seeds" if bands else "")


def arms_with(arms: Sequence[Arm], metric: str) -> list[Arm]:
    """The arms with values of `metric`. Raises NothingToDraw if there are none."""
    found = [arm for arm in arms if len(curve(arm, metric))]
    if not found:
        names = ", ".join(arm.experiment for arm in arms)
        raise NothingToDraw(f"{metric} was not logged in any run of {names}")
    return found


def without(arms: Sequence[Arm], shown: Sequence[Arm], text: str) -> str:
    """` ` and `text` with the arms that are not `shown` in the place of `{}`; empty if all are shown."""
    names = ", ".join(arm.experiment for arm in arms if arm not in shown)
    return f" {text.format(names)}" if names else ""


def wrapped(text: str, width: float) -> str:
    """`text` broken into lines that fit a panel's title of `width` inches."""
    return "\n".join(textwrap.wrap(text, max(16, int(width * 10.5)), break_long_words=True))


def legend(figure: Figure, axes: Axes, loc: Literal["best", "upper right"] = "best", *, below: bool = False) -> None:
    """Draw the legend of `axes`: inside if it is short, else (or if `below`) under the figure, which then grows."""
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


def legend_below(figure: Figure, row: Sequence[Axes]) -> None:
    """Draw one legend under the figure: that of the panel with most entries."""
    legend(figure, max(row, key=lambda axes: len(axes.get_legend_handles_labels()[0])), below=True)


# ---- axes ------------------------------------------------------------------------------------------------


def label(metric: str, *more: str) -> str:
    """Axis label of `metric`. A long one has the unit and `more` on a second line."""
    text, _, unit = axis_label(metric).partition(" (")
    words = ", ".join(word for word in (unit.removesuffix(")"), *more) if word)
    if not words:
        return text
    return f"{text}\n({words})" if len(text + words) > _LABEL_LENGTH else f"{text} ({words})"


def thousands(value: float, _position: object = None) -> str:
    """Axis text of a step: `500`, `2k`, `2.5k`."""
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"


def step_axis(axes: Axes, arms: Sequence[Arm]) -> None:
    """Format the step axis: logarithmic if the longest run has at least three times the steps of the shortest."""
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
    """The y label of `metric`. Makes the axis logarithmic if the values are positive and span more than a decade."""
    values = pd.concat([curve(arm, metric) for arm in arms])
    if values.min() > 0 and values.max() > 10 * values.min():
        axes.set_yscale("log")
        return label(metric, "log scale")
    return label(metric)


def note_on(figure: Figure, *notes: str | None) -> None:
    """Write the notes, such as a warning about protocols, across the top of the figure; None is no note."""
    if text := " ".join(note for note in notes if note):
        figure.suptitle(text, color="#b30000", fontsize=8, wrap=True)
