"""E6's Hessian trace against E5's, for the loss that each arm trains and for the common one."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pandas as pd

from ddpm.errors import UserError
from ddpm.metrics import Z95
from reports.experiments import Check
from reports.experiments.selection import Arm
from reports.stats.estimates import windowed, with_both_intervals
from reports.stats.intervals import Estimate, Interval, around
from reports.stats.statistics import COMMON, TRAINED, curve, paired, shared_seeds
from reports.studies import probe_pairs

LOSSES = {TRAINED: "each arm's own, trained loss", COMMON: "common, unweighted loss"}
OF_PAIRS = {"hutch": TRAINED, "ref": COMMON}  # the names in `reports/studies/probe_pairs.py`
SPANS: tuple[tuple[float, float] | None, ...] = (None, (100, 2000), (8000, 10_000))


@dataclass(frozen=True)
class Change:
    """The mean over steps of E6's change against E5 in per cent, and at how many of `count` steps the mean curves have
    E6 lower. over_draws: with the interval over paired draws. If they cannot be paired, `estimate` is given the probe's
    draws, and `over_draws` has an interval that is too wide rather than too narrow, whatever draws the arms share; none
    if the probes' errors are unknown."""

    metric: str
    span: tuple[float, float] | None
    estimate: Estimate
    over_draws: Estimate
    lower: int
    count: int


@lru_cache(maxsize=8)  # summary and table ask for the same
def changes(baseline: Arm, variant: Arm) -> list[Change]:
    """For both losses, over all steps, the early and the late ones; only what both arms measured."""
    found = []
    for metric in LOSSES:
        for span in SPANS:
            table = paired(baseline, variant, metric)["change_pct"]
            inside = windowed(span, table, baseline)
            if len(inside):
                check = Check(metric=metric, of="step_change_pct", window=span, at_most=0)
                given = with_both_intervals(check, [baseline, variant])
                over_draws = Estimate(given.number, within=given.within, paired=True)
                if not given.paired:
                    reach = _reach(baseline, variant, metric, inside.index)
                    within = None if given.number is None or reach is None else around(given.number, reach)
                    over_draws = Estimate(given.number, within=within)
                found.append(Change(metric, span, given, over_draws, int((inside < 0).sum()), len(inside)))
    return found


def _reach(baseline: Arm, variant: Arm, metric: str, steps: pd.Index) -> float | None:
    """Half an interval over draws: Z95 (se_v + R se_b) / mean_b in per cent, R the quotient of the means. This is the
    error of a quotient whose parts vary against each other as much as they can. The draws are the same at every step
    and seed, so nothing averages out. None if the errors are unknown."""
    reaches = []
    for i, j in shared_seeds(baseline, variant):
        runs = baseline.runs[i], variant.runs[j]
        errors = [run.series(f"{metric.removesuffix('_mean')}_sem").reindex(steps).mean() for run in runs]
        means = [run.series(metric).reindex(steps).mean() for run in runs]
        reaches.append(100 * Z95 * (errors[1] + means[1] / means[0] * errors[0]) / means[0])
    found = pd.Series(reaches, dtype=float)
    return float(found.mean()) if len(found) and found.notna().all() else None


# ---- draw by draw ----------------------------------------------------------------------------------------


def read_pairs(folder: Path, runs: Collection[str]) -> tuple[pd.DataFrame, list[str]]:
    """The table of `probe_pairs` for all seeds with files of `ddpm probe --out` for e5 and e6 in `folder`, the rows
    over seeds last; and a line for each file without a partner.

    Raises UserError: two files do not belong together, or a file belongs to none of `runs`."""
    by_seed: dict[int, dict[str, probe_pairs.Probes]] = defaultdict(dict)
    for path in sorted(folder.glob("*.jsonl")):
        probes = probe_pairs.read(path)
        if probes.run_id not in runs:
            raise UserError(
                f"{path} has probes of the run {probes.run_id}, which has no record. Keep one or remove the file."
            )
        if probes.experiment in by_seed[probes.seed]:
            raise UserError(f"{folder} has two files for {probes.experiment} seed {probes.seed}. Keep one.")
        by_seed[probes.seed][probes.experiment] = probes
    pairs = {seed: found for seed, found in sorted(by_seed.items()) if {"e5", "e6"} <= found.keys()}
    alone = [
        f"{probes.experiment} seed {seed} was probed draw by draw, but its partner was not."
        for seed, found in sorted(by_seed.items())
        if seed not in pairs
        for probes in found.values()
    ]
    tables = [probe_pairs.pair(found["e5"], found["e6"]) for found in pairs.values()]
    if not tables:
        return pd.DataFrame(columns=list(probe_pairs.COLUMNS)), alone
    return pd.concat([*tables, *probe_pairs.over_seeds(tables)], ignore_index=True), alone


def of_pairs(table: pd.DataFrame, loss: str) -> Estimate:
    """The change of the mean over the checkpoints in per cent, with the intervals over the draws (mean over seeds,
    whose draws are the same) and over seeds, given these draws."""
    mine = table[(table["loss"] == loss) & (table["step"] == 0)] if len(table) else table
    single = mine[mine["seed"] != "all"] if len(mine) else mine
    if single.empty:
        return Estimate(reason="not probed draw by draw")
    number, low, high = (float(single[name].mean()) for name in ("change_pct", "low_pct", "high_pct"))
    draws = min(int(str(over).split()[0]) for over in single["interval_over"])
    of_seeds = mine[mine["seed"] == "all"]
    seeds = None
    if len(of_seeds):
        seeds = Interval(float(of_seeds["low_pct"].iloc[0]), float(of_seeds["high_pct"].iloc[0]), len(single) - 1)
    return Estimate(number, tuple(map(float, single["change_pct"])), Interval(low, high, draws - 1), seeds)


def relative(baseline: Arm, variant: Arm, metric: str) -> tuple[pd.Series, list[pd.Series]]:
    """E6's change against E5 in per cent by step: for the mean curves, and for each seed that both have."""
    each: Sequence[pd.Series] = [
        100 * (variant.runs[j].series(metric) / baseline.runs[i].series(metric) - 1).dropna()
        for i, j in shared_seeds(baseline, variant)
    ]
    mean = 100 * (curve(variant, metric) / curve(baseline, metric) - 1).dropna()
    return mean, [values for values in each if len(values)]
