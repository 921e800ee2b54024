"""Verdicts in words. Every number in them is computed, and they claim no more than the runs can show."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from reports.experiments.selection import Arm, Selection, differing_predictions, differing_schedules
from reports.judging.checks import beside_samples
from reports.judging.judge import side
from reports.protocols import protocol_difference
from reports.stats.intervals import Estimate
from reports.stats.statistics import (
    COMMON,
    NEUTRAL,
    TRAINED,
    Comparison,
    at_end,
    compare,
    curve,
    describe,
    same_noise,
    sample_contrast,
    seed_contrast,
    standard_error,
    unlike,
    weightings_differ,
)


def number(value: float | None, digits: int = 4) -> str:
    """`value` with `digits` significant digits, for sentences and tables; a dash for None and NaN."""
    if value is None or math.isnan(value):
        return "–"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 10**digits:
        return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"
    return f"{value:,.0f}" if 10**digits <= abs(value) < 1e7 else f"{value:.{digits - 1}e}"


def all_verdicts(selection: Selection) -> list[tuple[str, list[str]]]:
    """(heading, sentences) about loss, curvature, FID and seeds, without empty headings."""
    groups = {
        "Loss": loss_verdicts(selection),
        "Curvature": trace_verdicts(selection),
        "FID": fid_verdicts(selection),
        "Seeds": seed_verdicts(selection.arms),
    }
    return [(heading, sentences) for heading, sentences in groups.items() if sentences]


def below_sentence(found: Comparison, what: str, unit: str = "measurements") -> str:
    """`e6's <what> lies below e5's at k of n measurements, by x % on average (a to b %).`"""
    v, b, n = found.variant, found.baseline, found.paired_count
    if found.lower_count == found.higher_count == 0:
        return f"{v}'s {what} equals {b}'s at all {n} {unit}."
    low, high, mean = found.min_change_pct, found.max_change_pct, found.mean_change_pct
    if not math.isfinite(mean):
        return f"{v}'s {what} lies below {b}'s at {found.lower_count} of {n} {unit}."
    if low * high < 0:  # on both sides: the count alone and the mean alone would mislead
        return f"{_counts(found, what, unit)}; the change is {mean:+.1f} % on average ({low:+.1f} to {high:+.1f} %)."
    side, count = ("below", found.lower_count) if mean < 0 else ("above", found.higher_count)
    span = f"{min(abs(low), abs(high)):.1f} to {max(abs(low), abs(high)):.1f} %"
    return f"{v}'s {what} lies {side} {b}'s at {count} of {n} {unit}, by {abs(mean):.1f} % on average ({span})."


def loss_sentence(found: Comparison, metric: str) -> str:
    """Compares a loss by counts and by the change of its mean.

    Single values are one batch's: small ones of the baseline would inflate the mean of the changes.
    """
    change = found.change_of_means_pct
    said = f"; its mean over them is {_more_or_less(change)}" if math.isfinite(change) else ""
    return f"{_counts(found, metric, 'logged steps')}{said}."


def _counts(found: Comparison, what: str, unit: str) -> str:
    v, b, n = found.variant, found.baseline, found.paired_count
    return f"{v}'s {what} lies below {b}'s at {found.lower_count} of {n} {unit} and above it at {found.higher_count}"


def _more_or_less(change_pct: float) -> str:
    return f"{abs(change_pct):.1f} % {'lower' if change_pct < 0 else 'higher'}" if change_pct else "the same"


# ---- loss ------------------------------------------------------------------------------------------------


def loss_verdicts(selection: Selection) -> list[str]:
    """How each arm's loss falls, and how the arms compare if they log comparable losses."""
    windows = selection.study.windows
    sentences = []
    for arm in selection.arms:
        sentences += _window_sentence(arm, "train/loss", "train/loss", selection)
    for baseline, variant in pairs(selection):
        differ = weightings_differ([baseline, variant])
        metric = "train/mse" if differ else "train/loss"
        found = compare(baseline, variant, metric, windows)
        if differ:
            sentences.append(
                f"train/loss of {variant.experiment} and {baseline.experiment} are different quantities "
                "(their weightings differ), so their values are not compared."
            )
            if found is None and not _schedules(baseline, variant):
                sentences.append("train/mse, the unweighted loss that could be compared, was not logged in both arms.")
        if schedules := _schedules(baseline, variant):
            sentences.append(
                f"{metric} of {variant.experiment} and {baseline.experiment} is not compared: the schedules differ "
                f"({schedules}), and it is the mean of another function under each."
            )
        if found is not None:
            sentences.append(loss_sentence(found, metric))
            if found.seeds is not None:
                sentences.append(_interval_sentence(found))
            if found.late_mean_change_pct is not None:
                said = _more_or_less(found.late_mean_change_pct)
                against = f"against {baseline.experiment}'s"
                sentences.append(f"In the late window {variant.experiment}'s mean {metric} is {said} {against}.")
    return sentences


def _window_sentence(arm: Arm, metric: str, what: str, selection: Selection) -> list[str]:
    """How far the mean moves from the early to the late window; empty if a window is empty."""
    stats = describe(curve(arm, metric), arm.last_step, selection.study.windows)
    if "drop_pct" not in stats:
        return []
    early, late = number(stats["early_mean"]), number(stats["late_mean"])
    moves = {1: "falls", -1: "rises", 0: "does not change"}[int(np.sign(stats["drop_pct"]))]
    by = f" by {abs(stats['drop_pct']):.1f} %" if stats["drop_pct"] else ""
    return [f"{arm.experiment}: {what} {moves}{by} from the early to the late window ({early} to {late})."]


def pairs(selection: Selection) -> list[tuple[Arm, Arm]]:
    """(baseline, variant) for every variant; none without the baseline."""
    baseline = selection.baseline
    return [(baseline, variant) for variant in selection.variants] if baseline else []


# ---- curvature -------------------------------------------------------------------------------------------


def trace_verdicts(selection: Selection) -> list[str]:
    """How each arm's trace falls, how the arms compare, and what that comparison is worth."""
    sentences = []
    for arm in selection.arms:
        sentences += _window_sentence(arm, TRAINED, "the trace of the trained loss", selection)
    for baseline, variant in pairs(selection):
        sentences += _trace_pair(baseline, variant, selection)
    return sentences


def _trace_pair(baseline: Arm, variant: Arm, selection: Selection) -> list[str]:
    arms, windows = [baseline, variant], selection.study.windows
    if predictions := differing_predictions([baseline.config, variant.config]):
        return [
            f"{variant.experiment}'s and {baseline.experiment}'s traces are not compared: the predictions differ "
            f"({predictions}), and each network is another function of its weights."
        ]
    if schedules := _schedules(baseline, variant):
        return _across_schedules(baseline, variant, selection, schedules)
    trained, common, neutral = (compare(baseline, variant, metric, windows) for metric in (TRAINED, COMMON, NEUTRAL))
    sentences = []
    if trained is not None:
        sentences.append(below_sentence(trained, "trace of its trained loss"))
        if weightings_differ(arms):
            sentences.append(
                "These are traces of different functions: each arm's own weighted loss. Part of the difference is the "
                "weighting's scale."
            )
            if common is None:
                sentences.append(
                    "The trace of the common unweighted loss was not logged in both arms, so these runs cannot tell "
                    "how much of the difference is geometry."
                )
        else:
            sentences.append(_interval_sentence(trained))
    if unlike(arms) and (trained or common):
        sentences.append(
            f"{variant.experiment} and {baseline.experiment} differ in {', '.join(unlike(arms))}, so even their "
            "unweighted losses are different functions."
        )
    if common is not None:
        sentences += [below_sentence(common, "trace of the common unweighted loss"), _interval_sentence(common)]
    if neutral is not None:
        sentences += [below_sentence(neutral, "trace of the neutral loss"), _interval_sentence(neutral)]
    why = next((found.not_paired for found in (common, trained) if found), "")
    return [*sentences, f"The traces are not compared draw by draw: {why}."] if why else sentences


def _schedules(baseline: Arm, variant: Arm) -> str:
    """In what the arms' schedules differ; empty if they are equal."""
    return differing_schedules([baseline.config, variant.config])


def _across_schedules(baseline: Arm, variant: Arm, selection: Selection, schedules: str) -> list[str]:
    """The neutral traces of two arms with different schedules, and why no other trace is compared."""
    sentences = [
        f"{variant.experiment}'s and {baseline.experiment}'s traces of their trained and common losses are not "
        f"compared: the schedules differ ({schedules}), and these losses are other functions under each."
    ]
    neutral = compare(baseline, variant, NEUTRAL, selection.study.windows)
    if neutral is None:
        return [*sentences, "The trace of the neutral loss, which could be compared, was not logged in both arms."]
    sentences += [below_sentence(neutral, "trace of the neutral loss"), _interval_sentence(neutral)]
    why = f"The traces are not compared draw by draw: {neutral.not_paired}."
    return [*sentences, why] if neutral.not_paired else sentences


def _interval_sentence(found: Comparison) -> str:
    """The mean paired difference, its interval (over seeds if there are several, and over paired draws), and whether
    that excludes 0."""
    pair = f"({found.variant} - {found.baseline})"
    if found.seeds is not None:
        return f"The mean difference {pair} is {_over_seeds(found.seeds)}.{_of_these_weights(found)}"
    probes = found.over_probes
    what = f"The mean paired difference {pair} is {number(found.mean_difference)}"
    if probes is None or probes.within is None:
        return f"{what}; {probes.basis if probes else 'its standard error is not known'}."
    if found.by_draw:
        return f"{what} ± {number(found.by_draw.sem, 2)} (standard error over the draws).{_of_these_weights(found)}"
    low, high = probes.within
    excludes = "excludes" if side(probes)[0] else "includes"
    over = "over the probes" + ("; both arms share their draws, so it is usually too large" if found.same_draws else "")
    return (
        f"{what} ± {number(found.mean_difference_sem, 2)} (standard error {over}); the 95 % interval "
        f"{number(low)} to {number(high)} {excludes} 0. It covers the estimator's error at these steps, not "
        "the variation between seeds."
    )


def _of_these_weights(found: Comparison) -> str:
    """The interval over paired draws, also of the mean change in per cent; empty if there are none."""
    difference, change = found.by_draw, found.change_by_draw
    if difference is None or difference.within is None:
        return ""
    low, high = map(number, difference.within)
    ends = change and change.within
    percent = f", in per cent {ends[0]:+.1f} to {ends[1]:+.1f} on average" if ends else ""
    excludes = "excludes" if side(difference)[0] else "includes"
    return (
        f" Draw by draw its 95 % interval is {low} to {high}{percent} ({difference.basis}): it {excludes} 0. "
        "That covers other draws of the probe, for these weights, not the variation between seeds."
    )


def _over_seeds(found: Estimate) -> str:
    """A difference, its interval over seeds, and whether it exceeds their noise."""
    low, high = found.seeds or (math.nan, math.nan)
    said = "beyond the noise of the seeds" if side(found)[0] else "within the noise of the seeds"
    return f"{number(found.number)}, its 95 % interval {number(low)} to {number(high)} ({found.basis}): it is {said}"


# ---- FID -------------------------------------------------------------------------------------------------


def fid_verdicts(selection: Selection) -> list[str]:
    """Trend, best and last of each arm, and the arms' differences at common milestones."""
    sentences = []
    for arm in selection.arms:
        sentences += _fid_arm(arm)
    for baseline, variant in pairs(selection):
        sentences += _fid_pair(baseline, variant)
    return sentences + fid_alarm(selection)


def trend(values: Sequence[float]) -> str:
    """`rises`, `falls`, `is mixed` or `is flat`, by whether every step goes the same way."""
    steps = [b - a for a, b in pairwise(values)]
    if all(step == 0 for step in steps):
        return "is flat"
    if all(step >= 0 for step in steps):
        return "rises"
    return "falls" if all(step <= 0 for step in steps) else "is mixed"


def _fid_arm(arm: Arm) -> list[str]:
    values = curve(arm, "val/fid")
    name = arm.experiment
    sentences = []
    if len(values) == 1:
        sentences.append(f"{name}: one milestone, FID {values.iloc[0]:.2f} at step {values.index[0]}.")
    elif len(values):
        first, last = float(values.iloc[0]), float(values.iloc[-1])
        sentences.append(
            f"{name}: FID {trend(list(values))} over {len(values)} milestones, from {first:.2f} at step "
            f"{values.index[0]} to {last:.2f} at step {values.index[-1]}; best {values.min():.2f} at step "
            f"{values.idxmin()}, last {last:.2f}."
        )
    if len(values):
        sentences += _above_floor(arm, float(values.iloc[-1]))
    finals = at_end(arm, "final/fid")
    if finals:
        seeds = f", mean of {len(finals)} seeds" if len(finals) > 1 else ""
        same = all(run.protocol_of("final/fid") == run.protocol_of("val/fid") for run in arm.runs)
        protocol = "the milestones' protocol" if same else "a protocol of its own"
        sentences.append(
            f"{name}: final FID {sum(finals) / len(finals):.2f}{seeds} (after the last step, under {protocol})."
        )
    return sentences


def fid_alarm(selection: Selection) -> list[str]:
    """A sentence on the arms whose FID gets worse while their loss falls, as in the original study; empty without one.

    Two milestones, or one rise among several, may be sampling noise; a steady rise is not.
    """
    arms = []
    for arm in selection.arms:
        values = list(curve(arm, "val/fid"))
        loss = describe(curve(arm, "train/loss"), arm.last_step, selection.study.windows)
        if len(values) >= 3 and trend(values) == "rises" and loss.get("drop_pct", 0.0) > 0:
            arms.append(arm.experiment)
    if not arms:
        return []
    return [
        f"{', '.join(arms)}: FID gets worse while train/loss falls. Longer training should not do that: look at the "
        "samples and the sampler before you use these FIDs."
    ]


def _above_floor(arm: Arm, last: float) -> list[str]:
    """The last milestone against the FID of as many real images, if that was measured."""
    floor = curve(arm, "val/fid_floor")
    if floor.empty:
        return []
    real = float(floor.iloc[-1])
    where = "no worse than" if last <= real else f"{last - real:.2f} above"
    return [f"{arm.experiment}: FID at the last milestone is {where} that of as many real images ({real:.2f})."]


def _fid_pair(baseline: Arm, variant: Arm) -> list[str]:
    arms = [baseline, variant]
    b, v = (curve(arm, "val/fid") for arm in arms)
    names = f"{variant.experiment} minus that of {baseline.experiment}"
    steps = b.index.intersection(v.index)
    sentences = []
    if len(steps):
        listed = ", ".join(f"{d:+.2f} at {step}" for step, d in (v - b).loc[steps].items())
        void = _void(arms, "val/fid")
        sentences.append(f"FID of {names} at the common milestones: {listed}.{void}")
        if not void:
            sentences += _seed_noise(baseline, variant, int(steps[-1]))
            sentences += _sample_noise(baseline, variant, int(steps[-1]))
    elif len(b) and len(v):
        sentences.append(f"{variant.experiment} and {baseline.experiment} have no milestone at a common step.")
    finals = [at_end(arm, "final/fid") for arm in arms]
    if all(finals):
        its, mine = (sum(values) / len(values) for values in finals)
        sentences.append(f"Final FID of {names}: {mine - its:+.2f}.{_void(arms, 'final/fid')}")
    return sentences


def _void(arms: Sequence[Arm], metric: str) -> str:
    """A warning if the arms' protocols differ; else empty."""
    if protocol_difference(arms, metric) is None:
        return ""
    return " They were measured under different protocols: this difference means nothing."


def _seed_noise(baseline: Arm, variant: Arm, step: int) -> list[str]:
    """The FIDs' difference at `step` against the noise of the seeds; empty if an arm has one seed."""
    found = seed_contrast(baseline, variant, "val/fid", pd.Index([step]))
    return [f"At step {step} the mean difference is {_over_seeds(found)}."] if found else []


def _sample_noise(baseline: Arm, variant: Arm, step: int) -> list[str]:
    """The FIDs of two single runs at `step` against the noise of their samples; empty if that was not measured."""
    found = sample_contrast(baseline, variant, "val/fid", step)
    if found is None:
        return []
    shared = "; both start from the same noise, so it is usually too wide" if same_noise((baseline, variant)) else ""
    return [
        f"At step {step} {variant.experiment} and {baseline.experiment} are {beside_samples(found)}. "
        f"The 95 % interval adds the errors of both as if their samples were independent{shared}."
    ]


# ---- seeds -----------------------------------------------------------------------------------------------


def seed_verdicts(arms: Sequence[Arm]) -> list[str]:
    """What the number of seeds leaves open, and where means over seeds end."""
    counts = {arm.experiment: len(arm.runs) for arm in arms}
    single = [name for name, count in counts.items() if count == 1]
    sentences = []
    if len(single) == len(arms):
        who = "one seed per arm" if len(arms) > 1 else "one seed"
        sentences.append(f"{who.capitalize()}: no interval across seeds can be given.")
    else:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        sentences.append(f"Seeds per arm: {listed}. Bands are 95 % bootstrap intervals over seeds.")
        sentences += [f"{name} is a single seed: no interval across seeds can be given for it." for name in single]
    if single and len(arms) > 1:
        sentences.append("These runs cannot tell whether the differences exceed the variation between seeds.")
    for arm in arms:
        ends = {run.last_step for run in arm.runs}
        if len(ends) > 1:
            sentences.append(
                f"{arm.experiment}'s seeds end at different steps ({', '.join(map(str, sorted(ends)))}): "
                f"means over seeds end at step {min(ends)}, with the shortest run."
            )
    if any(len(curve(arm, TRAINED)) and standard_error(arm, TRAINED).empty for arm in arms):
        sentences.append("Some traces have no standard error: neither it nor the number of probes is recorded.")
    return sentences
