"""How an arm's metric is drawn over steps: what was logged, a line through it, the band of its seeds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgba
from numpy.typing import NDArray

from ddpm.metrics import Z95
from reports.experiments.selection import Arm
from reports.figures.style import colour, look
from reports.stats.statistics import curve, seed_band, standard_error

Array = NDArray[Any]
_DENSE = 5000  # with more points, the SVG holds them as an image
_CELLS = 20_000  # with more points, cells show how many there are
_ACROSS, _UP = 240, 120  # cells
# (up to this many points, (size, opacity)): few must be seen beside the line, many must not hide it.
_POINTS = ((400, (6.0, 0.55)), (_DENSE, (3.5, 0.3)), (_CELLS, (1.0, 0.12)))
_BAND_POINTS = 400  # a longer curve's band is drawn at this many steps


def plot_smoothed(axes: Axes, arm: Arm, metric: str, text: str) -> None:
    """Draw what every seed logged, and the rolling mean of their mean."""
    values = curve(arm, metric)
    raw_points(axes, arm, metric)
    window = smoothing_window(len(values))
    band(axes, arm, metric, window)
    line = smooth(values, window)
    axes.plot(line.index, line, linewidth=1.8, label=text, zorder=3, **look(arm.experiment))


def plot_line(axes: Axes, arm: Arm, metric: str, text: str) -> None:
    """Draw a curve of few points, such as FID at the milestones, with markers.

    Several seeds add their band and points; one seed adds the 95 % interval of each value if its error was logged.
    """
    values = curve(arm, metric)
    axes.plot(values.index, values, label=text, zorder=3, **look(arm.experiment, marked=True))
    band(axes, arm, metric)
    if len(arm.runs) > 1:
        raw_points(axes, arm, metric)
    elif len(error := standard_error(arm, metric).reindex(values.index)):
        bars: dict[str, Any] = {"ecolor": colour(arm.experiment), "capsize": 2, "elinewidth": 1, "zorder": 2}
        axes.errorbar(values.index, values, Z95 * error, fmt="none", **bars)


def smooth(values: pd.Series, window: int) -> pd.Series:
    """The centred rolling mean of `values` over `window` points, over fewer at the ends."""
    return values.rolling(window, center=True, min_periods=1).mean()


def smoothing_window(points: int) -> int:
    """The rolling mean's window for a curve of `points` points: odd, to be centred; 1 % of a long curve."""
    return max(min(15, 2 * (points // 16) + 1), 2 * (points // 200) + 1)


def smoothing_text(arms: Sequence[Arm], metric: str) -> str:
    """How `plot_smoothed` shows what was logged, for an axis title."""
    windows = [smoothing_window(len(curve(arm, metric))) for arm in arms]
    count = max(sum(len(run.series(metric)) for run in arm.runs) for arm in arms)
    shown = "shade: logged values, darker if there are more" if gathered(count) else "points: logged values"
    if max(windows) == 1:
        return shown
    number = str(windows[0]) if len(set(windows)) == 1 else " / ".join(map(str, windows))
    return f"{shown}; lines: centred rolling mean of {number}"


def raw_points(axes: Axes, arm: Arm, metric: str) -> None:
    """Draw what every seed logged, fainter than the line: as points, or as cells if there are very many."""
    found = [values for run in arm.runs if len(values := run.series(metric))]
    if not found:
        return
    x = np.concatenate([values.index.to_numpy() for values in found])
    y = np.concatenate([values.to_numpy() for values in found])
    shade = colour(arm.experiment)
    if gathered(len(x)):
        count, _, edges = in_cells(x, y)
        faint = LinearSegmentedColormap.from_list("faint", [to_rgba(shade, 0.08), to_rgba(shade, 0.5)])
        _draw_cells(axes, edges, np.log1p(count), faint, Normalize(0, np.log1p(count.max())))
        return
    size, alpha = next(look for most, look in _POINTS if len(x) <= most)
    axes.plot(x, y, ".", color=shade, alpha=alpha, markersize=size, zorder=2, rasterized=len(x) > _DENSE)


def scatter_by_step(axes: Axes, x: Array, y: Array, steps: Array, norm: Normalize) -> None:
    """Draw points coloured by step, or cells coloured by their points' mean step if there are very many."""
    if gathered(len(x)):
        _, mean, edges = in_cells(x, y, steps)
        _draw_cells(axes, edges, mean, "viridis", norm)
        return
    size = 16 if len(x) <= 1000 else 2
    axes.scatter(x, y, c=steps, cmap="viridis", norm=norm, s=size, zorder=3, rasterized=len(x) > _DENSE)


def gathered(count: int) -> bool:
    """Whether `count` points are shown in cells."""
    return count > _CELLS


def in_cells(x: Array, y: Array, value: Array | None = None) -> tuple[Array, Array, tuple[Array, Array]]:
    """Points (n,) in a grid of cells: their count, (across, up), masked if 0; the mean of `value`; the edges.

    The cells grow upward with y if it is positive and spans more than a decade, as `log_if_wide` would draw it.
    """
    low, high = float(y.min()), float(y.max())
    wide = low > 0 and high > 10 * low
    up = np.geomspace(low, high, _UP + 1) if wide else np.linspace(low, high if high > low else low + 1, _UP + 1)
    across = np.linspace(float(x.min()), float(x.max()) or 1.0, _ACROSS + 1)
    count, *_ = np.histogram2d(x, y, bins=(across, up))
    there = np.ma.masked_equal(count, 0)
    total = there if value is None else np.histogram2d(x, y, bins=(across, up), weights=value)[0]
    return there, total / there, (across, up)


def _draw_cells(axes: Axes, edges: tuple[Array, Array], value: Array, cmap: Any, norm: Normalize) -> QuadMesh:
    return axes.pcolormesh(*edges, value.T, cmap=cmap, norm=norm, rasterized=True, linewidth=0, zorder=2)


def band(axes: Axes, arm: Arm, metric: str, window: int = 1) -> None:
    """Shade the 95 % bootstrap interval over seeds; one seed has none."""
    reach = seed_band(arm, metric, window, _BAND_POINTS)
    if len(reach):
        shade = colour(arm.experiment)
        axes.fill_between(reach.index, reach["low"], reach["high"], color=shade, alpha=0.2, linewidth=0)
