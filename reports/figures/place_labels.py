"""Places labels at points so that they hide neither each other nor the points."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox


def place_labels(
    axes: Axes,
    points: Sequence[tuple[float, float, str, str]],
    lines: Sequence[Sequence[tuple[float, float]]],
) -> None:
    """Write text at points `(x, y, text, colour)`, each where it overlaps least.

    Greedy: each label takes the candidate place with the least overlap with points, earlier labels, the legend, `lines`
    (polylines in data coordinates) and the outside of the axes; the first one in a tie.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.canvas.draw()  # settles the layout, so that pixel positions are final
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
                cost = _overlap(box, taken) + size - _overlap(box, frame)  # area outside the frame costs too
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
