"""Figures with the diffusion timestep t on the x-axis."""

import re
from typing import Any

import numpy as np
import pandas as pd

from reports.experiments.selection import Arm, Selection
from reports.figures.style import (
    Drawn,
    NothingToDraw,
    arm_labels,
    colour,
    dash,
    legend,
    marker,
    panels,
    seeds_text,
)
from reports.stats.statistics import in_window

PER_T = re.compile(r"mse_per_t/mse_t(\d+)$")
_BINS = 10  # of a log that holds single timesteps, as the original study's


def timestep_profile(selection: Selection, _allow_mixed: bool) -> Drawn:
    """eps-MSE by timestep late in training, the weights, and their product: where an arm's loss comes from."""
    profiles = {arm.experiment: profile(arm, selection.study.windows.late) for arm in selection.arms}
    curves = {arm.experiment: weight_curve(arm) for arm in selection.arms}
    scored = [arm for arm in selection.arms if len(profiles[arm.experiment])]
    weighted = [arm for arm in selection.arms if len(curves[arm.experiment])]
    if not scored and not weighted:
        raise NothingToDraw("neither mse_per_t/... nor mins_snr_curve/... was logged")
    labels = arm_labels(selection.arms, selection)
    shown = [scored, weighted, [arm for arm in scored if arm in weighted]]
    titles = ("eps-MSE, unweighted", "weight of the eps-MSE", "weight × eps-MSE")
    drawn = [(arms, title) for arms, title in zip(shown, titles, strict=True) if arms]
    figure, row = panels(len(drawn), 4.0, 3.6)
    for axes, (arms, title) in zip(row, drawn, strict=True):
        for arm in arms:
            _plot(axes, arm, title, profiles[arm.experiment], curves[arm.experiment], labels[arm.experiment])
        positive = any(np.any(np.asarray(line.get_ydata(), dtype=float) > 0) for line in axes.lines)
        axes.set(xlabel="timestep t", ylabel=f"{title}\n(log scale)" if positive else title, title=title)
        axes.set_yscale("log" if positive else "linear")
    legend(figure, max(row, key=lambda axes: len(axes.get_legend_handles_labels()[0])), below=True)
    without = [arm.experiment for arm in selection.arms if arm not in weighted]
    unknown = f" The weights of {', '.join(without)} were not logged." if without else ""
    return Drawn(figure, f"{_points_text(profiles)} {seeds_text(selection.arms, bands=False).capitalize()}.{unknown}")


def _plot(axes: Any, arm: Arm, title: str, table: pd.DataFrame, weights: pd.Series, text: str) -> None:
    look: dict[str, Any] = {"color": colour(arm.experiment), "linestyle": dash(arm.experiment), "label": text}
    if title.startswith("weight of"):
        axes.plot(weights.index, weights, linewidth=1.6, **look)
        return
    by = 1.0
    if title.startswith("weight ×"):
        by = np.interp(table.index.to_numpy(dtype=float), weights.index.to_numpy(dtype=float), weights.to_numpy())
    error = None if table["error"].isna().any() else table["error"] * by
    axes.errorbar(table.index, table["mse"] * by, yerr=error, marker=marker(arm.experiment), capsize=2, lw=1.2, **look)


def profile(arm: Arm, late: tuple[float, float]) -> pd.DataFrame:
    """Columns `mse`, `error` by t: the mean over the late window, and its standard error over the values in it.

    Timesteps on a fixed grid are shown one by one. The original study logged whichever t its batch drew: those are
    gathered in ten bins, at their mean t.
    """
    rows: list[tuple[int, int, float]] = []
    for run in arm.runs:
        for column in run.history.columns:
            if found := PER_T.match(column):
                values = in_window(run.series(column), arm.last_step, late)
                t = int(found[1])
                rows += zip([t] * len(values), values.index.tolist(), values.tolist(), strict=True)
    if not rows:
        return pd.DataFrame(columns=["mse", "error"], dtype=float)
    table = pd.DataFrame(rows, columns=["t", "step", "mse"])
    fixed = table["t"].nunique() <= 4 * _BINS and (table.groupby("step")["t"].nunique() == table["t"].nunique()).all()
    key = table["t"] if fixed else table["t"] * _BINS // (table["t"].max() + 1)
    grouped = table.groupby(key)
    binned = pd.DataFrame({"mse": grouped["mse"].mean(), "error": grouped["mse"].sem(), "t": grouped["t"].mean()})
    return binned.set_index("t").sort_index()


def weight_curve(arm: Arm) -> pd.Series:
    """The arm's weight of the eps-MSE by t, as the first run that has it logged it; empty where it is not known."""
    for run in arm.runs:
        t, weight = (run.arrays.get(f"mins_snr_curve/{name}", ()) for name in ("t", "weight"))
        if t and len(t) == len(weight):
            return pd.Series(weight, index=pd.Index(t, name="t"), dtype=float)
    if arm.config.get("loss.weighting") == "constant":  # by definition, whether it was logged or not
        return pd.Series(1.0, index=pd.Index([0, arm.config.get("diffusion.T", 1000) - 1], name="t"))
    return pd.Series(dtype=float)


def _points_text(profiles: dict[str, pd.DataFrame]) -> str:
    if not any(len(table) for table in profiles.values()):
        return "eps-MSE by timestep was not logged."
    return "eps-MSE: mean over the late window at each t or in bins of t; bars: ±1 standard error of what was logged."
