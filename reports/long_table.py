"""All logged numbers of runs as one long table, for `data.parquet`."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from reports.runs import Run


def tidy(runs: Sequence[Run]) -> pd.DataFrame:
    """A row for each logged number of `runs`, sorted by experiment, run, metric and step.

    Columns: `experiment`, `run` (the id) and `metric`, categories of text; `seed`, Int64, missing if a run has none;
    `step`, int64; `value`, float64. Logged infinities and NaN have a row too. A row takes about 30 bytes.
    """
    ordered = sorted(runs, key=lambda run: (run.experiment, run.id, str(run.source)))
    pieces = [
        (number, metric, *_logged(run, metric))
        for number, run in enumerate(ordered)
        for metric in sorted(run.history.columns)
    ]
    lengths = [len(steps) for _, _, steps, _ in pieces]
    of_run = np.repeat(np.array([number for number, *_ in pieces], dtype=np.int32), lengths)
    seeds = pd.array([run.seed for run in ordered], dtype="Int64")
    return pd.DataFrame(
        {
            "experiment": _categories([run.experiment for run in ordered]).take(of_run),
            "run": _categories([run.id for run in ordered]).take(of_run),
            "seed": seeds.take(of_run),
            "step": np.concatenate([np.empty(0, np.int64), *(steps for _, _, steps, _ in pieces)]),
            "metric": _categories([metric for _, metric, *_ in pieces]).repeat(lengths),
            "value": np.concatenate([np.empty(0), *(values for *_, values in pieces)]),
        },
        copy=False,
    )


def _logged(run: Run, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) at which `metric` was logged."""
    values = run.history[metric].to_numpy()
    steps = run.history.index.to_numpy()
    there = ~np.isnan(values)
    there |= np.isin(steps, run.nan_steps.get(metric, ()))
    return steps[there], values[there]


def _categories(names: list[str]) -> pd.Categorical:
    return pd.Categorical(pd.array(names, dtype="str"), categories=pd.array(sorted(set(names)), dtype="str"))


def settled(values: pd.Series) -> pd.Series:
    """The values at 13 significant digits.

    Further digits of sums and quotients are rounding and differ between processors. They must not decide where a curve
    is lowest, whether it rises, or which of two values is lower.
    """
    numbers = values.to_numpy(dtype=float)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        unit = 10.0 ** (12 - np.floor(np.log10(np.abs(numbers))))
        kept = np.where((unit > 0) & np.isfinite(unit), np.round(numbers * unit) / unit, numbers)
    return pd.Series(kept, index=values.index)
