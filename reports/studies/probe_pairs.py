"""Two runs' curvature draw by draw, from files of `ddpm probe --out` that were measured on the same draws.

Differences are taken for each draw: what a draw adds to both runs cancels, so the interval over the draws is that of
the weights' difference alone. Each seed has its own pair of files.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.ticker import FuncFormatter

from ddpm.errors import UserError
from ddpm.files.disk import require_file
from reports.figures.style import Drawn, new_figure, palette, save, theme, thousands
from reports.stats.intervals import student

Array = npt.NDArray[np.float64]
LOSSES = {"hutch": "each arm's own, trained loss", "ref": "the common unweighted loss"}
COLUMNS = ("loss", "seed", "step", "baseline", "variant", "change_pct", "low_pct", "high_pct", "interval_over")


@dataclass(frozen=True)
class Probes:
    """One run's probes. values: loss -> (steps, draws), the trace from each draw."""

    run_id: str
    experiment: str
    seed: int
    design: dict[str, Any]
    steps: tuple[int, ...]
    values: dict[str, Array]


def read(path: Path) -> Probes:
    """Read a file of `ddpm probe --out`. Raises UserError if it is not one, or lacks the traces."""
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        first = lines[0]
        values = {}
        for loss in LOSSES:
            name = f"curvature/{loss}_values"
            key = f"{name}_improved" if f"{name}_improved" in first["details"] else name
            rows = np.array([line["details"][key] for line in lines], dtype=float)  # null is NaN
            draws = first["curvature"]["probes"] // first["curvature"]["per_draw"]
            values[loss] = rows.reshape(len(rows), draws, -1).mean(2)  # older files have each vector's value
        design = {**first["curvature"], "images": first["images"]}
        steps = tuple(line["_i"] for line in lines)
        return Probes(first["run_id"], first["experiment"], first["seed"], design, steps, values)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path} is no file of `ddpm probe --method hutchinson --out FILE`: {error!r}.") from None


def pair(baseline: Probes, variant: Probes) -> pd.DataFrame:
    """`COLUMNS`, a row for each loss and step, and one for all steps together (step 0); 95 % by Student's t over draws.

    change_pct: 100 (quotient of the two means over the draws - 1); at step 0, for the means over all steps.
    Raises UserError if the two were not measured alike.
    """
    for name, one, other in (("draws", baseline.design, variant.design), ("steps", baseline.steps, variant.steps)):
        if one != other:
            who = f"{baseline.experiment} and {variant.experiment}"
            raise UserError(f"{who} were probed with different {name}: {one}; {other}. Probe both alike.")
    if baseline.design["draws"] != "fixed":
        raise UserError("Probes share their draws only with curvature.draws=fixed. Probe both runs with it.")
    rows = []
    for loss in LOSSES:
        a, b = baseline.values[loss], variant.values[loss]
        whole = np.isfinite(a).all(0) & np.isfinite(b).all(0)
        a, b = a[:, whole], b[:, whole]
        parts = [(step, a[i], b[i]) for i, step in enumerate(baseline.steps)]
        for step, of_a, of_b in (*parts, (0, a.mean(0), b.mean(0))):
            level = (of_a.mean(), of_b.mean(), *_change(of_a, of_b), f"{len(of_a)} draws")
            rows.append(dict(zip(COLUMNS, (loss, str(baseline.seed), step, *level), strict=True)))
    return pd.DataFrame(rows)


def _change(a: Array, b: Array) -> tuple[float, float, float]:
    """100 (mean b / mean a - 1) and its interval. To first order (delta method) its error is that of (b - R a) / mean a
    with the quotient R held fixed, which includes the error of the mean of a."""
    quotient = b.mean() / a.mean()
    low, high = student(100 * (b - quotient * a) / a.mean())
    change = 100 * (quotient - 1)
    return change, change + low, change + high


def over_seeds(tables: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
    """The mean over the seeds' tables with Student's interval over the seeds; none for fewer than two seeds. All were
    measured on the same draws, whose common error is not in the interval."""
    if len(tables) < 2:
        return []
    rows = []
    for (loss, step), group in pd.concat(tables).groupby(["loss", "step"], sort=False):
        if len(group) == len(tables):
            change = group["change_pct"].to_numpy()
            level = (group["baseline"].mean(), group["variant"].mean(), change.mean(), *student(change))
            rows.append(
                dict(zip(COLUMNS, (loss, "all", step, *level, f"{len(change)} seeds, given these draws"), strict=True))
            )
    return [pd.DataFrame(rows)] if rows else []


def draw(tables: Sequence[pd.DataFrame], names: tuple[str, str]) -> Drawn:
    """The change in per cent by step: a panel for each loss, a line and a band for each seed."""
    figure = new_figure(7.5, 6.4)
    axes = figure.subplots(2, 1, sharex=True, sharey=True)
    for ax, (loss, whose) in zip(axes, LOSSES.items(), strict=True):
        for place, table in enumerate(tables):
            mine = table[(table["loss"] == loss) & (table["step"] > 0)]
            look: dict[str, Any] = {"color": palette(place), "marker": "osD^v"[place % 5], "markersize": 4}
            ax.plot(mine["step"], mine["change_pct"], label=f"seed = {mine['seed'].iloc[0]}", **look)
            ax.fill_between(mine["step"], mine["low_pct"], mine["high_pct"], color=palette(place), alpha=0.2, lw=0)
        ax.axhline(0, color="black", lw=0.8)
        ax.set_title(f"Hessian trace of {whose}")
        ax.set_ylabel(f"{names[1]} against {names[0]}\n(% of {names[0]}'s trace)")
    axes[-1].set_xlabel("training step")
    axes[-1].xaxis.set_major_formatter(FuncFormatter(thousands))
    axes[0].legend(title="band: 95 % over the draws", fontsize=8, title_fontsize=8)
    return Drawn(figure, "")


def compare(baseline: Sequence[Path], variant: Sequence[Path], out: Path) -> str:
    """Write `out`.csv, .png and .svg from pairs of files, one for each seed; the rows over all steps, as text.

    Raises UserError, and writes nothing, if files cannot be read or paired.
    """
    for ending in (".csv", ".png", ".svg"):
        require_file(out.with_suffix(ending))
    if len(baseline) != len(variant):
        raise UserError(f"{len(baseline)} baseline files and {len(variant)} variant files cannot be paired.")
    runs = [(read(a), read(b)) for a, b in zip(baseline, variant, strict=True)]
    tables = [pair(a, b) for a, b in runs]
    out.parent.mkdir(parents=True, exist_ok=True)
    table = pd.concat([*tables, *over_seeds(tables)], ignore_index=True)
    table.to_csv(out.with_suffix(".csv"), index=False, float_format="%.5g")
    with theme():
        save(draw(tables, (runs[0][0].experiment, runs[0][1].experiment)), out)
    return table[table["step"] == 0].to_string(index=False, float_format="{:.3g}".format)
