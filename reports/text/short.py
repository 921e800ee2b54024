"""A report in a few lines for the terminal."""

import math

from reports.experiments.selection import Arm, Selection, differing_predictions, differing_schedules
from reports.protocols import protocol_difference
from reports.stats.statistics import COMMON, NEUTRAL, TRAINED, Comparison, compare, curve, weightings_differ
from reports.text.verdicts import pairs


def in_short(selection: Selection) -> list[str]:
    """A line for each variant with its differences from the baseline, and a line with seeds and steps.

    The numbers are those of the verdicts: the mean change per step for traces, the change of the mean for the loss.
    """
    compared = pairs(selection)
    if not compared:
        there = ", ".join(arm.experiment for arm in selection.arms)
        return [f"Only these arms have runs: {there}. Nothing is compared."]
    lines = [
        f"{variant.experiment} against {baseline.experiment}: {'; '.join(_differences(baseline, variant, selection))}"
        for baseline, variant in compared
    ]
    return [*lines, _basis(selection)]


def _differences(baseline: Arm, variant: Arm, selection: Selection) -> list[str]:
    own = "each arm's trained loss" if weightings_differ([baseline, variant]) else "the trained loss"
    names = {
        TRAINED: f"Hessian trace of {own}",
        COMMON: "Hessian trace of the common loss",
        NEUTRAL: "Hessian trace of the neutral loss",
        "train/mse": "unweighted loss",
    }
    found = {metric: compare(baseline, variant, metric, selection.study.windows) for metric in names}
    changes = {
        metric: of.change_of_means_pct if metric == "train/mse" else of.mean_change_pct
        for metric, of in found.items()
        if of is not None
    }
    said = [
        f"{names[metric]} {change:+.1f} %{_by_draw(found[metric])}"
        for metric, change in changes.items()
        if math.isfinite(change)
    ]
    if schedules := differing_schedules([baseline.config, variant.config]):
        said.append(f"other losses are not compared, as the schedules differ ({schedules})")
    if predictions := differing_predictions([baseline.config, variant.config]):
        said.append(f"Hessian traces are not compared, as the predictions differ ({predictions})")
    return [*said, *_fid(baseline, variant)] or ["no metric was logged in both"]


def _by_draw(found: Comparison | None) -> str:
    """The interval of a trace's change over paired draws; empty without one."""
    change = found.change_by_draw if found else None
    if change is None or change.within is None:
        return ""
    return f" ({change.within[0]:+.1f} to {change.within[1]:+.1f} over the draws)"


def _fid(baseline: Arm, variant: Arm) -> list[str]:
    """The FIDs at the last common milestone; empty if the protocols differ."""
    of_both = [curve(arm, "val/fid") for arm in (variant, baseline)]
    steps = of_both[0].index.intersection(of_both[1].index)
    if not len(steps) or protocol_difference([baseline, variant], "val/fid") is not None:
        return []
    mine, its = (float(values[steps[-1]]) for values in of_both)
    return [f"FID {mine:.2f} against {its:.2f} at step {steps[-1]}"]


def _basis(selection: Selection) -> str:
    seeds = {len(arm.runs) for arm in selection.arms}
    steps = max(arm.last_step for arm in selection.arms)
    if max(seeds) == 1:
        return f"(one seed each, {steps} steps: no interval over seeds)"
    count = f"{min(seeds)} seeds" if len(seeds) == 1 else f"{min(seeds)} to {max(seeds)} seeds"
    return f"(means over {count} each, {steps} steps; the report has the intervals)"
