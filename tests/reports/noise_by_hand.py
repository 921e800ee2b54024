"""Runs with numbers by noise level that are known by formula, and the checks of the figures that show them."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection, QuadMesh
from scipy import stats

from ddpm.names import NOISE_BINS, NOISE_EDGES
from reports.experiments.selection import Selection
from reports.figures import FIGURES
from reports.figures.style import Drawn, theme
from tests.reports.by_hand import COLOURS, LABELS, MARKERS, error_bars, labels_of, near, the_line, upright
from tests.reports.conftest import chosen, write_run

STEPS = (2000, 8000, 10_000)  # the last two are the late window
CENTRES = np.array(NOISE_EDGES[:-1]) + 1
DRAWS = np.array([-1.0, 0.5, 1.5, -0.5, -0.5])
OWN = np.array([1.0, -1.0, 0.0, 2.0, -2.0])  # what a draw adds to e6 alone
RATIOS = np.array([0.5, 0.8, 0.98, 1.0, 1.01, 1.1, 1.25, 2.0])  # e6's trace over e5's
FIXED: dict[str, Any] = {"curvature__draws": "fixed", "train__total_steps": 10_000}
Z95 = float(stats.norm.ppf(0.975))
LOSSES = {"seen": 1.0, "unseen": 1.25, "gap": 0.25, "floor": 0.5, "excess": 0.5}  # of the loss on seen images


def values(experiment: str, step: int) -> np.ndarray:
    """(bins, draws) the trace of each draw. Draws are common to both arms, apart from `OWN`, which is 2 % of a unit."""
    level = (100 + 10_000 / step) * 2.0 ** np.arange(8)
    if experiment == "e5":
        return level[:, None] * (1 + 0.2 * DRAWS)
    return level[:, None] * RATIOS[:, None] * (1 + 0.2 * DRAWS + 0.02 * OWN)


def loss(experiment: str, step: int) -> np.ndarray:
    """(bins,) the loss on seen images."""
    return (0.75 if experiment == "e6" else 1.0) * (1 + 2000 / step) * np.geomspace(0.01, 1.28, 8)


def rows(experiment: str) -> list[tuple[int, dict[str, Any]]]:
    found = []
    for step in STEPS:
        row: dict[str, Any] = {"train/loss": 1.0}
        every = values(experiment, step)
        for name, each in zip(NOISE_BINS, every, strict=True):
            key = f"curvature/trace_by_noise/{name}"
            row |= {f"{key}_mean": each.mean(), f"{key}_sem": sem(each), f"{key}_values": each.tolist()}
        whole = every.mean(axis=0)
        row |= {"curvature/neutral_trace_mean": whole.mean(), "curvature/neutral_values": whole.tolist()}
        for name, seen in zip(NOISE_BINS, loss(experiment, step), strict=True):
            row |= {f"loss_by_noise/{name}_{what}": factor * seen for what, factor in LOSSES.items()}
            row |= {f"loss_by_noise/{name}_{what}_sem": 0.1 * factor * seen for what, factor in LOSSES.items()}
        found.append((step, row))
    return found


def sem(each: np.ndarray) -> float:
    return float(each.std(ddof=1) / len(each) ** 0.5)


def selection(root: Path) -> Selection:
    for experiment in ("e5", "e6"):
        write_run(root / experiment, experiment, rows=rows(experiment), **FIXED)
    return chosen(root, "e6")


def draw(name: str, chosen_runs: Selection) -> Drawn:
    with theme():
        return FIGURES[name][1](chosen_runs, False)


def ratio(before: np.ndarray, after: np.ndarray) -> tuple[float, float, float]:
    """after / before of the means over draws, with its 95 % interval: Student's t of after_k - R before_k."""
    number = after.mean() / before.mean()
    reach = stats.t.ppf(0.975, len(before) - 1) * sem(after - number * before) / before.mean()
    return number, number - reach, number + reach


def cells(axes: Axes) -> np.ndarray:
    """(bins, columns) the numbers of the only grid of cells."""
    (mesh,) = [each for each in axes.collections if isinstance(each, QuadMesh)]
    return np.ma.filled(np.ma.asarray(mesh.get_array(), dtype=float), np.nan)


def hatched(axes: Axes) -> set[tuple[float, float]]:
    """The middle of each cell that is hatched."""
    found = [each for each in axes.collections if isinstance(each, PolyCollection) and each.get_hatch()]
    return {tuple(path.vertices[:4].mean(axis=0)) for each in found for path in each.get_paths()}


def edges(axes: Axes) -> np.ndarray:
    (mesh,) = [each for each in axes.collections if isinstance(each, QuadMesh)]
    return np.asarray(mesh.get_coordinates())[0, :, 0]


def trace_by_noise(_: object, root: Path) -> None:
    """The hatched cells are exactly those whose interval includes 1. Catches bins or steps in another order, an
    inverted ratio, panels on two scales, the errors of both arms added as if independent, and marks on the decided
    cells."""
    drawn = draw("trace_by_noise", selection(root))
    e5, e6, key, against, *bars = drawn.figure.axes
    for axes, arm in ((e5, "e5"), (e6, "e6")):
        assert near(cells(axes), np.stack([values(arm, step).mean(axis=1) for step in STEPS], axis=1))
        assert near(edges(axes), [1000, 5000, 9000, 11_000]) and axes.get_title() == LABELS[arm]
    assert len({tuple(axes.collections[0].get_clim()) for axes in (e5, e6)}) == 1
    wanted = [[ratio(*pair) for pair in zip(values("e5", n), values("e6", n), strict=True)] for n in STEPS]
    assert near(cells(against), np.array(wanted)[..., 0].T)
    middles = [(low + high) / 2 for low, high in zip(edges(against)[:-1], edges(against)[1:], strict=True)]
    undecided = {
        (x, float(y))
        for x, column in zip(middles, wanted, strict=True)
        for y, (_, low, high) in zip(CENTRES, column, strict=True)
        if low <= 1 <= high
    }
    assert hatched(against) == undecided and len(undecided) == 9  # the three bins next to a ratio of 1
    assert near(np.prod(against.collections[0].get_clim()), 1.0) and not hatched(e5) | hatched(e6)
    assert "e6 / e5: above 1 in 9 cells, below in 6, undecided (hatched) in 9." in drawn.caption
    assert "includes it" in key.get_legend().get_texts()[0].get_text() and len(bars) == 2
    assert against.get_ylim() == (-8, 8) and "noise → clean image" in against.get_ylabel()


def trace_ratio_by_noise(_: object, root: Path) -> None:
    """Catches the early step in the mean, errors that average out over steps though the draws are the same, bars of one
    error, and a caption that takes undecided levels for decided ones."""
    drawn = draw("trace_ratio_by_noise", selection(root))
    left, right = drawn.figure.axes
    late = {arm: np.mean([values(arm, step) for step in STEPS[1:]], axis=0) for arm in ("e5", "e6")}
    for arm, each in late.items():
        the_line(left, CENTRES, each.mean(axis=1), color=COLOURS[arm], marker=MARKERS[arm])
        errors = np.mean([[sem(bin_) for bin_ in values(arm, step)] for step in STEPS[1:]], axis=0)
        upright(left, COLOURS[arm], CENTRES, each.mean(axis=1), Z95 * errors)
    wanted = np.array([ratio(*pair) for pair in zip(late["e5"], late["e6"], strict=True)])
    the_line(right, CENTRES, wanted[:, 0], color=COLOURS["e6"], marker="s")
    ((shade, bars),) = error_bars(right)
    assert shade == COLOURS["e6"] and near(bars[:, :, 1], wanted[:, 1:])
    the_line(right, [0, 1], [1, 1], color="black")
    assert (left.get_yscale(), right.get_yscale()) == ("log", "log") and labels_of(left) == [LABELS["e5"], LABELS["e6"]]
    assert [text.get_text() for text in right.get_xticklabels()][:: len(NOISE_EDGES) // 2] == [
        *("−8\nnoise", "8\nclean image")
    ]
    assert drawn.caption.startswith("Means over the measurements at steps 8000 to 10000")
    said = "e6's trace against e5's: above at log SNR 2 to 8, below at log SNR -8 to -4, undecided at log SNR -4 to 2"
    number, low, high = ratio(*(each.mean(axis=0) for each in late.values()))
    assert f"{said}; over all levels its ratio is {number:.3f} ({low:.3f} to {high:.3f})." in drawn.caption


def loss_over_floor(_: object, root: Path) -> None:
    """A column for each step. Catches the loss on unseen images, the excess of another step or arm, bars of one error,
    and no floor."""
    drawn = draw("loss_over_floor", selection(root))
    grid = np.array(drawn.figure.axes).reshape(2, 3)
    for (top, bottom), step in zip(grid.T, STEPS, strict=True):
        for arm in ("e5", "e6"):
            for axes, factor in ((top, 1.0), (bottom, 0.5)):
                each = factor * loss(arm, step)
                the_line(axes, CENTRES, each, color=COLOURS[arm], marker=MARKERS[arm])
                upright(axes, COLOURS[arm], CENTRES, each, Z95 * 0.1 * each)
            the_line(top, CENTRES, 0.5 * loss(arm, step), color="black", linestyle=":")
        assert top.get_title() == f"step {step}" and {top.get_yscale(), bottom.get_yscale()} == {"log"}
    assert labels_of(grid[0, 0])[0].startswith("floor") and "not positive" not in drawn.caption


def seen_vs_unseen(_: object, root: Path) -> None:
    """The last step. Catches seen and unseen swapped, a gap in per cent of the unseen loss, and bars of one error."""
    drawn = draw("seen_vs_unseen", selection(root))
    left, right = drawn.figure.axes
    for arm in ("e5", "e6"):
        seen = loss(arm, 10_000)
        the_line(left, CENTRES, seen, color=COLOURS[arm], linestyle="-")
        the_line(left, CENTRES, 1.25 * seen, color=COLOURS[arm], markerfacecolor="white")
        the_line(right, CENTRES, np.full(8, 25.0), color=COLOURS[arm], marker=MARKERS[arm])
        upright(right, COLOURS[arm], CENTRES, np.full(8, 25.0), np.full(8, Z95 * 2.5))
    assert labels_of(left)[:2] == ["seen", "unseen"] and "at step 10000" in left.get_title()
    assert "e5's loss is higher on unseen images at log SNR -8 to 8; e6's" in drawn.caption


CHECKS = {check.__name__: check for check in (trace_by_noise, trace_ratio_by_noise, loss_over_floor, seen_vs_unseen)}
