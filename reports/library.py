"""`ddpm report library`: curvature against FID over all runs of a source, whichever experiment they belong to."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ddpm.errors import UserError
from reports.experiments.selection import filtered, missing_rows
from reports.figures import Figure, render
from reports.figures.library import (
    COMMON,
    NEUTRAL,
    TRAINED,
    Entry,
    Panel,
    draw_library,
    entries,
    grouped,
    last_correlation,
)
from reports.long_table import tidy
from reports.runs import Run
from reports.sources import open_source
from reports.text.markup import template, write_page
from reports.text.verdicts import number
from reports.write import command_line, write_report

NAME, FIGURE = "library", "curvature_fid_library"
COLUMNS = ["experiment", "run", "seed", "loss", "schedule", "protocol", "trace_of", "step", "trace", "fid"]
_WHOSE = {TRAINED: "trained loss", COMMON: "unweighted loss", NEUTRAL: "neutral loss"}


def make_library(source: str, out: Path, where: Sequence[str] = (), cached: bool = False) -> Path:
    """Write `report.md`, `report.html`, `numbers.csv`, `data.parquet` and a figure of all runs in `source` into `out`.

    Returns the path of `report.html`. Raises UserError: the source cannot be read, no run passes the filters, no run
    has a trace at a milestone, `out` is a file.
    """
    runs = filtered(open_source(source, cached=cached), where)
    if not runs:
        raise UserError(f"No runs{' that match ' + ', '.join(where) if where else ''} in {source}.")
    for gap in filter(None, map(missing_rows, runs)):
        print(f"ddpm: warning: {gap}", file=sys.stderr)
    shown = entries(runs)
    if not shown:
        raise UserError(
            f"None of the {len(runs)} run(s) in {source} has a Hessian trace at a step with a FID. Train with "
            "curvature.enabled=true, and with logging.log_every_n_steps dividing eval.fid_milestone.every."
        )
    command = command_line(NAME, source, out, where, *["--offline-cache"] * cached)
    return write_report(out, lambda draft: _fill(draft, runs, shown, shlex.join(command)), [FIGURE])


def _fill(draft: Path, runs: Sequence[Run], shown: Sequence[Entry], command: str) -> None:
    _table(shown).to_csv(draft / "numbers.csv", index=False)
    tidy([entry.run for entry in shown if entry.trace == TRAINED]).to_parquet(draft / "data.parquet", index=False)
    page = template("text/library.md.jinja").render(
        sentences=sentences(shown),
        figure=_draw(shown, draft / "figures"),
        entries=shown,
        whose=_WHOSE,
        number=number,
        absent=_absent(runs, shown),
        command=command,
    )
    write_page(page, draft, "library: curvature against FID")


def _draw(shown: Sequence[Entry], folder: Path) -> Figure:
    return render(FIGURE, "Hessian trace against FID, all runs", lambda: draw_library(shown), folder)


def _table(shown: Sequence[Entry]) -> pd.DataFrame:
    """One row for each run, trace and milestone."""
    rows = [
        (e.run.experiment, e.run.id, e.run.seed, e.loss, e.schedule, e.protocol, _WHOSE[e.trace], step, trace, fid)
        for e in shown
        for step, trace, fid in e.points.itertuples()
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def sentences(shown: Sequence[Entry], split: bool = False, *, known: bool = False) -> list[str]:
    """A sentence for each protocol, prediction (and each schedule if `split`) and trace, with the rank correlation over
    the runs or why there is none. known: without those that have too few runs for one."""
    said = []
    for row in sorted(grouped(shown, split), key=lambda row: (row[0].protocol, row[0].split)):
        there = [panel for panel in row if panel.entries and not panel.mixed]
        said += [_sentence(panel) for panel in there if not known or last_correlation(panel.entries) is not None]
        said += _refusal(row)
    return said


def _sentence(panel: Panel) -> str:
    found = last_correlation(panel.entries)
    what = f"Under protocol {panel.protocol}, trace of the {_WHOSE[panel.trace]}"
    what += f", {panel.split}: " if panel.split else ": "
    what += f"{len(panel.entries)} run(s)"
    if panel.trace == TRAINED and len({entry.loss for entry in panel.entries}) > 1:
        what += ", whose trained losses are differently weighted and so different functions"
    result = "no rank correlation with FID, as there are fewer than three or all are equal"
    if found is not None:
        result = f"rank correlation (Spearman) of trace and FID at their last milestones {found:+.2f}"
    return f"{what}; {result}."


def _refusal(row: Sequence[Panel]) -> list[str]:
    """Why a row compares no trace over timesteps, and which runs its panel of the neutral trace therefore lacks."""
    refused = [panel for panel in row if panel.mixed and panel.entries]
    if not refused:
        return []
    mixed = refused[0].mixed
    which = " and ".join(_WHOSE[panel.trace] for panel in refused)
    key, _, values = mixed.partition("; ")[0].partition(" = ")
    said = [
        f"Under protocol {row[0].protocol}, the trace of the {which} is not compared: the schedules differ ({mixed}), "
        f"and it is another function under each. Choose one, e.g. `--where {key}={values.partition(', ')[0]}`."
    ]
    neutral = {id(entry.run) for panel in row if not panel.mixed for entry in panel.entries}
    lacking = {id(e.run): e.run.name for panel in refused for e in panel.entries if id(e.run) not in neutral}
    if lacking:
        said.append(
            f"{len(lacking)} run(s) there logged no neutral trace and are left out: {', '.join(lacking.values())}."
        )
    return said


def _absent(runs: Sequence[Run], shown: Sequence[Entry]) -> list[str]:
    there = {id(entry.run) for entry in shown}
    lines = [f"{run.name}: no Hessian trace at a step with a FID." for run in runs if id(run) not in there]
    lines += [f"{run.name}: not finished." for run in runs if run.state != "finished"]
    lines += [f"{said}." for run in runs if (said := missing_rows(run))]
    return lines + [f"{run.name}: {note}." for run in runs for note in run.notes]
