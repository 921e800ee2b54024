"""Figures with the diffusion timestep t on the x-axis."""

import re
from typing import Any

import numpy as np
import pandas as pd

from reports.experiments.selection import Arm, Selection
from reports.figures import style
from reports.figures.style import Drawn, NothingToDraw
from reports.stats.statistics import in_window

PER_T = re.compile(r"mse_per_t/mse_t(\d+)$")
_BINS = 10  # for logs of single timesteps, such as the original study's


def timestep_profile(selection: Selection, _allow_mixed: bool) -> Drawn:
    """eps-MSE by timestep late in training, the weights, and their product: where an arm's loss comes from."""
    profiles = {arm: profile(arm, selection.study.windows.late) for arm in selection.arms}
    weights = {arm: weight_curve(arm) for arm in selection.arms}
    products = {arm: _weighted(profiles[arm], weights[arm]) for arm in selection.arms}
    labels = style.arm_labels(selection.arms, selection)
    shown: dict[str, dict[Arm, Any]] = {
        "eps-MSE, unweighted": profiles,
        "weight of the eps-MSE": weights,
        "weight × eps-MSE": products,
    }
    drawn = {title: tables for title, tables in shown.items() if any(map(len, tables.values()))}
    if not drawn:
        raise NothingToDraw("neither mse_per_t/... nor mins_snr_curve/... was logged")
    figure, row = style.panels(len(drawn), 4.0, 3.6)
    for axes, (title, tables) in zip(row, drawn.items(), strict=True):
        for arm, values in tables.items():
            look = style.look(arm.experiment) | {"label": labels[arm.experiment]}
            if isinstance(values, pd.Series) and len(values):
                axes.plot(values.index, values, linewidth=1.6, **look)
            elif len(values):
                error = None if values["error"].isna().any() else values["error"]
                mark = style.marker(arm.experiment)
                axes.errorbar(values.index, values["mse"], yerr=error, marker=mark, capsize=2, lw=1.2, **look)
        positive = any(np.any(np.asarray(line.get_ydata(), dtype=float) > 0) for line in axes.lines)
        axes.set(xlabel="timestep t", ylabel=f"{title}\n(log scale)" if positive else title, title=title)
        axes.set_yscale("log" if positive else "linear")
    style.legend_below(figure, row)
    weighted = [arm for arm, values in weights.items() if len(values)]
    unknown = style.without(selection.arms, weighted, "The weights of {} were not logged.")
    points = "eps-MSE by timestep was not logged"
    if any(map(len, profiles.values())):
        points = "eps-MSE: mean over the late window at each t or in bins of t; bars: ±1 standard error of the mean"
    return Drawn(figure, f"{points}. {style.seeds_text(selection.arms, bands=False).capitalize()}.{unknown}")


def _weighted(table: pd.DataFrame, weights: pd.Series) -> pd.DataFrame:
    """The profile times the weight at its timesteps; empty without weights."""
    if weights.empty:
        return table.iloc[:0]
    at, known = (values.index.to_numpy(dtype=float) for values in (table, weights))
    return table.mul(np.interp(at, known, weights.to_numpy()), axis=0)


def profile(arm: Arm, late: tuple[float, float]) -> pd.DataFrame:
    """Columns `mse`, `error` by t: the mean over the late window, and its standard error over the values in it.

    Timesteps on a fixed grid are shown one by one. The original study logged the timesteps that its batch drew: those
    are gathered in ten bins, at their mean t.
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
    """The arm's weight of the eps-MSE by t, from the first run that logged it; empty if it is not known."""
    for run in arm.runs:
        t, weight = (run.last_list(f"mins_snr_curve/{name}") for name in ("t", "weight"))
        if t and len(t) == len(weight):
            return pd.Series(weight, index=pd.Index(t, name="t"), dtype=float)
    if arm.config.get("loss.weighting") == "constant":  # 1 by definition, logged or not
        return pd.Series(1.0, index=pd.Index([0, arm.config.get("diffusion.T", 1000) - 1], name="t"))
    return pd.Series(dtype=float)
