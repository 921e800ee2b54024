"""One experiment, from the source of its runs to numbers, figures and pages."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ddpm.errors import UserError
from reports.experiments import load
from reports.experiments.selection import Selection, select
from reports.figures import FIGURES, Figure, draw_all
from reports.judging.checks import claim_numbers
from reports.long_table import tidy
from reports.protocols import check_all_protocols
from reports.publish import publish
from reports.sources import open_source
from reports.stats.statistics import numbers
from reports.text.markup import html_page
from reports.text.pages import markdown_page
from reports.text.short import in_short
from reports.write import write_report

_NOTES = 3  # on how runs were read, in an error that they may explain


def make_report(
    experiment: str,
    source: str,
    out: Path,
    where: Sequence[str] = (),
    allow_mixed_protocols: bool = False,
    cached: bool = False,
    publish_to: str | None = None,
) -> Path:
    """Write the report of `experiment` from the runs in `source` into folder `out`; returns `report.html`.

    Files: `report.md`, `report.html`, `numbers.csv`, `data.parquet` (every logged number of the runs shown),
    `figures/<name>.png` and `.svg`. An earlier report in `out` is replaced, other files there are left alone; on an
    error `out` is as it was. `where`: filters `key=value` on dotted config keys. `cached`: of a server, what was read
    before. `publish_to`: the W&B project ENTITY/PROJECT that gets the same as a W&B Report, whose address is printed,
    after a few lines of what was found.
    Raises UserError: unknown experiment, unreadable source, no runs, FIDs of different protocols (unless
    `allow_mixed_protocols`), `out` not a folder, a server that does not take it.
    """
    study = load(experiment)
    unknown = [name for name in study.figures if name not in FIGURES]
    if unknown:
        raise UserError(f"Unknown figures in {experiment}: {', '.join(unknown)}. Available: {_listed()}.")
    runs = open_source(source, [*study.arms, *study.context], cached=cached)
    try:
        selection = select(study, runs, where)
        for warning in selection.warnings:
            print(f"ddpm: warning: {warning}", file=sys.stderr)
        notes = check_all_protocols(selection, allow_mixed_protocols)
    except UserError as error:  # what damage in the records may be behind
        said = [f" {run.name}: {note}." for run in runs for note in run.notes]
        raise UserError(f"{error}{''.join(said[:_NOTES])}") from None
    command = _command(experiment, source, out, where, allow_mixed_protocols, cached)
    figures: list[Figure] = []

    def fill(draft: Path) -> None:
        table = numbers(selection)
        pd.concat([table, claim_numbers(selection)]).to_csv(draft / "numbers.csv", index=False)
        _data(selection).to_parquet(draft / "data.parquet", compression="zstd", index=False)
        figures.extend(draw_all(selection, draft / "figures", allow_mixed_protocols))
        text = markdown_page(selection, table, figures, command, notes)
        (draft / "report.md").write_text(text, encoding="utf-8")
        page = html_page(text, draft, f"{study.name}: {study.title}")
        (draft / "report.html").write_text(page, encoding="utf-8")

    page = write_report(out, fill, FIGURES)
    print("\n".join(in_short(selection)))
    if publish_to:
        print(publish(selection, out, figures, publish_to))
    return page


def _listed() -> str:
    return ", ".join(sorted(FIGURES))


def _data(selection: Selection) -> pd.DataFrame:
    return tidy([run for arm in (*selection.arms, *selection.context) for run in arm.runs])


def _command(
    experiment: str, source: str, out: Path, where: Sequence[str], allow_mixed: bool, cached: bool
) -> list[str]:
    command = ["ddpm", "report", experiment, "--from", source, "--out", str(out)]
    for condition in where:
        command += ["--where", condition]
    return command + ["--allow-mixed-protocols"] * allow_mixed + ["--offline-cache"] * cached
