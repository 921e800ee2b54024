"""Two arms' traces draw by draw: what a draw of the probe adds to both cancels in their difference.

With `curvature.draws: fixed` a draw (its images, noise and vectors) is the same at every step, seed and arm. Draws are
independent of each other, so Student's t over them covers other draws of the probe, for the weights that were measured.
It does not cover other seeds of the training.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from ddpm.metrics.table import DRAWN
from reports.columns import LARGEST
from reports.experiments.selection import Arm, show
from reports.runs import Run, flat_config
from reports.stats.intervals import Array, Estimate, student

_LEAST = 3  # of two draws, Student's interval reaches 13 standard errors: it would decide nothing
# What the draws depend on, besides the number of images in one.
_DESIGN = ("curvature.seed", "curvature.probes", "curvature.per_draw", "curvature.neutral")
_IMAGES = ("data.dataset", "data.subset", "data.hold_out", "data.split", "data.skip_bad")
_TRACE = "curvature/ref_trace_mean"
Steps = Sequence[int] | pd.Index | None


def values_key(metric: str) -> str:
    """The key of the list whose mean is `metric`, e.g. curvature/ref_values; empty if there is none."""
    key = metric if metric in DRAWN else f"{metric.removesuffix('_mean').removesuffix('_trace')}_values"
    return key if key in DRAWN else ""


@lru_cache(maxsize=256)
def draw_table(arm: Arm, metric: str) -> pd.DataFrame:
    """The value of each draw (rows) at each step (columns) that every run has, mean over seeds; NaN if a seed lacks it.

    metric: a mean (curvature/ref_trace_mean) or its list (curvature/ref_values). Of the runs that logged such lists;
    empty if none did, or if their lengths differ. Cached: do not change it.
    """
    tables = [_of_run(run, values_key(metric)) for run in _logged(arm, metric)]
    if not tables:
        return pd.DataFrame(dtype=float)
    steps = sorted(set.intersection(*(set(table.columns) for table in tables)))
    if not steps or len({len(table) for table in tables}) > 1:
        return pd.DataFrame(dtype=float)
    values = np.mean([table[steps].to_numpy() for table in tables], axis=0)
    return pd.DataFrame(values, index=pd.RangeIndex(len(values), name="draw"), columns=pd.Index(steps, name="step"))


def _logged(arm: Arm, metric: str) -> list[Run]:
    """The runs that logged the draws' values. Older runs logged only their mean."""
    return [run for run in arm.runs if any(run.lists.get(values_key(metric), {}).values())]


def _of_run(run: Run, key: str) -> pd.DataFrame:
    table = pd.DataFrame(run.lists.get(key, {}), dtype=float)
    return table.where(table.abs() < LARGEST)


@lru_cache(maxsize=256)
def can_pair(baseline: Arm, variant: Arm, metric: str = _TRACE) -> str:
    """Why the arms' values of `metric` cannot be compared draw by draw, in words; empty if they can."""
    runs = [(arm.experiment, run) for arm in (baseline, variant) for run in _logged(arm, metric) or arm.runs]
    configs = [flat_config(run) for _, run in runs]
    own = [name for (name, _), config in zip(runs, configs, strict=True) if config.get("curvature.draws") != "fixed"]
    if own:
        return f"{_listed(own)} took new draws at each step"
    without = [arm.experiment for arm in (baseline, variant) if draw_table(arm, metric).empty]
    if without:
        return f"{_listed(without)} did not log a list of the draws' values"
    for key in (*_DESIGN, *_IMAGES, *(["data.root"] if configs[0].get("data.dataset") == "folder" else [])):
        if found := _differing(key, runs, [show({key: config.get(key)}, key) for config in configs]):
            return found
    sizes = [str(config.get("curvature.batch_size") or config.get("data.batch_size")) for config in configs]
    if found := _differing("the number of images in a draw", runs, sizes):
        return found
    lengths = [len(draw_table(arm, metric)) for arm in (baseline, variant)]
    if lengths[0] != lengths[1]:
        return f"{baseline.experiment} logged {lengths[0]} draws, {variant.experiment} {lengths[1]}"
    return "" if len(_common_steps(baseline, variant, metric)) else "they have no measured step in common"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(dict.fromkeys(names))


def _differing(what: str, runs: Sequence[tuple[str, Run]], values: Sequence[str]) -> str:
    """`curvature.seed is 0 in e5, 1 in e6`; empty if all values are equal."""
    if len(set(values)) == 1:
        return ""
    return f"{what} is " + ", ".join(
        dict.fromkeys(f"{value} in {name}" for (name, _), value in zip(runs, values, strict=True))
    )


def _common_steps(baseline: Arm, variant: Arm, metric: str) -> pd.Index:
    return draw_table(baseline, metric).columns.intersection(draw_table(variant, metric).columns)


# ---- one arm against another -----------------------------------------------------------------------------


def paired_difference(baseline: Arm, variant: Arm, metric: str, steps: Steps = None) -> Estimate | None:
    """The mean over draws and steps of variant - baseline; `within` is Student's interval over the draws' means.

    steps: those to use, of the ones that both arms have; None for all. Draws with a missing value there are left out;
    with fewer than three left there is no interval. None if the arms cannot be paired or have no such step.
    """
    found = _complete(baseline, variant, metric, steps)
    if found is None:
        return None
    return _over_draws((found.variant - found.baseline).mean(axis=1), found.note)


def paired_ratio(baseline: Arm, variant: Arm, metric: str, steps: Steps = None) -> Estimate | None:
    """The quotient R of the variant's mean over draws and steps by the baseline's; otherwise as `paired_difference`.

    To first order its error is that of (variant_k - R baseline_k) / mean of the baseline, over draws k with R held
    fixed (delta method). That includes the error of the baseline's mean. None also if that mean is 0.
    """
    found = _complete(baseline, variant, metric, steps)
    if found is None:
        return None
    _, quotients = _quotients(*(values.mean(axis=1, keepdims=True) for values in (found.baseline, found.variant)))
    return _over_draws(quotients[:, 0], found.note) if quotients.size else None


def paired_change(
    baseline: Arm, variant: Arm, metric: str, steps: Steps = None, *, of_means: bool = False
) -> Estimate | None:
    """The mean over steps of 100 (variant - baseline) / |baseline|, or that of the two means over the steps; otherwise
    as `paired_ratio`. Steps at which the baseline is 0 have no change."""
    found = _complete(baseline, variant, metric, steps)
    if found is None:
        return None
    b, v = found.baseline, found.variant
    signs, quotients = _quotients(*((x.mean(axis=1, keepdims=True) for x in (b, v)) if of_means else (b, v)))
    return _over_draws((100 * signs * (quotients - 1)).mean(axis=1), found.note) if quotients.size else None


@dataclass(frozen=True)
class _Pairs:
    """The draws that both arms have whole, (draws, steps) each, and what is left out, in words."""

    baseline: Array
    variant: Array
    note: str


def _complete(baseline: Arm, variant: Arm, metric: str, steps: Steps) -> _Pairs | None:
    if can_pair(baseline, variant, metric):
        return None
    at = _common_steps(baseline, variant, metric)
    at = at if steps is None else at.intersection(pd.Index(steps))
    if not len(at):
        return None
    b, v = (draw_table(arm, metric)[at].to_numpy() for arm in (baseline, variant))
    whole = np.isfinite(b).all(axis=1) & np.isfinite(v).all(axis=1)
    note = f" ({(~whole).sum()} more lack a value)" if not whole.all() else ""
    for arm in (baseline, variant):
        if (logged := len(_logged(arm, metric))) < len(arm.runs):
            note += f" of {logged} of {arm.experiment}'s {len(arm.runs)} seeds"
    if steps is not None and len(at) < len(steps):
        note += f" at the {len(at)} of {len(steps)} steps that have them"
    return _Pairs(b[whole], v[whole], note)


def _quotients(b: Array, v: Array) -> tuple[Array, Array]:
    """(sign of each column's mean of b, (m,); R + (v - R b) / mean b, R = mean v / mean b, (draws, m)), without columns
    whose mean of b is 0."""
    level = b.mean(axis=0) if len(b) else np.zeros(b.shape[1])
    b, v, level = b[:, level != 0], v[:, level != 0], level[level != 0]
    quotient = v.mean(axis=0) / level
    return np.sign(level), quotient + (v - quotient * b) / level


def _over_draws(values: Array, note: str) -> Estimate:
    count = f"{len(values)} paired draws{note}"
    number = float(values.mean()) if len(values) else None
    if len(values) < _LEAST:
        return Estimate(number, basis=f"{count} are too few for an interval")
    sem = float(values.std(ddof=1)) / math.sqrt(len(values))
    return Estimate(number, within=student(values), basis=f"Student's t over {count}", paired=True, sem=sem)
