"""Fewer points of a long curve: what a screen can show."""

import math
from typing import Any

import numpy as np
import pandas as pd

MOST = 400  # points of a curve: about a third of the pixels across a chart

Thinned = dict[str, Any]  # name -> array or number, ready for JSON


def thin(values: pd.Series, error: pd.Series | None = None, most: int = MOST) -> Thinned:
    """A curve by step, shape (n,), with at most `most` + 1 points.

    `x`: steps, `y`: values, float32. A longer curve is gathered in bins of `width` steps, a power of two, that begin at
    multiples of it, so that the bins of two runs agree or divide each other: `x` is then the mean step of a bin's rows,
    `y` their mean, `lo` and `hi` the lowest and highest of them, `n` their number. `e`: the values' standard error, or
    its mean in the bin, if `error` is known at every step.
    """
    steps, y = values.index.to_numpy(dtype=np.int64), values.to_numpy(dtype=np.float64)
    e = None if error is None or error.empty else error.reindex(values.index).to_numpy(dtype=np.float64)
    if e is not None and not np.isfinite(e).all():
        e = None
    if len(steps) <= most:
        return {"x": steps, "y": _short(y)} | ({} if e is None else {"e": _short(e)})
    width = 2 ** math.ceil(math.log2((int(steps[-1]) - int(steps[0]) + 1) / most))
    first = np.flatnonzero(np.diff(steps // width, prepend=-1))
    n = np.diff(first, append=len(steps))

    def mean(of: np.ndarray) -> np.ndarray:
        return np.add.reduceat(of, first) / n

    thinned = {
        "x": np.rint(mean(steps.astype(float))).astype(np.int64),
        "y": _short(mean(y)),
        "lo": _short(np.minimum.reduceat(y, first)),
        "hi": _short(np.maximum.reduceat(y, first)),
        "n": n.astype(np.int32),
        "width": width,
    }
    return thinned | ({} if e is None else {"e": _short(mean(e))})


def _short(values: np.ndarray) -> np.ndarray:
    """As float32: seven digits, in half the memory and text. Beyond its range: NaN, which is null in JSON."""
    with np.errstate(over="ignore"):
        short = values.astype(np.float32)
    short[~np.isfinite(short)] = np.nan
    return short
