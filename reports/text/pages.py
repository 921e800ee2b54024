"""The report's page, Markdown from a template."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ddpm.config.run import flatten
from reports.experiments.selection import Arm, Selection, differing_keys, matches, show
from reports.figures import Figure
from reports.figures.steps import context_reason
from reports.judging.checks import judge_criteria, judge_statements
from reports.judging.judge import FAILS, HOLDS, Judged, Outcome
from reports.protocols import measured
from reports.runs import FID_METRICS, Run
from reports.stats.intervals import Z95
from reports.stats.statistics import (
    COLUMNS,
    COMMON,
    STEP_METRICS,
    TRAINED,
    at_end,
    curve,
    standard_error,
    weightings_differ,
)
from reports.text.markup import Markdown, code, link, template
from reports.text.verdicts import all_verdicts, number

_TABLED = (*STEP_METRICS, TRAINED, TRAINED.replace("_mean", "_std"), COMMON, COMMON.replace("_mean", "_std"))
_WEIGHTED = ("train/loss", "train/grad_global_L2", TRAINED)
_SHORT_COMMIT = 10


def markdown_page(
    selection: Selection,
    numbers: pd.DataFrame,
    figures: Sequence[Figure],
    command: Sequence[str],
    notes: Sequence[str] = (),
) -> str:
    """`report.md`. `numbers`: the frame of `statistics.numbers`; `command`: the words that make this report;
    `notes`: further warnings (mixed protocols). Images are linked as `figures/<name>.png`."""
    arms = [arm.experiment for arm in selection.arms]
    differences = _differences(selection)
    milestones, fid_arms = _milestones(selection)
    comparisons = _comparisons(selection, numbers)
    windows = selection.study.windows
    page = template("text/report.md.jinja").render(
        study=selection.study,
        warnings=[*selection.warnings, *notes, *_unfinished(selection)],
        verdicts=all_verdicts(selection),
        criteria=_claim_rows(judge_criteria(selection)),
        statements=_claim_rows(judge_statements(selection)),
        runs=[_run_row(arm, run) for arm in (*selection.arms, *selection.context) for run in arm.runs],
        arms=arms,
        differences=differences,
        undeclared_count=sum(not row["declared"] for row in differences),
        context_lines=_context_lines(selection),
        early_high=f"{100 * windows.early[1]:g}",
        late_low=f"{100 * windows.late[0]:g}",
        summary=_summary(selection, numbers),
        milestones=milestones,
        fid_arms=fid_arms,
        comparisons=comparisons,
        comparison_note=_comparison_note(selection, comparisons),
        figures=[figure for figure in figures if figure.png is not None],
        protocols=_protocols(selection),
        absent=_absent(selection, figures),
        command=shlex.join(command),
        training=_training(selection),
    )
    return re.sub(r"\n{3,}", "\n\n", page).strip() + "\n"


# ---- tables ----------------------------------------------------------------------------------------------


def _run_row(arm: Arm, run: Any) -> dict[str, Any]:
    return {
        "experiment": arm.experiment,
        "role": arm.role,
        "id": link(code(run.id), run.url),
        "seed": "–" if run.seed is None else run.seed,
        "last_step": run.last_step,
        "state": run.state if run.state == "finished" else Markdown(f"**{run.state}**"),
        "started": run.started.strftime("%Y-%m-%d %H:%M") if run.started else "–",
        "commit": (run.commit or "unknown")[:_SHORT_COMMIT],
        "source": run.source.name,
    }


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
            f"{arm.experiment} is shown for context only, where FID over steps is compared. It differs from "
            f"{selection.arms[0].experiment} in: {listed}."
        )
    return lines


def _unfinished(selection: Selection) -> list[str]:
    """Runs that diverged or that are not through: what is said of their ends is said of where they stand."""
    lines = []
    for run in (run for arm in selection.arms for run in arm.runs):
        if run.diverged_after is not None:
            lines.append(f"{run.name} diverged: its train/loss is not finite after step {run.diverged_after}.")
        elif run.last_step < (run.planned_steps or 0):
            lines.append(f"{run.name} stands at step {run.last_step} of {run.planned_steps}.")
    return lines


def _claim_rows(judged: Sequence[Judged]) -> list[dict[str, str]]:
    """A row for each check; the claim, its verdict and its note stand in the first."""
    return [_claim_row(claim, outcome, place == 0) for claim in judged for place, outcome in enumerate(claim.outcomes)]


def _claim_row(claim: Judged, outcome: Outcome, first: bool) -> dict[str, str]:
    found, verdict = outcome.estimate, outcome.verdict
    ends = found.seeds or found.within
    interval = f"{number(ends[0])} to {number(ends[1])}" if ends else "–"
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
        "interval": "; ".join(dict.fromkeys(word for word in (interval, found.basis, verdict.reason) if word)),
        "holds": holds + (f": {verdict.reason}" if verdict.reason else ""),
    }


def _lookup(numbers: pd.DataFrame) -> dict[tuple[str, str, str], float]:
    return {(row[0], row[1], row[2]): row[3] for row in numbers[COLUMNS].itertuples(index=False)}


def _summary(selection: Selection, numbers: pd.DataFrame) -> list[dict[str, str]]:
    values = _lookup(numbers)
    rows = []
    for metric in _TABLED:
        for arm in selection.arms:
            key = (arm.experiment, metric)
            if (*key, "first") not in values:
                continue
            row = {name: number(values.get((*key, name))) for name in ("first", "last", "early_mean", "late_mean")}
            drop = values.get((*key, "drop_pct"))
            row["drop_pct"] = "–" if drop is None else f"{drop:.1f}"
            row["lowest"] = f"{number(values[(*key, 'min')])} ({values[(*key, 'min_step')]:.0f})"
            rows.append({"metric": metric, "arm": arm.experiment, **row})
    return rows


def _milestones(selection: Selection) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of the FID table (steps, then best, last, final) and its columns (arms, comparable context)."""
    context = [arm for arm in selection.context if not context_reason(arm, selection.arms)]
    arms = [a for a in (*selection.arms, *context) if len(curve(a, "val/fid")) or at_end(a, "final/fid")]
    if not arms:
        return [], []
    curves = [curve(arm, "val/fid") for arm in arms]
    steps = sorted(set().union(*(values.index for values in curves)))
    errors = [standard_error(arm, "val/fid") if len(arm.runs) == 1 else pd.Series(dtype=float) for arm in arms]
    rows: list[dict[str, Any]] = [
        {"label": str(step), "cells": [_measured(c, e, step) for c, e in zip(curves, errors, strict=True)]}
        for step in steps
    ]
    best = [f"{c.min():.2f} (step {c.idxmin()})" if len(c) else "–" for c in curves]
    last = [f"{c.iloc[-1]:.2f} (step {c.index[-1]})" if len(c) else "–" for c in curves]
    finals = [at_end(arm, "final/fid") for arm in arms]
    rows += [{"label": Markdown("*best*"), "cells": best}, {"label": Markdown("*last*"), "cells": last}]
    ends = [f"{sum(f) / len(f):.2f}" if f else "not logged" for f in finals]
    rows.append({"label": Markdown("*final*"), "cells": ends})
    for name, metric in (("real images", "val/fid_floor"), ("uniform noise", "val/fid_ceiling")):
        found = [curve(arm, metric) for arm in arms]
        if any(map(len, found)):
            ends = [f"{c.iloc[-1]:.2f}" if len(c) else "–" for c in found]
            rows.append({"label": Markdown(f"*{name}*"), "cells": ends})
    return rows, [arm.experiment + (" (context)" if arm in context else "") for arm in arms]


def _measured(values: pd.Series, errors: pd.Series, step: int) -> str:
    """An FID, with half its 95 % interval where its error was logged."""
    if step not in values.index:
        return "–"
    return f"{values[step]:.2f}" + (f" ± {Z95 * errors[step]:.2f}" if step in errors.index else "")


def _comparisons(selection: Selection, numbers: pd.DataFrame) -> list[dict[str, str]]:
    values = _lookup(numbers)
    differ = weightings_differ(selection.arms)
    rows = []
    for pair, metric in dict.fromkeys((row[0], row[1]) for row in values):
        if (pair, metric, "paired_count") not in values:
            continue
        get = {name: value for (p, m, name), value in values.items() if (p, m) == (pair, metric)}
        sem = get.get("mean_difference_sem")
        rows.append(
            {
                "pair": pair,
                "metric": metric,
                "mark": "†" if differ and metric in _WEIGHTED else "",
                "count": f"{get['paired_count']:.0f}",
                "lower": f"{get['lower_count']:.0f}",
                "mean": _signed(get.get("mean_change_pct")),
                "low": _signed(get.get("min_change_pct")),
                "high": _signed(get.get("max_change_pct")),
                "difference": number(get["mean_difference"]) + (f" ± {number(sem, 2)}" if sem is not None else ""),
                "late": number(get.get("late_mean_difference")),
            }
        )
    return rows


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.1f}"


def _comparison_note(selection: Selection, rows: Sequence[dict[str, str]]) -> str:
    parts = []
    if any("±" in row["difference"] for row in rows):
        parts.append("±: standard error over the probes.")
    if any(row["mark"] for row in rows):
        parts.append("†: quantities of differently weighted losses; part of the difference is the weighting's scale.")
    return " ".join(parts)


def _protocols(selection: Selection) -> list[dict[str, Any]]:
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    arms = (*selection.arms, *selection.context)
    for metric in FID_METRICS:
        for arm in arms:
            for fingerprint, run in measured([arm], metric):
                described = flatten(run.protocols.get(fingerprint, {}))
                row = rows.setdefault(
                    (metric, fingerprint),
                    {
                        "metric": metric,
                        "fingerprint": fingerprint,
                        "recorded": not fingerprint.startswith("unrecorded-"),
                        "description": ", ".join(f"{key} = {value}" for key, value in described.items()),
                        "names": [],
                    },
                )
                if arm.experiment not in row["names"]:
                    row["names"].append(arm.experiment)
    for row in rows.values():
        row["arms"] = ", ".join(row["names"])
    return list(rows.values())


def _absent(selection: Selection, figures: Sequence[Figure]) -> list[str]:
    lines = [f"Arm {name}: no run with metrics in the source." for name in selection.missing]
    lines += [f"Figure “{figure.title}”: {figure.reason}." for figure in figures if figure.png is None]
    for arm in selection.context:
        reason = context_reason(arm, selection.arms)
        if reason:
            lines.append(f"{arm.experiment} (context): not shown beside the arms: {reason}.")
    lines += [f"left out: {line}." for line in selection.left_out]
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
    """The config that the run was trained with: in its folder, or, of a run read from W&B, where the trainer keeps such
    folders below RUNS. The run's own id is in its config: W&B's is another."""
    here = run.source / "config.yaml"
    return here if here.exists() else Path("RUNS", run.experiment, str(run.config.get("run_id", run.id)), "config.yaml")


def _training(selection: Selection) -> list[str]:
    """How to train the runs again, for those that carry a config and a recorded start (our own)."""
    lines = []
    for arm in selection.arms:
        for run in arm.runs:
            if not run.config or run.started is None or run.seed is None:
                continue
            words = ["ddpm", "train", str(_resolved_config(run)), f"--seed={run.seed}", "--out_dir=NEW"]
            commit = f", commit {run.commit[:_SHORT_COMMIT]}" if run.commit else ""
            lines.append(f"{shlex.join(words)}    # {arm.experiment}, run {run.id}{commit}")
    return lines
