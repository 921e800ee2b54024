"""Tidy frames and numbers: curves over seeds, windows, paired differences, standard errors.

Seeds: an arm's curve is the mean over its seeds at the steps that all of them logged; every statistic is
taken of that curve.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from ddpm.config.run import flatten
from reports.columns import LARGEST, as_number
from reports.experiments import Windows
from reports.experiments.selection import Arm, Selection, differing_keys, matches
from reports.long_table import settled
from reports.runs import Run, canonical
from reports.stats.intervals import bootstrap_mean, student, welch

COLUMNS = ["experiment", "metric", "statistic", "value"]
TRAINED, COMMON = "curvature/hutch_trace_mean", "curvature/ref_trace_mean"
STEP_METRICS = ("train/loss", "train/mse", "train/grad_global_L2", "train/grad_abs_mean")
COMPARED = ("train/loss", "train/mse", "train/grad_global_L2", TRAINED, COMMON, "val/fid")
Z95 = 1.96


# ---- curves ----------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)  # every figure and number of a report asks for the same few
def seed_table(arm: Arm, metric: str) -> pd.DataFrame:
    """`metric` by step (rows) and seed (columns) at the steps where every seed that logged it has a value.

    It is shared by all who ask: not to be changed."""
    columns = [run.series(metric) for run in arm.runs]
    columns = [column for column in columns if len(column)]
    if not columns:
        return pd.DataFrame(dtype=float)
    return pd.concat(columns, axis=1, join="inner", keys=range(len(columns))).sort_index()


@lru_cache(maxsize=256)
def curve(arm: Arm, metric: str) -> pd.Series:
    """Mean over seeds of `metric` by step, shape (n,), empty where it was never logged. Shared: not to be changed."""
    table = seed_table(arm, metric)
    values = table.mean(axis=1) if len(table.columns) else pd.Series(dtype=float)
    if len(table.columns) > 1:
        values = settled(values)
    values.index.name = "step"
    return values.rename(metric)


def seed_band(arm: Arm, metric: str, window: int = 1, points: int | None = None) -> pd.DataFrame:
    """Columns `low`, `high` by step: 95 % bootstrap interval over seeds of the mean, each seed smoothed by a centred
    rolling mean over `window` points; empty with one seed. `points`: of a longer curve, at about so many of its steps.
    """
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
    """Places (in `baseline.runs`, in `variant.runs`) of the runs of equal seed."""
    where = {run.seed: place for place, run in enumerate(variant.runs) if run.seed is not None}
    return [(place, where[run.seed]) for place, run in enumerate(baseline.runs) if run.seed in where]


def standard_error(arm: Arm, metric: str) -> pd.Series:
    """Standard error by step of a trace mean, from its probes, or of an FID, from its samples; empty where unknown.

    The logged `..._sem`; of a trace else population std / sqrt(probes - 1), which is the same number, with the probes
    from the config. Over k seeds: sqrt(sum of squares) / k, but the mean of errors that do not average out: of traces
    on the same draws, and of FIDs, all of whose samples start from one noise (`eval.sample_seed`).
    """
    errors = [_run_error(run, metric) for run in arm.runs if len(run.series(metric))]
    if not errors or any(error.empty for error in errors):
        return pd.Series(dtype=float)
    table = pd.concat(errors, axis=1, join="inner")
    if not metric.startswith("curvature/") or same_draws([arm]):
        return table.mean(axis=1)
    return (table**2).sum(axis=1) ** 0.5 / len(errors)


def _run_error(run: Run, metric: str) -> pd.Series:
    logged = run.series(f"{metric.removesuffix('_mean')}_sem")
    if len(logged):
        return logged
    if not metric.endswith("_mean"):
        return pd.Series(dtype=float)
    probes = flatten(run.config).get("curvature.probes")
    if not isinstance(probes, int) or probes < 2:
        return pd.Series(dtype=float)
    return run.series(metric.replace("_mean", "_std")) / math.sqrt(probes - 1)


def at_end(arm: Arm, metric: str) -> list[float]:
    """The value of a once-logged metric (`final/fid`) per run, from the history or else the summary."""
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


def metrics_of(arms: Sequence[Arm]) -> list[str]:
    """The metrics that the numbers cover, of those that some arm logged, in a fixed order."""
    logged = {column for arm in arms for run in arm.runs for column in run.history.columns}
    curvature = sorted(column for column in logged if column.startswith("curvature/"))
    return [metric for metric in (*STEP_METRICS, *curvature, "val/fid") if metric in logged]


def numbers(selection: Selection) -> pd.DataFrame:
    """The table of `numbers.csv`, columns `COLUMNS`, in full precision.

    Per arm and metric: `first`, `last`, `early_mean`, `late_mean`, `drop_pct` = 100 (early - late) / early,
    `min`, `min_step`; `at_<step>` for val/fid; `seeds` and, of more than one, `<statistic>_lowest_seed` and
    `..._highest_seed`; `last` of final/fid. Per variant, as `<variant> vs <baseline>`: see `compare`.
    """
    windows = selection.study.windows
    rows: list[tuple[str, str, str, float]] = []
    for arm in selection.arms:
        for metric in metrics_of([arm]):
            stats = describe(curve(arm, metric), arm.last_step, windows, each=metric == "val/fid")
            stats |= _seed_ranges(arm, metric, windows)
            rows += [(arm.experiment, metric, name, value) for name, value in stats.items()]
        final = at_end(arm, "final/fid")
        if final:
            rows.append((arm.experiment, "final/fid", "last", sum(final) / len(final)))
            if len(final) > 1:
                rows.append((arm.experiment, "final/fid", "last_lowest_seed", min(final)))
                rows.append((arm.experiment, "final/fid", "last_highest_seed", max(final)))
    for variant in selection.variants:
        if selection.baseline is not None:
            for metric in COMPARED:
                found = compare(selection.baseline, variant, metric, windows)
                if found is not None:
                    pair = f"{variant.experiment} vs {selection.baseline.experiment}"
                    rows += [(pair, metric, name, value) for name, value in found.rows().items()]
    return pd.DataFrame(rows, columns=COLUMNS)


def describe(values: pd.Series, last_step: int, windows: Windows, each: bool = False) -> dict[str, float]:
    """Statistics of one curve; a window without values has none. `each` adds `at_<step>` for every step."""
    if values.empty:
        return {}
    steps = list(values.index)
    early, late = (in_window(values, last_step, w) for w in (windows.early, windows.late))
    stats = {"first": float(values.iloc[0]), "last": float(values.iloc[-1])}
    if len(early):
        stats["early_mean"] = float(early.mean())
    if len(late):
        stats["late_mean"] = float(late.mean())
    if len(early) and len(late) and early.mean() != 0:
        stats["drop_pct"] = 100 * float((early.mean() - late.mean()) / abs(early.mean()))
    stats |= {"min": float(values.min()), "min_step": float(steps[int(values.argmin())])}
    if each:
        stats |= {f"at_{step}": float(value) for step, value in values.items()}
    return stats


def _seed_ranges(arm: Arm, metric: str, windows: Windows) -> dict[str, float]:
    table = seed_table(arm, metric)
    if len(table.columns) < 2:
        return {}
    stats = {"seeds": float(len(table.columns))}
    per_seed = [describe(table[seed], arm.last_step, windows, each=metric == "val/fid") for seed in table]
    for name in per_seed[0]:
        if name in ("last", "early_mean", "late_mean") or name.startswith("at_"):
            values = [each[name] for each in per_seed]
            stats |= {f"{name}_lowest_seed": min(values), f"{name}_highest_seed": max(values)}
    return stats


# ---- comparison ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SeedContrast:
    """variant - baseline with its 95 % interval over seeds, and what that rests on."""

    difference: float
    low: float
    high: float
    basis: str


@dataclass(frozen=True)
class Comparison:
    """A variant against its baseline at the n steps where both have a value.

    change_i = 100 (variant_i - baseline_i) / |baseline_i|, negative where the variant is lower; `mean_change_pct` is
    the mean of those that are defined (NaN for none), `change_of_means_pct` that of the two means. `late_difference`:
    mean of variant - baseline in the late window of the shorter run. `mean_difference` and its standard error `sem`
    (None where the probes' errors are not known), the estimator's error alone: sqrt(sum_i (se_variant_i^2 +
    se_baseline_i^2)) / n. Of runs whose draws are the same at every step (`same_draws`), steps do not average it out:
    the root of the squared mean standard errors, as if the arms' errors were independent. They have the draws in
    common too: where their values go together that is too large, where they do not it need not be.
    `seeds`: the same difference over seeds with its interval; None with one seed in an arm.
    """

    metric: str
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
    sem: float | None
    late_difference: float | None
    late_change_pct: float | None
    seeds: SeedContrast | None = None
    same_draws: bool = False

    def rows(self) -> dict[str, float]:
        """statistic -> value, as in `numbers.csv`."""
        values = {
            "paired_count": float(self.paired_count),
            "lower_count": float(self.lower_count),
            "higher_count": float(self.higher_count),
            "mean_change_pct": self.mean_change_pct,
            "min_change_pct": self.min_change_pct,
            "max_change_pct": self.max_change_pct,
            "change_of_means_pct": self.change_of_means_pct,
            "mean_difference": self.mean_difference,
            "mean_difference_sem": self.sem,
            "late_mean_difference": self.late_difference,
            "late_mean_change_pct": self.late_change_pct,
            "seeds_mean_difference": self.seeds.difference if self.seeds else None,
            "seeds_mean_difference_low": self.seeds.low if self.seeds else None,
            "seeds_mean_difference_high": self.seeds.high if self.seeds else None,
        }
        return {name: value for name, value in values.items() if value is not None and math.isfinite(value)}

    @property
    def probe_interval(self) -> tuple[float, float] | None:
        """mean_difference -+ 1.96 sem."""
        if self.sem is None:
            return None
        return self.mean_difference - Z95 * self.sem, self.mean_difference + Z95 * self.sem


def paired(baseline: Arm, variant: Arm, metric: str) -> pd.DataFrame:
    """Columns `baseline`, `variant`, `change_pct` by step, at the steps where both have a value."""
    table = pd.concat(
        {"baseline": curve(baseline, metric), "variant": curve(variant, metric)}, axis=1, join="inner"
    ).sort_index()
    table["change_pct"] = per_step(table["baseline"], table["variant"], percent=True)
    return table


def per_step(baseline: pd.Series, variant: pd.Series, *, percent: bool) -> pd.Series:
    """variant - baseline at their common steps, or its percentage of |baseline|, NaN where that is 0."""
    table = pd.concat({"b": baseline, "v": variant}, axis=1, join="inner").sort_index()
    difference = table["v"] - table["b"]
    return 100 * difference / table["b"].abs().where(table["b"] != 0) if percent else difference


def rank_correlation(x: pd.Series, y: pd.Series) -> float | None:
    """Spearman's over the index that both have: Pearson's of the ranks; None for fewer than three, or all equal."""
    ranks = pd.concat({"x": x, "y": y}, axis=1, join="inner").dropna().rank()
    if len(ranks) < 3 or ranks["x"].nunique() < 2 or ranks["y"].nunique() < 2:
        return None
    return float(ranks["x"].corr(ranks["y"]))


def compare(baseline: Arm, variant: Arm, metric: str, windows: Windows) -> Comparison | None:
    """The comparison on `metric`; None where the arms share no step."""
    table = paired(baseline, variant, metric)
    if table.empty:
        return None
    late = in_window(table["variant"] - table["baseline"], min(baseline.last_step, variant.last_step), windows.late)
    late_baseline = table["baseline"].loc[late.index]
    change = table["change_pct"].dropna()
    return Comparison(
        metric=metric,
        baseline=baseline.experiment,
        variant=variant.experiment,
        paired_count=len(table),
        lower_count=int((table["variant"] < table["baseline"]).sum()),
        higher_count=int((table["variant"] > table["baseline"]).sum()),
        mean_change_pct=float(change.mean()),
        min_change_pct=float(change.min()),
        max_change_pct=float(change.max()),
        change_of_means_pct=_percent(table["baseline"], table["variant"]),
        mean_difference=float((table["variant"] - table["baseline"]).mean()),
        sem=_paired_sem(baseline, variant, metric, table.index),
        late_difference=float(late.mean()) if len(late) else None,
        late_change_pct=100 * float(late.mean() / abs(late_baseline.mean())) if late_baseline.any() else None,
        seeds=seed_contrast(baseline, variant, metric, table.index),
        same_draws=same_draws((baseline, variant)),
    )


def _percent(baseline: pd.Series, variant: pd.Series) -> float:
    """100 (mean variant - mean baseline) / |mean baseline|; NaN where that is 0."""
    level = abs(float(baseline.mean()))
    return 100 * (float(variant.mean()) - float(baseline.mean())) / level if level else math.nan


def seed_contrast(baseline: Arm, variant: Arm, metric: str, steps: pd.Index) -> SeedContrast | None:
    """variant - baseline of the means over `steps`, over seeds: paired where two or more are shared; None with one."""
    samples = [_means_of_seeds(arm, metric, steps) for arm in (baseline, variant)]
    pairs = [(samples[0][i], samples[1][j]) for i, j in shared_seeds(baseline, variant)]
    differences = np.array([v - b for b, v in pairs if math.isfinite(v - b)])
    given = ", given the probes' draws" if metric.startswith("curvature/") and same_draws((baseline, variant)) else ""
    if len(differences) > 1:
        basis = f"Student's t over {len(differences)} shared seeds, paired{given}"
        return SeedContrast(float(differences.mean()), *student(differences), basis)
    b, v = (np.array([value for value in sample if math.isfinite(value)]) for sample in samples)
    if min(len(b), len(v)) > 1:
        return SeedContrast(
            float(v.mean() - b.mean()), *welch(b, v), f"Welch's t over {len(v)} and {len(b)} seeds{given}"
        )
    return None


@dataclass(frozen=True)
class SampleContrast:
    """variant - baseline of two FIDs, and half its 95 % interval over the noise of their samples alone."""

    difference: float
    reach: float
    shared_noise: bool

    @property
    def said(self) -> str:
        """What that noise says of the difference, which is nothing of other seeds."""
        side = "apart beyond" if abs(self.difference) > self.reach else "within"
        return f"{side} the noise of the samples ({self.difference:+.2f} ± {self.reach:.2f}); seeds unknown"


def sample_contrast(baseline: Arm, variant: Arm, metric: str, step: int) -> SampleContrast | None:
    """The contrast at `step` of two single runs; None of more seeds, or where an error was not logged.

    The errors are added as those of independent samples. Samples that start from one noise err together, so that their
    difference is known better than that.
    """
    arms = (baseline, variant)
    errors = [standard_error(arm, metric) for arm in arms]
    known = all(step in values.index for values in (*errors, *(curve(arm, metric) for arm in arms)))
    if metric.startswith("curvature/") or any(len(arm.runs) > 1 for arm in arms) or not known:
        return None
    before, after = (float(curve(arm, metric)[step]) for arm in arms)
    reach = Z95 * math.hypot(*(float(error[step]) for error in errors))
    seeds = {arm.config.get("eval.sample_seed") for arm in arms}
    return SampleContrast(after - before, reach, shared_noise=len(seeds) == 1 and None not in seeds)


def _means_of_seeds(arm: Arm, metric: str, steps: pd.Index) -> list[float]:
    """Per run, the mean over `steps`; NaN where it has not all of them."""
    return [float(run.series(metric).reindex(steps).mean(skipna=False)) for run in arm.runs]


def _paired_sem(baseline: Arm, variant: Arm, metric: str, steps: pd.Index) -> float | None:
    if not metric.startswith("curvature/"):
        return None
    errors = [standard_error(arm, metric).reindex(steps) for arm in (baseline, variant)]
    if any(error.isna().any() for error in errors):
        return None
    if same_draws((baseline, variant)):
        return math.sqrt(sum(float(error.mean()) ** 2 for error in errors))
    return float(math.sqrt(sum((error**2).sum() for error in errors)) / len(steps))


def same_draws(arms: Sequence[Arm]) -> bool:
    """Whether some run measured its curvature on the same draws at every step."""
    return any(flatten(run.config).get("curvature.draws") == "fixed" for arm in arms for run in arm.runs)


# ---- what arms optimise ---------------------------------------------------------------------------------


def weightings(arms: Sequence[Arm]) -> dict[str, str]:
    """experiment -> canonical text of its loss weighting (all `loss.*` keys that shape it)."""
    return {
        arm.experiment: canonical(
            {key: value for key, value in arm.config.items() if key.startswith("loss.") and value is not None}
            if arm.config.get("loss.weighting") != "constant"
            else "constant"
        )
        for arm in arms
    }


def unlike(arms: Sequence[Arm]) -> list[str]:
    """The config keys beyond the weighting that make the arms' losses, unweighted too, different functions."""
    globs = ("model.*", "diffusion.*", "data.dataset", "loss.t_min", "loss.t_max")
    return [key for key in differing_keys(arms) if matches(key, globs)]


def weightings_differ(arms: Sequence[Arm]) -> bool:
    """Whether the arms optimise different functions, so that train/loss and its trace are not comparable."""
    return len(set(weightings(arms).values())) > 1
