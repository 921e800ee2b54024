"""Curves over seeds, the numbers of `numbers.csv`, and one arm against another.

An arm's curve is the mean over its seeds at the steps that all of them logged; every statistic is taken of that curve.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from ddpm.config.run import flatten
from ddpm.metrics import Z95
from reports.columns import LARGEST, as_number
from reports.experiments import Windows
from reports.experiments.selection import Arm, Selection, differing_keys, matches, not_comparable
from reports.long_table import settled
from reports.runs import Run, canonical
from reports.stats.draws import can_pair, paired_change, paired_difference, values_key
from reports.stats.intervals import Estimate, around, bootstrap_mean, student, welch

COLUMNS = ["experiment", "metric", "statistic", "value"]
TRAINED, COMMON = "curvature/hutch_trace_mean", "curvature/ref_trace_mean"
NEUTRAL = "curvature/neutral_trace_mean"
STEP_METRICS = ("train/loss", "train/mse", "train/grad_global_L2", "train/grad_abs_mean")
COMPARED = ("train/loss", "train/mse", "train/grad_global_L2", TRAINED, COMMON, NEUTRAL, "val/fid")


# ---- curves ----------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)  # every figure and number of a report asks for the same few
def seed_table(arm: Arm, metric: str) -> pd.DataFrame:
    """`metric` by step (rows) and seed (columns) at the steps at which every seed that logged it has a value. The
    table is cached: do not change it."""
    columns = [run.series(metric) for run in arm.runs]
    columns = [column for column in columns if len(column)]
    if not columns:
        return pd.DataFrame(dtype=float)
    return pd.concat(columns, axis=1, join="inner", keys=range(len(columns))).sort_index()


@lru_cache(maxsize=256)
def curve(arm: Arm, metric: str) -> pd.Series:
    """Mean over seeds of `metric` by step, (n,); empty if it was never logged. Cached: do not change it."""
    table = seed_table(arm, metric)
    values = table.mean(axis=1) if len(table.columns) else pd.Series(dtype=float)
    if len(table.columns) > 1:
        values = settled(values)
    values.index.name = "step"
    return values.rename(metric)


def seed_band(arm: Arm, metric: str, window: int = 1, points: int | None = None) -> pd.DataFrame:
    """Columns `low`, `high` by step: 95 % bootstrap interval over seeds of the mean, each seed smoothed by a centred
    rolling mean over `window` rows; empty for one seed. A longer curve is thinned to about `points` steps."""
    table = seed_table(arm, metric)
    if len(table.columns) < 2:
        return pd.DataFrame(columns=["low", "high"], dtype=float)
    if window > 1:
        table = table.rolling(window, center=True, min_periods=1).mean()
    if points and len(table) > points:
        table = table.iloc[:: len(table) // points]
    low, high = bootstrap_mean(table.to_numpy(dtype=float))
    return pd.DataFrame({"low": low, "high": high}, index=table.index)


def shared_seeds(baseline: Arm, variant: Arm) -> list[tuple[int, int]]:
    """Places (in `baseline.runs`, in `variant.runs`) of the runs with equal seeds."""
    where = {run.seed: place for place, run in enumerate(variant.runs) if run.seed is not None}
    return [(place, where[run.seed]) for place, run in enumerate(baseline.runs) if run.seed in where]


def standard_error(arm: Arm, metric: str) -> pd.Series:
    """Standard error by step of a trace mean (over its probes) or of an FID (over its samples); empty if unknown.

    It is the logged `..._sem`; for a trace without one, population std / sqrt(probes - 1), the same number. Over k
    seeds: sqrt(sum of squares) / k. Errors that do not average out are averaged instead: of traces on the same draws,
    and of FIDs, whose samples all start from one noise (`eval.sample_seed`).
    """
    errors = [run_error(run, metric) for run in arm.runs if len(run.series(metric))]
    if not errors or any(error.empty for error in errors):
        return pd.Series(dtype=float)
    table = pd.concat(errors, axis=1, join="inner")
    if not metric.startswith("curvature/") or same_draws([arm]):
        return table.mean(axis=1)
    return (table**2).sum(axis=1) ** 0.5 / len(errors)


def run_error(run: Run, metric: str) -> pd.Series:
    """`standard_error` of one run."""
    logged = run.series(f"{metric.removesuffix('_mean')}_sem")
    if len(logged):
        return logged
    if not metric.endswith("_mean"):
        return pd.Series(dtype=float)
    probes = flatten(run.config).get("curvature.probes")
    if not isinstance(probes, int) or probes < 2:
        return pd.Series(dtype=float)
    return run.series(metric.replace("_mean", "_std")) / math.sqrt(probes - 1)


def same_draws(arms: Sequence[Arm]) -> bool:
    """Whether some run measured its curvature on the same draws at every step."""
    return any(flatten(run.config).get("curvature.draws") == "fixed" for arm in arms for run in arm.runs)


def same_noise(arms: Sequence[Arm]) -> bool:
    """Whether the samples of all arms start from one noise."""
    seeds = {arm.config.get("eval.sample_seed") for arm in arms}
    return len(seeds) == 1 and None not in seeds


def at_end(arm: Arm, metric: str) -> list[float]:
    """The value of a once-logged metric (`final/fid`) in each run, from the history or else the summary."""
    values = []
    for run in arm.runs:
        series = run.series(metric)
        value = float(series.iloc[-1]) if len(series) else as_number(run.summary.get(metric))
        if value is not None and abs(value) < LARGEST:
            values.append(value)
    return values


def in_window(values: pd.Series, last_step: int, window: tuple[float, float]) -> pd.Series:
    """The part of `values` with lo * N <= step <= hi * N and step > 0, N = `last_step`."""
    low, high = window[0] * last_step, window[1] * last_step
    # Half a step of slack: 0.2 * 10,000 in binary is not always 2000.
    steps = values.index
    return values[(steps > 0) & (steps >= low - 0.5) & (steps <= high + 0.5)]


# ---- numbers ---------------------------------------------------------------------------------------------


def metrics_of(arm: Arm) -> list[str]:
    """The metrics in `numbers.csv` that the arm logged, in a fixed order."""
    logged = {column for run in arm.runs for column in run.history.columns}
    curvature = sorted(column for column in logged if column.startswith("curvature/"))
    return [metric for metric in (*STEP_METRICS, *curvature, "val/fid") if metric in logged]


def numbers(selection: Selection) -> pd.DataFrame:
    """The table of `numbers.csv`, columns `COLUMNS`, in full precision.

    For each arm and metric: `first`, `last`, `early_mean`, `late_mean`, `drop_pct` = 100 (early - late) / early,
    `min`, `min_step`; `at_<step>` for val/fid; `last` of final/fid; for several seeds `seeds`,
    `<statistic>_lowest_seed` and `..._highest_seed`. For each variant, as `<variant> vs <baseline>`: see `compare`.
    """
    windows = selection.study.windows
    rows: list[tuple[str, str, str, float]] = []
    for arm in selection.arms:
        for metric in metrics_of(arm):
            found = describe(curve(arm, metric), arm.last_step, windows, each=metric == "val/fid")
            found |= _seed_ranges(arm, metric, windows)
            rows += [(arm.experiment, metric, name, value) for name, value in found.items()]
        final = at_end(arm, "final/fid")
        if final:
            ends = {"last": sum(final) / len(final)}
            if len(final) > 1:
                ends |= {"last_lowest_seed": min(final), "last_highest_seed": max(final)}
            rows += [(arm.experiment, "final/fid", name, value) for name, value in ends.items()]
    baseline = selection.baseline
    pairs = [(baseline, variant) for variant in selection.variants] if baseline else []
    for (b, v), metric in itertools.product(pairs, COMPARED):
        comparison = compare(b, v, metric, windows)
        found = comparison.rows() if comparison else {}
        rows += [(f"{v.experiment} vs {b.experiment}", metric, name, value) for name, value in found.items()]
    return pd.DataFrame(rows, columns=COLUMNS)


def describe(values: pd.Series, last_step: int, windows: Windows, each: bool = False) -> dict[str, float]:
    """Statistics of one curve, those of an empty window left out. `each` adds `at_<step>` for every step."""
    if values.empty:
        return {}
    early, late = (in_window(values, last_step, w) for w in (windows.early, windows.late))
    found = {"first": float(values.iloc[0]), "last": float(values.iloc[-1])}
    if len(early):
        found["early_mean"] = float(early.mean())
    if len(late):
        found["late_mean"] = float(late.mean())
    if len(early) and len(late) and early.mean() != 0:
        found["drop_pct"] = 100 * float((early.mean() - late.mean()) / abs(early.mean()))
    found |= {"min": float(values.min()), "min_step": float(values.index[int(values.argmin())])}
    if each:
        found |= {f"at_{step}": float(value) for step, value in values.items()}
    return found


def _seed_ranges(arm: Arm, metric: str, windows: Windows) -> dict[str, float]:
    table = seed_table(arm, metric)
    if len(table.columns) < 2:
        return {}
    found = {"seeds": float(len(table.columns))}
    per_seed = [describe(table[seed], arm.last_step, windows, each=metric == "val/fid") for seed in table]
    for name in per_seed[0]:
        if name in ("last", "early_mean", "late_mean") or name.startswith("at_"):
            values = [each[name] for each in per_seed]
            found |= {f"{name}_lowest_seed": min(values), f"{name}_highest_seed": max(values)}
    return found


# ---- comparison ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """A variant against its baseline at the n = `paired_count` steps at which both have a value.

    change_i = 100 (variant_i - baseline_i) / |baseline_i|. `mean_change_pct`: the mean of the changes that are defined
    (NaN if none is). `change_of_means_pct`: the change of the two means. `late_...`: of variant - baseline in the late
    window of the shorter run. `mean_difference_sem`: standard error of `mean_difference` over the probes alone.

    If the arms can be paired (`reports/stats/draws.py`), it is that over the paired draws; `by_draw` and
    `change_by_draw` are then the mean difference and the mean change with their intervals. Else `not_paired` says why,
    and it is sqrt(sum_i (se_variant_i^2 + se_baseline_i^2)) / n; None if the probes' errors are unknown. With
    `same_draws` at every step the steps do not average it out: it is then the root of the squared mean standard errors,
    as if the arms' errors were independent. They share the draws: if their values go together this is too large.

    `seeds`: the mean difference with its interval over seeds; None if an arm has one seed.
    """

    baseline: str
    variant: str
    paired_count: int
    lower_count: int
    higher_count: int
    mean_change_pct: float
    min_change_pct: float
    max_change_pct: float
    change_of_means_pct: float
    mean_difference: float
    mean_difference_sem: float | None
    late_mean_difference: float | None
    late_mean_change_pct: float | None
    seeds: Estimate | None = None
    same_draws: bool = False
    by_draw: Estimate | None = None
    change_by_draw: Estimate | None = None
    not_paired: str = ""

    def rows(self) -> dict[str, float]:
        """statistic -> value, as in `numbers.csv`."""
        own = {name: getattr(self, name) for name in _STATISTICS}
        seeds = self.seeds or Estimate()
        ends = zip(("", "_low", "_high"), (seeds.number, *(seeds.seeds or (None, None))), strict=True)
        values = own | {f"seeds_mean_difference{end}": value for end, value in ends}
        low, high = (self.by_draw and self.by_draw.within) or (None, None)
        values |= {"mean_difference_low": low, "mean_difference_high": high}
        return {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}

    @property
    def over_probes(self) -> Estimate | None:
        """The mean difference with its interval over the probes, over paired draws if there are any."""
        if self.by_draw:
            return self.by_draw
        if self.mean_difference_sem is None:
            return None
        return Estimate(self.mean_difference, within=around(self.mean_difference, Z95 * self.mean_difference_sem))


# In `numbers.csv`, in this order.
_NO_NUMBERS = ("baseline", "variant", "seeds", "same_draws", "by_draw", "change_by_draw", "not_paired")
_STATISTICS = tuple(name for name in Comparison.__dataclass_fields__ if name not in _NO_NUMBERS)


def paired(baseline: Arm, variant: Arm, metric: str) -> pd.DataFrame:
    """Columns `baseline`, `variant`, `change_pct` by step, at the steps at which both have a value."""
    curves = {"baseline": curve(baseline, metric), "variant": curve(variant, metric)}
    table = pd.concat(curves, axis=1, join="inner").sort_index()
    table["change_pct"] = per_step(table["baseline"], table["variant"], percent=True)
    return table


def per_step(baseline: pd.Series, variant: pd.Series, *, percent: bool) -> pd.Series:
    """variant - baseline at their common steps, or its percentage of |baseline|, NaN where that is 0."""
    table = pd.concat({"b": baseline, "v": variant}, axis=1, join="inner").sort_index()
    difference = table["v"] - table["b"]
    return 100 * difference / table["b"].abs().where(table["b"] != 0) if percent else difference


def rank_correlation(x: pd.Series, y: pd.Series) -> float | None:
    """Spearman's rank correlation over the index that both have; None for fewer than three values or all equal."""
    ranks = pd.concat({"x": x, "y": y}, axis=1, join="inner").dropna().rank()
    if len(ranks) < 3 or ranks["x"].nunique() < 2 or ranks["y"].nunique() < 2:
        return None
    return float(ranks["x"].corr(ranks["y"]))  # scipy's spearmanr differs in the last digit, and so would numbers.csv


def compare(baseline: Arm, variant: Arm, metric: str, windows: Windows) -> Comparison | None:
    """The comparison on `metric`; None if the arms share no step, or if it is that of another function in each."""
    if not_comparable(metric, [baseline.config, variant.config]):
        return None
    table = paired(baseline, variant, metric)
    if table.empty:
        return None
    before, after = table["baseline"], table["variant"]
    late = in_window(after - before, min(baseline.last_step, variant.last_step), windows.late)
    late_baseline = before.loc[late.index]
    change = table["change_pct"].dropna()
    level = abs(float(before.mean()))
    by_draw = paired_difference(baseline, variant, metric, table.index)
    return Comparison(
        baseline=baseline.experiment,
        variant=variant.experiment,
        paired_count=len(table),
        lower_count=int((after < before).sum()),
        higher_count=int((after > before).sum()),
        mean_change_pct=float(change.mean()),
        min_change_pct=float(change.min()),
        max_change_pct=float(change.max()),
        change_of_means_pct=100 * (float(after.mean()) - float(before.mean())) / level if level else math.nan,
        mean_difference=float((after - before).mean()),
        mean_difference_sem=by_draw.sem if by_draw else _unpaired_sem(baseline, variant, metric, table.index),
        late_mean_difference=float(late.mean()) if len(late) else None,
        late_mean_change_pct=100 * float(late.mean() / abs(late_baseline.mean())) if late_baseline.any() else None,
        seeds=seed_contrast(baseline, variant, metric, table.index),
        same_draws=same_draws((baseline, variant)),
        by_draw=by_draw,
        change_by_draw=paired_change(baseline, variant, metric, table.index),
        not_paired=can_pair(baseline, variant, metric) if values_key(metric) else "",
    )


def seed_contrast(baseline: Arm, variant: Arm, metric: str, steps: pd.Index) -> Estimate | None:
    """variant - baseline of the means over `steps` with its interval over seeds: paired if two or more seeds are
    shared; None if an arm has one seed."""
    samples = [
        [float(run.series(metric).reindex(steps).mean(skipna=False)) for run in arm.runs] for arm in (baseline, variant)
    ]
    pairs = [(samples[0][i], samples[1][j]) for i, j in shared_seeds(baseline, variant)]
    differences = np.array([v - b for b, v in pairs if math.isfinite(v - b)])
    given = ", given the probes' draws" if metric.startswith("curvature/") and same_draws((baseline, variant)) else ""
    if len(differences) > 1:
        basis = f"Student's t over {len(differences)} shared seeds, paired{given}"
        return Estimate(float(differences.mean()), seeds=student(differences), basis=basis)
    b, v = (np.array([value for value in sample if math.isfinite(value)]) for sample in samples)
    if min(len(b), len(v)) > 1:
        basis = f"Welch's t over {len(v)} and {len(b)} seeds{given}"
        return Estimate(float(v.mean() - b.mean()), seeds=welch(b, v), basis=basis)
    return None


def sample_contrast(baseline: Arm, variant: Arm, metric: str, step: int) -> Estimate | None:
    """The FID of one run less that of another at `step`, with its interval over the noise of the samples; None for
    several seeds, or if an error was not logged.

    The errors are added as if the samples were independent. If they start from one noise (`same_noise`) they err
    together, and the interval is too wide.
    """
    arms = (baseline, variant)
    errors = [standard_error(arm, metric) for arm in arms]
    known = all(step in values.index for values in (*errors, *(curve(arm, metric) for arm in arms)))
    if metric.startswith("curvature/") or any(len(arm.runs) > 1 for arm in arms) or not known:
        return None
    before, after = (float(curve(arm, metric)[step]) for arm in arms)
    reach = Z95 * math.hypot(*(float(error[step]) for error in errors))
    return Estimate(after - before, within=around(after - before, reach))


def _unpaired_sem(baseline: Arm, variant: Arm, metric: str, steps: pd.Index) -> float | None:
    if not metric.startswith("curvature/"):
        return None
    errors = [standard_error(arm, metric).reindex(steps) for arm in (baseline, variant)]
    if any(error.isna().any() for error in errors):
        return None
    if same_draws((baseline, variant)):
        return math.sqrt(sum(float(error.mean()) ** 2 for error in errors))
    return float(math.sqrt(sum((error**2).sum() for error in errors)) / len(steps))


# ---- what arms optimise ---------------------------------------------------------------------------------


def unlike(arms: Sequence[Arm]) -> list[str]:
    """The config keys beyond the weighting that make the arms' unweighted losses different functions."""
    globs = ("model.*", "diffusion.*", "data.dataset", "loss.t_min", "loss.t_max")
    return [key for key in differing_keys(arms) if matches(key, globs)]


def weightings_differ(arms: Sequence[Arm]) -> bool:
    """Whether the arms optimise different functions, so that train/loss and its trace are not comparable."""
    return len({_weighting(arm.config) for arm in arms}) > 1


def _weighting(config: dict[str, object]) -> str:
    """A loss weighting as canonical text: all `loss.*` keys, or `constant`, which no other key shapes."""
    keys = {key: value for key, value in config.items() if key.startswith("loss.") and value is not None}
    return canonical("constant" if config.get("loss.weighting") == "constant" else keys)
