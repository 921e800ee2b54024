"""A small fixed selection of runs whose numbers are known by formula, and helpers that read back what a figure or a
page shows.

There are two arms, e5 and e6, with two seeds each, and e1 as context. Each run has 20 rows and three milestones.
`logged` gives what every run logged. The tests work out everything else from that, with plain arithmetic.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.container import ErrorbarContainer
from matplotlib.lines import Line2D
from scipy import stats

from reports.experiments.selection import Selection
from tests.reports.conftest import chosen, write_run

Z95 = 1.959964  # the 97.5 % point of the normal distribution, from any table
STEPS = np.arange(500, 10_001, 500)
MILESTONES = (2000, 6000, 10_000)
EARLY, LATE = STEPS <= 2000, STEPS >= 8000
FLOOR, CEILING = 1.25, 50.0
COLOURS = {"e5": "#0173b2", "e6": "#de8f05", "e1": "#4d4d4d"}  # seaborn's `colorblind`: blue, orange; and grey
MARKERS = {"e5": "o", "e6": "s", "e1": "D"}
LABELS = {"e5": "e5: loss.weighting = constant", "e6": "e6: loss.weighting = minsnr"}
TIMESTEPS = (100, 500, 900)
LATE_PROFILES, EARLIER_PROFILES = (8000, 9000, 10_000), (2000, 7500)
WEIGHTS = {"t": (0.0, 1000.0), "weight": (0.25, 1.25)}  # e6's weights, a straight line: t / 1000 + 1 / 4
_FIDS = {
    ("e5", 1): (40.0, 30.0, 24.0),
    ("e5", 2): (43.0, 33.0, 25.0),
    ("e6", 1): (38.0, 27.0, 28.0),
    ("e6", 2): (39.0, 29.0, 29.2),
    ("e1", 1): (35.0, 36.0, 31.0),
}
_FID_ERRORS = {"e5": (2.0, 1.0, 0.5), "e6": (1.0, 0.75, 1.5), "e1": (0.25, 0.25, 0.25)}
FINALS = {("e5", 1): 22.0, ("e5", 2): 23.5, ("e6", 1): 20.0, ("e6", 2): 21.2, ("e1", 1): 19.0}
SECONDS = {  # after the last step: train, probe, sample, features, distance, recon, total
    ("e5", 1): (200.0, 40.0, 30.0, 10.0, 6.0, 2.0, 300.0),
    ("e5", 2): (220.0, 60.0, 34.0, 14.0, 10.0, 4.0, 364.0),
    ("e6", 1): (240.0, 100.0, 32.0, 12.0, 8.0, 0.0, 420.0),
    ("e6", 2): (260.0, 120.0, 36.0, 16.0, 12.0, 0.0, 444.0),
}
PARTS = ("train", "probe", "sample", "features", "distance", "recon", "total")
BATCH = {"e5": 4, "e6": 8}  # they differ, so images seen and steps are different axes


def logged(experiment: str, seed: int) -> dict[str, np.ndarray]:
    """metric -> its 20 values, at `STEPS`. An FID has only the values at `MILESTONES`."""
    i, u = np.arange(1.0, 21.0), seed - 1.0
    wave = np.where(i % 2 == 0, 1.0, -1.0)
    e6 = experiment == "e6"
    i = i[::-1] if experiment == "e1" else i  # e1's traces rise
    trained = 600 - 14 * i + 28 * u + 6 * wave if e6 else 800 - 20 * i + 40 * u
    common = 930 - 25 * i + 10 * u if e6 else 880 - 22 * i + 30 * u
    errors = {"hutch": 6 + i / 5 + 2 * u if e6 else 8 + i / 4 + u, "ref": 9 - i / 5 + u if e6 else 12 - i / 4 + 2 * u}
    mse = 3 + (20 - i) / 10 + 0.2 * u
    return {
        "train/loss": (0.5 if e6 else 1.0) * (2 + (20 - i) ** 2 / 100 + 0.1 * wave) + 0.25 * u,
        "train/mse": mse * (0.85 + i / 100) + 0.15 * wave if e6 else mse,
        "train/grad_global_L2": (0.4 if e6 else 0.5) + 1 / i + 0.05 * u,
        "train/grad_abs_mean": 1e-4 * (0.5 * u + (2 + i / 4 + 2 * wave if e6 else 1 + (7 * i) % 11)),
        "curvature/hutch_trace_mean": trained,
        "curvature/hutch_trace_std": 30 + (7 * i) % 20 + u if e6 else 40 + (3 * i) % 20 + 2 * u,
        "curvature/hutch_trace_sem": errors["hutch"],
        "curvature/ref_trace_mean": common,
        "curvature/ref_trace_sem": errors["ref"],
        "train/images_seen": BATCH.get(experiment, 4) * STEPS.astype(float),
        "val/fid": np.array(_FIDS[experiment, seed]),
        "val/fid_sem": np.array(_FID_ERRORS[experiment]),
        "val/kid": np.array(_FIDS[experiment, seed]) / 1000 + 0.001 * u,
    }


def mean(experiment: str, metric: str, seeds: Sequence[int] = (1, 2)) -> np.ndarray:
    """The mean over the seeds' logged values."""
    return sum(logged(experiment, seed)[metric] for seed in seeds) / len(seeds)


def at_milestones(values: np.ndarray) -> np.ndarray:
    """The values at `MILESTONES`, from the 20 values of a metric."""
    return values[[int(step) // 500 - 1 for step in MILESTONES]]


def smoothed(values: np.ndarray, reach: int = 1) -> np.ndarray:
    """The mean of each value and its neighbours up to `reach` places away. The ends have fewer neighbours."""
    return np.array([values[max(0, i - reach) : i + reach + 1].mean() for i in range(len(values))])


def seconds(experiment: str, seed: int) -> dict[str, float]:
    return dict(zip(PARTS, SECONDS[experiment, seed], strict=True))


def profile_value(experiment: str, seed: int, t: int, step: int) -> float:
    """The logged eps-MSE of a timestep. Before the late window it is a hundred times as large."""
    late = {8000: 2.0, 9000: 1.0, 10_000: 1.2}.get(step, 100.0)
    return late * (1000 / t) * (0.75 if experiment == "e6" else 1.0) + 0.25 * (seed - 1)


def rows(experiment: str, seed: int, protocol: str = "aaaa1111") -> list[tuple[int, dict[str, Any]]]:
    """The run's rows, as `write_run` takes them."""
    values = logged(experiment, seed)
    found: list[tuple[int, dict[str, Any]]] = []
    for place, step in enumerate(map(int, STEPS)):
        row = {name: float(each[place]) for name, each in values.items() if not name.startswith("val/")}
        if (experiment, seed) in SECONDS:
            row |= {f"time/{part}_s": s * step / 10_000 for part, s in seconds(experiment, seed).items() if s}
        if step in MILESTONES:
            row |= {name: float(values[name][MILESTONES.index(step)]) for name in values if name.startswith("val/")}
            row |= {"val/fid_floor": FLOOR, "val/fid_ceiling": CEILING, "val/fid_protocol": protocol}
        if step in (*EARLIER_PROFILES, *LATE_PROFILES) and experiment != "e1":
            row |= {f"mse_per_t/mse_t{t:04d}": profile_value(experiment, seed, t, step) for t in TIMESTEPS}
        found.append((step, row))
    found[-1][1].update({"final/fid": FINALS[experiment, seed], "final/fid_protocol": "bbbb2222"})
    if experiment == "e1":
        found.append((30_000, {"train/loss": 1.0}))
    weight = {"loss/mean_weight": 0.75, **{f"mins_snr_curve/{k}": list(v) for k, v in WEIGHTS.items()}}
    found.append((0, weight if experiment == "e6" else {"loss/mean_weight": 1.0}))
    return found


def pixel(experiment: str, seed: int, step: int) -> int:
    """The single grey level (0 to 255) of that run's sample grid."""
    return 100 * (experiment == "e6") + 20 * seed + step // 1000


def write_runs(root: Path, seeds: Sequence[int], *, context: bool = False) -> Path:
    """Write run folders of e5 and e6 with these seeds and sample grids (e6 has no grid at the end). `context` adds
    e1."""
    for experiment in ("e5", "e6"):
        for seed in seeds:
            values = {"train__total_steps": 10_000, "eval__sample_seed": 0}
            folder = write_run(root / f"{experiment}-{seed}", experiment, seed, rows=rows(experiment, seed), **values)
            for old in (folder / "samples").iterdir():
                old.unlink()
            for step in MILESTONES[: 2 if experiment == "e6" else 3]:
                grey = np.full((4, 6, 3), pixel(experiment, seed, step), dtype=np.uint8)
                matplotlib.image.imsave(folder / "samples" / f"step-{step:06d}.png", grey)
    if context:
        write_run(root / "e1", "e1", 1, rows=rows("e1", 1), train__total_steps=30_000, eval__sample_seed=0)
    return root


def describe(folder: Path, protocols: dict[str, Any]) -> None:
    """Write these protocols of the run's FIDs into its folder."""
    card = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(card | {"protocols": protocols}))


@dataclass(frozen=True)
class Selections:
    """`two`: two seeds of each arm. `one`: the first seed of each arm, with e1 as context. `of_one`: the folder of
    `one`."""

    two: Selection
    one: Selection
    of_one: Path


def make_selections(root: Path) -> Selections:
    two, one = write_runs(root / "two", (1, 2)), write_runs(root / "one", (1,), context=True)
    return Selections(chosen(two, "e6"), chosen(one, "e6"), one)


def student(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Mean -+ t s / sqrt(k), the 95 % interval of k values."""
    values = np.asarray(values, dtype=float)
    reach = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return values.mean() - reach, values.mean() + reach


# ---- what is drawn ---------------------------------------------------------------------------------------


def near(found: Any, wanted: Any) -> bool:
    """Whether two rows of numbers have the same length and are equal up to rounding."""
    one, other = np.asarray(found, dtype=float), np.asarray(wanted, dtype=float)
    return one.shape == other.shape and np.allclose(one, other, rtol=1e-9, atol=1e-12)


def the_line(axes: Axes, x: Any, y: Any, **look: Any) -> Line2D:
    """Return the only line with these points and this look (color, marker, linestyle, linewidth, label)."""
    there = [line for line in axes.lines if near(line.get_xdata(), x) and near(line.get_ydata(), y)]
    found = [line for line in there if {key: getattr(line, f"get_{key}")() for key in look} == look]
    others = [(line.get_label(), line.get_color(), list(line.get_ydata())) for line in axes.lines]
    assert len(found) == 1, f"{len(found)} of {len(there)} lines of {list(y)} look so: {look}. All: {others}"
    return found[0]


def count_lines(axes: Axes) -> int:
    """The number of lines with points. Caps of error bars do not count."""
    caps = [cap for bar in axes.containers if isinstance(bar, ErrorbarContainer) for cap in bar.lines[1]]
    return sum(len(line.get_xdata()) > 0 for line in axes.lines if line not in caps)


def bands(axes: Axes) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, str]]:
    """(x, low, high, colour) of each area that is shaded between two curves."""
    found = []
    for shade in axes.collections:
        if isinstance(shade, PolyCollection):
            corners = shade.get_paths()[0].vertices
            x = np.unique(corners[:, 0])
            ends = [corners[corners[:, 0] == each, 1] for each in x]
            colour = _hex(shade.get_facecolor()[0])
            found.append((x, np.array([e.min() for e in ends]), np.array([e.max() for e in ends]), colour))
    return found


def the_band(axes: Axes, x: Any, low: Any, high: Any, colour: str) -> None:
    """Assert that exactly one band has this colour, and that it lies between `low` and `high`."""
    (mine,) = [band for band in bands(axes) if band[3] == colour]
    assert near(mine[0], x), mine[0]
    assert near(mine[1], low) and near(mine[2], high), (mine[1], np.asarray(low), mine[2], np.asarray(high))


def error_bars(axes: Axes) -> list[tuple[str, np.ndarray]]:
    """(colour, (n, 2, 2) ends of each bar) for every set of error bars."""
    return [
        (_hex(lines.get_color()[0]), np.array(lines.get_segments()))
        for bar in axes.containers
        if isinstance(bar, ErrorbarContainer)
        for lines in bar.lines[2]
    ]


def upright(axes: Axes, colour: str, x: Any, y: Any, reach: Any) -> None:
    """Assert that one set of vertical error bars has this colour and reaches from y - reach to y + reach."""
    (bars,) = [ends for shade, ends in error_bars(axes) if shade == colour]
    y, reach = np.asarray(y), np.asarray(reach)
    assert near(bars[:, 0, 0], x) and near(bars[:, 1, 0], x)
    assert near(bars[:, 0, 1], y - reach) and near(bars[:, 1, 1], y + reach), (bars[:, :, 1], y, reach)


def scattered(axes: Axes) -> tuple[np.ndarray, np.ndarray]:
    """(x and y, (n, 2); the values that colour the points, (n,)) of the only scatter."""
    (points,) = [each for each in axes.collections if isinstance(each, PathCollection)]
    return np.asarray(points.get_offsets()), np.asarray(points.get_array())


def labels_of(axes: Axes) -> list[str]:
    return axes.get_legend_handles_labels()[1]


def _hex(shade: Any) -> str:
    return "#" + "".join(f"{round(255 * float(part)):02x}" for part in shade[:3])


# ---- what a page says ------------------------------------------------------------------------------------


def tables(page: str) -> dict[str, list[list[str]]]:
    """head of the first column -> rows of cells, for each table of a Markdown page."""
    found: dict[str, list[list[str]]] = {}
    for block in re.findall(r"(?:^\|.*\n?)+", page.replace("\\_", "_"), flags=re.MULTILINE):
        cells = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in block.splitlines()]
        found[cells[0][0]] = [cells[0], *cells[2:]]
    return found


def says(text: str, *wanted: float | None) -> None:
    """Assert that the text has these numbers, each exact to its digits. None stands for a dash."""
    pattern = r"(?<![\w.])[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]\d+)?|(?<!\S)–(?!\S)"
    found = re.findall(pattern, text)
    assert len(found) == len(wanted), (text, wanted)
    for shown, value in zip(found, wanted, strict=True):
        if value is None or shown == "–":
            assert value is None and shown == "–", (text, wanted)
        else:
            assert close(shown, value), (text, shown, value)


def close(shown: str, value: float) -> bool:
    """Whether `shown` equals `value` to the digits shown."""
    digits, _, power = shown.replace(",", "").partition("e")
    unit = 10.0 ** (-len(digits.partition(".")[2]) + int(power or 0))
    return abs(float(shown.replace(",", "")) - value) <= 0.5 * unit * (1 + 1e-6)


def four(value: float) -> str:
    """A number with four digits, as the page's sentences print it."""
    return f"{value:#.4g}".rstrip(".")
