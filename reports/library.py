"""`ddpm report library`: curvature against FID over all runs of a source, whichever experiment they belong to."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ddpm.errors import UserError
from reports.experiments.selection import filtered, missing_rows
from reports.figures import Figure, render
from reports.figures.library import COMMON, TRACES, TRAINED, Entry, draw_library, entries, last_correlation
from reports.long_table import tidy
from reports.runs import Run
from reports.sources import open_source
from reports.text.markup import html_page, template
from reports.text.verdicts import number
from reports.write import write_report

NAME, FIGURE = "library", "curvature_fid_library"
COLUMNS = ["experiment", "run", "seed", "loss", "schedule", "protocol", "trace_of", "step", "trace", "fid"]
_WHOSE = {TRAINED: "trained loss", COMMON: "unweighted loss"}


def make_library(source: str, out: Path, where: Sequence[str] = (), cached: bool = False) -> Path:
    """Write `report.md`, `report.html`, `numbers.csv`, `data.parquet` and the figure of all runs in `source` into
    `out`; returns `report.html`.

    Raises UserError: unreadable source, a filter that leaves nothing, no run with a trace at a milestone, `out` a file.
    """
    runs = filtered(open_source(source, cached=cached), where)
    if not runs:
        raise UserError(f"No runs{' that match ' + ', '.join(where) if where else ''} in {source}.")
    for said in filter(None, map(missing_rows, runs)):
        print(f"ddpm: warning: {said}", file=sys.stderr)
    shown = entries(runs)
    if not shown:
        raise UserError(
            f"None of the {len(runs)} run(s) in {source} has a Hessian trace at a step with a FID. Train with "
            "curvature.enabled=true, and with logging.log_every_n_steps dividing eval.fid_milestone.every."
        )
    command = ["ddpm", "report", NAME, "--from", source, "--out", str(out)]
    command += [word for condition in where for word in ("--where", condition)]
    return write_report(out, lambda draft: _fill(draft, runs, shown, shlex.join(command)), [FIGURE])


def _fill(draft: Path, runs: Sequence[Run], shown: Sequence[Entry], command: str) -> None:
    _table(shown).to_csv(draft / "numbers.csv", index=False)
    tidy([entry.run for entry in shown if entry.trace == TRAINED]).to_parquet(draft / "data.parquet", index=False)
    figure = _draw(shown, draft / "figures")
    page = template("text/library.md.jinja").render(
        sentences=sentences(shown),
        figure=figure,
        rows=table_rows(shown),
        absent=_absent(runs, shown),
        command=command,
    )
    (draft / "report.md").write_text(page.strip() + "\n", encoding="utf-8")
    (draft / "report.html").write_text(html_page(page, draft, "library: curvature against FID"), encoding="utf-8")


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


def table_rows(shown: Sequence[Entry]) -> list[dict[str, Any]]:
    """A row of the page's table for each entry, its numbers as text."""
    return [
        {
            "experiment": entry.run.experiment,
            "run": entry.run.id,
            "seed": "–" if entry.run.seed is None else entry.run.seed,
            "loss": entry.loss,
            "schedule": entry.schedule,
            "step": entry.points.index[-1],
            "trace": _WHOSE[entry.trace],
            "value": number(float(entry.points["trace"].iloc[-1])),
            "fid": f"{entry.points['fid'].iloc[-1]:.2f}",
            "protocol": entry.protocol,
        }
        for entry in shown
    ]


def sentences(shown: Sequence[Entry]) -> list[str]:
    """What is said of each protocol and trace, with the rank correlation over the runs."""
    said = []
    for protocol in sorted({entry.protocol for entry in shown}):
        for trace in TRACES:
            there = [entry for entry in shown if entry.protocol == protocol and entry.trace == trace]
            if not there:
                continue
            found = last_correlation(there)
            what = f"Under protocol {protocol}, trace of the {_WHOSE[trace]}: {len(there)} run(s)"
            if trace == TRAINED and len({entry.loss for entry in there}) > 1:
                what += ", whose trained losses are differently weighted and so different functions"
            if found is None:
                said.append(f"{what}; no rank correlation with FID, as there are fewer than three or all are equal.")
            else:
                said.append(
                    f"{what}; rank correlation (Spearman) of trace and FID at their last milestones {found:+.2f}."
                )
    return said


def _absent(runs: Sequence[Run], shown: Sequence[Entry]) -> list[str]:
    there = {id(entry.run) for entry in shown}
    lines = [f"{run.name}: no Hessian trace at a step with a FID." for run in runs if id(run) not in there]
    lines += [f"{run.name}: not finished." for run in runs if run.state != "finished"]
    lines += [f"{said}." for run in runs if (said := missing_rows(run))]
    return lines + [f"{run.name}: {note}." for run in runs for note in run.notes]
