"""The report's page in Markdown, from a template."""

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ddpm.config.run import flatten
from ddpm.metrics import Z95
from reports.experiments.selection import Selection, differing_keys, matches, show
from reports.figures import Figure
from reports.figures.steps import context_reason
from reports.judging.checks import judge_criteria, judge_statements
from reports.judging.judge import FAILS, HOLDS, UNDECIDED, Judged, Outcome
from reports.judging.seeds import what_would_decide
from reports.protocols import measured
from reports.runs import FID_METRICS, Run
from reports.stats.later import by_arm
from reports.stats.statistics import (
    COLUMNS,
    COMMON,
    NEUTRAL,
    STEP_METRICS,
    TRAINED,
    at_end,
    curve,
    standard_error,
    weightings_differ,
)
from reports.text.answer import answer
from reports.text.markup import Markdown, code, link, template
from reports.text.seal import seal_sentence
from reports.text.verdicts import all_verdicts, fid_alarm, number

_TABLED = (
    *STEP_METRICS,
    *(each.replace("_mean", end) for each in (TRAINED, COMMON, NEUTRAL) for end in ("_mean", "_std")),
)
_WEIGHTED = ("train/loss", "train/grad_global_L2", TRAINED)
_SHORT_COMMIT = 10
_SAMPLES = "sample_grids"


def markdown_page(
    selection: Selection,
    numbers: pd.DataFrame,
    figures: Sequence[Figure],
    command: Sequence[str],
    notes: Sequence[str] = (),
) -> str:
    """The report in Markdown, its images linked as `figures/<name>.png`.

    numbers: the frame of `statistics.numbers`. command: the words that make this report. notes: further warnings, such
    as mixed protocols.
    """
    differences = _differences(selection)
    milestones, fid_arms = _milestones(selection)
    comparisons = _comparisons(selection, numbers)
    windows = selection.study.windows
    criteria, statements = judge_criteria(selection), judge_statements(selection)
    first, more = _in_order(figures)
    seal, changed = seal_sentence(selection)
    return template("text/report.md.jinja").render(
        study=selection.study,
        answer=answer(selection),
        warnings=[*selection.warnings, *notes, *_unfinished(selection), *fid_alarm(selection), *[seal] * changed],
        first_figures=first,
        verdicts=all_verdicts(selection),
        criteria=claim_rows(criteria),
        criteria_count=_counted(criteria),
        to_decide=what_would_decide(criteria, selection),
        seal=seal,
        statements=claim_rows(statements),
        statement_count=_counted(statements),
        runs=[(arm, run) for arm in (*selection.arms, *selection.context) for run in arm.runs],
        run_link=lambda run: link(code(run.id), run.url),
        arms=[arm.experiment for arm in selection.arms],
        differences=differences,
        undeclared_count=sum(not row["declared"] for row in differences),
        context_lines=_context_lines(selection),
        early_high=f"{100 * windows.early[1]:g}",
        late_low=f"{100 * windows.late[0]:g}",
        summary=_summary(selection, numbers),
        milestones=milestones,
        fid_arms=fid_arms,
        comparisons=comparisons,
        comparison_note=_comparison_note(comparisons),
        more_figures=more,
        later=_later(selection),
        protocols=_protocols(selection),
        absent=_absent(selection, figures),
        command=shlex.join(command),
        training=_training(selection),
    )


def _in_order(figures: Sequence[Figure]) -> tuple[list[Figure], list[Figure]]:
    """The figures that could be drawn: (the overview, which is the study's first one, and the samples; the others)."""
    drawn = [figure for figure in figures if figure.png is not None]
    samples = [figure for figure in drawn if figure.name == _SAMPLES]
    others = [figure for figure in drawn if figure.name != _SAMPLES]
    return [*others[:1], *samples], others[1:]


def _counted(judged: Sequence[Judged]) -> str:
    """How many claims have which verdict: `1 pass, 2 undecided`."""
    return ", ".join(f"{count} {verdict}" for verdict, count in Counter(claim.verdict for claim in judged).items())


# ---- tables ----------------------------------------------------------------------------------------------


def _differences(selection: Selection) -> list[dict[str, Any]]:
    return [
        {
            "key": key,
            "cells": [show(arm.config, key) for arm in selection.arms],
            "declared": matches(key, selection.study.difference),
        }
        for key in differing_keys(selection.arms)
    ]


def _context_lines(selection: Selection) -> list[str]:
    lines = []
    for arm in selection.context:
        keys = differing_keys([selection.arms[0], arm])
        listed = ", ".join(f"{key} = {show(arm.config, key)}" for key in keys) or "nothing"
        lines.append(
            f"{arm.experiment} is context, shown only beside FID over steps. It differs from "
            f"{selection.arms[0].experiment} in: {listed}."
        )
    return lines


def _unfinished(selection: Selection) -> list[str]:
    """Runs that diverged or have steps left: sentences about their ends are about the steps that they have."""
    lines = []
    for run in (run for arm in selection.arms for run in arm.runs):
        if run.diverged_after is not None:
            lines.append(f"{run.name} diverged: its train/loss is not finite after step {run.diverged_after}.")
        elif run.last_step < (run.planned_steps or 0):
            lines.append(f"{run.name} is at step {run.last_step} of {run.planned_steps}.")
    return lines


def claim_rows(judged: Sequence[Judged]) -> list[dict[str, str]]:
    """A row for each check; the claim, its verdict and its note stand in the first."""
    return [_claim_row(claim, outcome, place == 0) for claim in judged for place, outcome in enumerate(claim.outcomes)]


def _claim_row(claim: Judged, outcome: Outcome, first: bool) -> dict[str, str]:
    found, verdict = outcome.estimate, outcome.verdict
    of_runs = "draws" if outcome.check.metric.startswith("curvature/") else "samples"
    ends = {of_runs: found.within, "seeds": found.seeds}
    named = found.within and found.seeds
    intervals = [
        f"{number(each[0])} to {number(each[1])}" + (f" over {what}" if named else "")
        for what, each in ends.items()
        if each
    ]
    whole = found.number is not None and outcome.check.statistic in ("min_step", "min_place")
    at = f" (step {found.step})" if found.step is not None else ""
    holds = {HOLDS: "yes", FAILS: "no"}.get(verdict.word, "cannot be said")
    return {
        "says": claim.says + (f" ({claim.note})" if claim.note else "") if first else "",
        "verdict": claim.verdict if first else "",
        "what": outcome.what,
        "wanted": outcome.wanted,
        "number": (f"{found.number:.0f}" if whole else number(found.number, 5))
        + outcome.unit * (found.number is not None)
        + at,
        "interval": "; ".join(
            dict.fromkeys(word for word in (*(intervals or ["–"]), found.basis, verdict.reason) if word)
        ),
        "holds": holds + (f": {verdict.reason}" if verdict.reason else ""),
        "adjusted": _adjusted(claim) if first else "",
    }


def _adjusted(claim: Judged) -> str:
    """The verdict after Holm's correction with its p-values: `pass (p = 0.004, after Holm 0.012)`."""
    if claim.p is None or claim.p_holm is None:
        return f"{claim.verdict} (no p)" if claim.verdict != UNDECIDED else "–"
    return f"{claim.adjusted} (p = {number(claim.p, 2)}, after Holm {number(claim.p_holm, 2)})"


def _by_name(numbers: pd.DataFrame) -> dict[tuple[str, str], dict[str, float]]:
    """(arm or pair, metric) -> statistic -> value."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for name, metric, statistic, value in numbers[COLUMNS].itertuples(index=False):
        found.setdefault((name, metric), {})[statistic] = value
    return found


def _summary(selection: Selection, numbers: pd.DataFrame) -> list[dict[str, str]]:
    values = _by_name(numbers)
    rows = []
    for metric in _TABLED:
        for arm in selection.arms:
            of = values.get((arm.experiment, metric), {})
            if "first" in of:
                row = {name: number(of.get(name)) for name in ("first", "last", "early_mean", "late_mean")}
                row["drop_pct"] = f"{of['drop_pct']:.1f}" if "drop_pct" in of else "–"
                row["lowest"] = f"{number(of['min'])} ({of['min_step']:.0f})"
                rows.append({"metric": metric, "arm": arm.experiment, **row})
    return rows


def _milestones(selection: Selection) -> tuple[dict[str, list[str]], list[str]]:
    """The FID table: label (a step; best, last, final) -> cells; and its columns (arms, comparable context)."""
    context = [arm for arm in selection.context if not context_reason(arm, selection.arms)]
    arms = [a for a in (*selection.arms, *context) if len(curve(a, "val/fid")) or at_end(a, "final/fid")]
    if not arms:
        return {}, []
    curves = [curve(arm, "val/fid") for arm in arms]
    errors = [standard_error(arm, "val/fid") if len(arm.runs) == 1 else pd.Series(dtype=float) for arm in arms]
    rows = {
        str(step): [_measured(c, e, step) for c, e in zip(curves, errors, strict=True)]
        for step in sorted(set().union(*(values.index for values in curves)))
    }
    rows[Markdown("*best*")] = [f"{c.min():.2f} (step {c.idxmin()})" if len(c) else "–" for c in curves]
    rows[Markdown("*last*")] = [f"{c.iloc[-1]:.2f} (step {c.index[-1]})" if len(c) else "–" for c in curves]
    finals = [at_end(arm, "final/fid") for arm in arms]
    rows[Markdown("*final*")] = [f"{sum(f) / len(f):.2f}" if f else "not logged" for f in finals]
    for name, metric in (("*real images*", "val/fid_floor"), ("*uniform noise*", "val/fid_ceiling")):
        found = [curve(arm, metric) for arm in arms]
        if any(map(len, found)):
            rows[Markdown(name)] = [f"{c.iloc[-1]:.2f}" if len(c) else "–" for c in found]
    return rows, [arm.experiment + (" (context)" if arm in context else "") for arm in arms]


def _measured(values: pd.Series, errors: pd.Series, step: int) -> str:
    """An FID, with half its 95 % interval if its error was logged."""
    if step not in values.index:
        return "–"
    return f"{values[step]:.2f}" + (f" ± {Z95 * errors[step]:.2f}" if step in errors.index else "")


def _comparisons(selection: Selection, numbers: pd.DataFrame) -> list[dict[str, str]]:
    differ = weightings_differ(selection.arms)
    rows = []
    for (pair, metric), of in _by_name(numbers).items():
        if "paired_count" not in of:
            continue
        error = f" ± {number(of['mean_difference_sem'], 2)}" if "mean_difference_sem" in of else ""
        if "mean_difference_low" in of:
            error += f" ({number(of['mean_difference_low'])} to {number(of['mean_difference_high'])})"
        rows.append(
            {
                "pair": pair,
                "metric": metric,
                "mark": "†" if differ and metric in _WEIGHTED else "",
                "count": f"{of['paired_count']:.0f}",
                "lower": f"{of['lower_count']:.0f}",
                "mean": _signed(of.get("mean_change_pct")),
                "low": _signed(of.get("min_change_pct")),
                "high": _signed(of.get("max_change_pct")),
                "difference": number(of["mean_difference"]) + error,
                "late": number(of.get("late_mean_difference")),
            }
        )
    return rows


def _later(selection: Selection) -> list[dict[str, str]]:
    rows = []
    for (arm, metric, setting, step), each in by_arm(selection).items():
        values, ends = [one.value for one in each], (each[0].low, each[0].high)
        interval = f"{number(ends[0])} to {number(ends[1])}" if len(each) == 1 and None not in ends else "–"
        row = {"metric": metric, "arm": arm, "step": str(step), "how": setting, "interval": interval}
        rows.append(row | {"value": number(sum(values) / len(values)), "runs": str(len(values))})
    return rows


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.1f}"


def _comparison_note(rows: Sequence[dict[str, str]]) -> str:
    parts = []
    if any("±" in row["difference"] for row in rows):
        parts.append("±: standard error over the probes.")
    if any("(" in row["difference"] for row in rows):
        parts.append("With (a to b), over paired draws, and the 95 % interval by Student's t.")
    if any(row["mark"] for row in rows):
        parts.append("†: quantities of differently weighted losses; part of the difference is the weighting's scale.")
    return " ".join(parts)


def _protocols(selection: Selection) -> list[dict[str, Any]]:
    """A row for each FID metric and protocol, with the arms that used it."""
    found: dict[tuple[str, str], dict[str, Run]] = {}
    for metric in FID_METRICS:
        for arm in (*selection.arms, *selection.context):
            for fingerprint, run in measured([arm], metric):
                found.setdefault((metric, fingerprint), {}).setdefault(arm.experiment, run)
    rows = []
    for (metric, fingerprint), runs in found.items():
        described = flatten(next(iter(runs.values())).protocols.get(fingerprint, {}))
        rows.append(
            {
                "metric": metric,
                "fingerprint": fingerprint,
                "recorded": not fingerprint.startswith("unrecorded-"),
                "description": ", ".join(f"{key} = {value}" for key, value in described.items()),
                "arms": ", ".join(runs),
            }
        )
    return rows


def _absent(selection: Selection, figures: Sequence[Figure]) -> list[str]:
    lines = [f"Arm {name}: no run with metrics in the source." for name in selection.missing]
    lines += [f"Figure “{figure.title}”: {figure.reason}." for figure in figures if figure.png is None]
    for arm in selection.context:
        if reason := context_reason(arm, selection.arms):
            lines.append(f"{arm.experiment} (context): not shown beside the arms: {reason}.")
    lines += [f"Left out: {line}." for line in selection.left_out]
    for arm in (*selection.arms, *selection.context):
        for run in arm.runs:
            lines += [f"{run.name}: {note}." for note in run.notes]
            if run.state != "finished":
                lines.append(f"{run.name}: not finished; its last step so far is {run.last_step}.")
    without = [arm.experiment for arm in selection.arms if not at_end(arm, "final/fid")]
    if without:
        lines.append(f"final/fid was not logged in {', '.join(without)}.")
    return lines


def _resolved_config(run: Run) -> Path:
    """The config that the run was trained with: in its folder, or for a run from W&B the trainer's path below RUNS.

    The trainer's run id is in the config; W&B's may be another.
    """
    here = run.source / "config.yaml"
    return here if here.exists() else Path("RUNS", run.experiment, str(run.config.get("run_id", run.id)), "config.yaml")


def _training(selection: Selection) -> list[str]:
    """The commands that train our own runs again: those with a config, a seed and a recorded start."""
    lines = []
    for arm in selection.arms:
        for run in arm.runs:
            if run.config and run.started is not None and run.seed is not None:
                words = ["ddpm", "train", str(_resolved_config(run)), f"--seed={run.seed}", "--out_dir=NEW"]
                commit = f", commit {run.commit[:_SHORT_COMMIT]}" if run.commit else ""
                lines.append(f"{shlex.join(words)}    # {arm.experiment}, run {run.id}{commit}")
    return lines
