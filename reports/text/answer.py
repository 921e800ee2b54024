"""The answer that a report opens with: a sentence each on FID, curvature and loss, with its interval and its basis."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ddpm.metrics import Z95
from ddpm.metrics.table import axis_label
from reports.experiments import OF_TIMESTEPS, Check
from reports.experiments.selection import PREDICTION, Arm, Selection, not_comparable
from reports.judging.checks import estimated, span
from reports.judging.judge import side
from reports.judging.seeds import more_seeds
from reports.protocols import protocol_difference
from reports.runs import SCORES
from reports.stats.estimates import metric_curve, windowed
from reports.stats.intervals import Estimate
from reports.stats.statistics import COMMON, NEUTRAL, TRAINED, standard_error, unlike, weightings_differ
from reports.text.verdicts import number

_LINES = 3  # sentences in an answer
_MOST = 3  # variants in a sentence
_NAMES = {
    "val/fid": "FID (lower is better)",
    "final/fid": "FID after training (lower is better)",
    COMMON: "Hessian trace of the common unweighted loss",
    NEUTRAL: "Hessian trace of the neutral loss",
    TRAINED: "Hessian trace of the trained loss",
    "train/mse": "Unweighted loss",
    "train/loss": "Training loss",
}
_FIDS = ("val/fid", "final/fid")


@dataclass(frozen=True)
class Sentence:
    """`about`: a quantity in words. `says`: what the runs show of it."""

    about: str
    says: str


def answer(selection: Selection) -> list[Sentence]:
    """At most three sentences on what was measured, after one on the arms that are missing. Each gives a number, its
    interval and what that rests on, or says that nothing is decided and why.

    A criterion's own check is used if there is one; else the last FID, and means over the late window. Metrics of
    criteria come first, then FID, curvature and loss.
    """
    said = [(_measured_in(metric, selection), metric) for metric in _metrics(selection)]
    said.sort(key=lambda found: not found[0])  # what no arm measured comes last
    return [*_missing(selection), *(_sentence(metric, there, selection) for there, metric in said[:_LINES])]


def _missing(selection: Selection) -> list[Sentence]:
    """A sentence on arms without runs, and on a report that compares nothing."""
    gone = ", ".join(selection.missing)
    if selection.baseline and selection.variants:
        return [Sentence("Missing", f"no run of {gone}, so nothing is said of it.")] if gone else []
    why = f"there is no run of {gone}" if gone else "the experiment has one arm"
    return [Sentence("Nothing is compared", f"{why}. The sentences below are about single arms.")]


# ---- what is said ----------------------------------------------------------------------------------------


def _metrics(selection: Selection) -> list[str]:
    """The metrics of the sentences. Of each family, the one that most arms logged; in a tie the more comparable one."""
    differ = weightings_differ(selection.arms)
    traces = (NEUTRAL, COMMON, TRAINED) if unlike(selection.arms) else (COMMON, NEUTRAL, TRAINED)
    losses = ("train/mse",) if differ else ("train/mse", "train/loss")
    families = (_FIDS, traces, losses)
    chosen = [max(family, key=lambda metric: len(_measured_in(metric, selection))) for family in families]
    checks = (check for claim in selection.study.criteria for check in claim.checks)
    others = {
        check.metric: None for check in checks if _compares(check) and not any(check.metric in f for f in families)
    }
    return [*(metric for metric in others if metric not in ("train/loss", *chosen)), *chosen]


def _measured_in(metric: str, selection: Selection) -> list[Arm]:
    return [arm for arm in selection.arms if len(metric_curve(arm, metric))]


def _compares(check: Check) -> bool:
    """Whether the check's number is one that the sentences have words for. Of noise levels, figures say more."""
    by_level = check.metric.startswith(("curvature/trace_by_noise/", "loss_by_noise/"))
    return check.of in ("difference", "change_pct") and check.statistic in ("mean", "last") and not by_level


def _sentence(metric: str, there: Sequence[Arm], selection: Selection) -> Sentence:
    about = _NAMES.get(metric, axis_label(metric))
    if not there:
        weighted = metric == "train/mse" and weightings_differ(selection.arms)
        why = "; the training losses are differently weighted, so they are not compared" * weighted
        return Sentence(about, f"not measured in these runs{why}.")
    baseline = selection.baseline
    variants = [arm for arm in there if arm is not baseline]
    if baseline not in there or not variants:
        clauses = [_alone(metric, arm, selection) for arm in there[:_MOST]]
    else:
        assert baseline is not None
        clauses = ["; ".join(_compared(metric, baseline, variant, selection) for variant in variants[:_MOST])]
        clauses += _caveats(metric, [baseline, *variants[:_MOST]])
    lacking = [arm.experiment for arm in selection.arms if arm not in there]
    clauses += [f"Not measured in {', '.join(lacking)}"] if lacking else []
    left = len(variants) - _MOST
    clauses += [f"The tables have {left} more"] if left > 0 else []
    return Sentence(about, " ".join(f"{clause}." for clause in clauses))


def _caveats(metric: str, arms: Sequence[Arm]) -> list[str]:
    if metric == TRAINED and weightings_differ(arms):
        return ["Each is the trace of the arm's own weighted loss, so part of the difference is the weighting's scale"]
    keys = [key for key in unlike(arms) if key != PREDICTION] if metric.startswith(OF_TIMESTEPS) else []
    return [f"The arms differ in {', '.join(keys)}, so their losses are different functions"] if keys else []


# ---- one arm against another -----------------------------------------------------------------------------


def _compared(metric: str, baseline: Arm, variant: Arm, selection: Selection) -> str:
    """`e6's is 3.50 lower than e5's at step 200 (95 % interval -5.80 to -1.20; Student's t over 2 seeds, paired)`,
    after `undecided` or what limits it."""
    pair, v, b = [baseline, variant], variant.experiment, baseline.experiment
    mixed = metric in SCORES and protocol_difference(pair, metric) is not None
    if mixed and not selection.study.compares_protocols:
        return f"{v} is not compared with {b}: measured under different protocols"
    if why := not_comparable(metric, [baseline.config, variant.config]):
        return f"{v} is not compared with {b}: {why}"
    check = _check(metric, baseline, variant, selection)
    found = estimated(check, selection)
    if found.number is None:
        return f"{v} is not compared with {b}: {found.reason}"
    sign, limits = side(found)
    reason = "not all runs are finished" if _unfinished(pair) else found.reason
    if sign:
        lead = f"{limits.lstrip(' ,')}, " if limits else ""
    else:
        lead = f"undecided, {reason}: " if reason else "undecided: "
    than = f"{_size(check, found.number)} than {b}'s" if found.number else f"0 away from {b}'s"
    protocols = "; the protocols differ, as the experiment declares" if mixed else ""
    open_ = not (sign or reason or found.within) and found.seeds and found.number
    more = f"; {more_seeds(check, pair, [abs(found.number)])} would tell" if open_ else ""
    return f"{lead}{v}'s is {than}{_when(check, pair)} ({_interval(check, found, not sign)}{protocols}{more})"


def _check(metric: str, baseline: Arm, variant: Arm, selection: Selection) -> Check:
    """The criterion's check of this metric and variant, or one of the last FID or of a mean in the late window.

    Arms of different lengths have no common late window, and if one is unfinished, no common end: then the check is
    about the steps that both have.
    """
    study, pair = selection.study, (baseline, variant)
    even = baseline.last_step == variant.last_step
    for check in (check for claim in study.criteria for check in claim.checks):
        ours = check.metric == metric and (check.arm or study.name) == variant.experiment and _compares(check)
        if ours and (even or (check.statistic == "last" and not _unfinished(pair))):
            return check
    own: dict[str, Any] = {"metric": metric, "arm": variant.experiment, "at_most": 0.0}
    if metric not in _FIDS:
        return Check(**own, of="change_pct", window=study.windows.late if even else None)
    steps = metric_curve(baseline, metric).index.intersection(metric_curve(variant, metric).index)
    window = (float(steps[-1]), float(steps[-1])) if len(steps) and _unfinished(pair) else None
    return Check(**own, of="difference", statistic="last", window=window)


def _unfinished(arms: Sequence[Arm]) -> bool:
    return any(run.last_step < (run.planned_steps or 0) for arm in arms for run in arm.runs)


def _size(check: Check, value: float) -> str:
    size = f"{abs(value):.1f} %" if check.of == "change_pct" else f"{abs(value):.2f}"
    return f"{size} {'lower' if value < 0 else 'higher'}"


def _when(check: Check, arms: Sequence[Arm]) -> str:
    """At which step, or over which steps, with a space before."""
    if check.statistic == "last":
        ends = [int(windowed(check.window, metric_curve(arm, check.metric), arm).index[-1]) for arm in arms]
        return f" at step {ends[0]}" if len(set(ends)) == 1 else f" at its end (step {ends[-1]} against {ends[0]})"
    return f" over {span(check.window)}" if check.window else " over the steps that both logged"


def _interval(check: Check, found: Estimate, undecided: bool) -> str:
    """The interval within the runs and the one over seeds, if there are any, and what they rest on."""
    digits, end = (1, " %") if check.of == "change_pct" or check.statistic == "drop_pct" else (2, "")
    sign = "+" if check.of != "value" else ""
    ends = {"within these runs": found.within, "over seeds": found.seeds}
    known = {what: interval for what, interval in ends.items() if interval}
    several = len(known) > 1
    said = [
        f"{low:{sign}.{digits}f} to {high:{sign}.{digits}f}{end}"
        + f" {what}" * several
        + ", which includes 0" * (undecided and check.of != "value" and low <= 0 <= high)
        for what, (low, high) in known.items()
    ]
    if not said:
        return f"no interval: {found.basis}" if found.basis else "no interval"
    return f"95 % interval{'s' * several} {' and '.join(said)}; {found.basis}"


# ---- one arm alone ---------------------------------------------------------------------------------------


def _alone(metric: str, arm: Arm, selection: Selection) -> str:
    """An arm's last FID, or how far another metric falls from the early to the late window."""
    windows = selection.study.windows
    own: dict[str, Any] = {"metric": metric, "arm": arm.experiment, "at_most": 0.0}
    if metric in _FIDS:
        check = Check(**own, statistic="last")
    else:
        check = Check(**own, statistic="drop_pct", since=windows.early, window=windows.late)
    found = estimated(check, selection)
    name = arm.experiment
    if found.number is None:
        return f"nothing is said of {name}: {found.reason}"
    so_far = ", not all runs are finished" if _unfinished([arm]) else ""
    if metric in _FIDS:
        what = f"{name}'s is {found.number:.2f}{_when(check, [arm])}"
        return f"{what}{so_far} ({_interval(check, found, False)}{_sample_noise(metric, arm)})"
    moves = "falls" if found.number >= 0 else "rises"
    over = f"from {span(windows.early).removesuffix(' of the run')} to {span(windows.late)}"
    return f"{name}'s {moves} by {abs(found.number):.1f} % {over}{so_far} ({_interval(check, found, False)})"


def _sample_noise(metric: str, arm: Arm) -> str:
    """The error of a single run's last FID by its samples; empty if it was not logged."""
    errors = standard_error(arm, metric)
    if len(arm.runs) > 1 or errors.empty:
        return ""
    return f"; the noise of its samples is ± {number(Z95 * float(errors.iloc[-1]), 3)}"
