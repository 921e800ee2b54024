"""The report of one experiment: numbers, figures and pages from the runs in a source."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ddpm.errors import UserError
from reports.experiments import load
from reports.experiments.selection import select
from reports.figures import FIGURES, Figure, draw_all
from reports.judging.checks import claim_numbers, holm_numbers
from reports.long_table import tidy
from reports.protocols import check_all_protocols
from reports.sources import open_source
from reports.stats.later import later_numbers
from reports.stats.statistics import numbers
from reports.text.markup import write_page
from reports.text.pages import markdown_page
from reports.text.short import in_short
from reports.write import command_line, write_report

_NOTES = 3  # notes on reading the runs that an error shows, as they may explain it


def make_report(
    experiment: str,
    source: str,
    out: Path,
    where: Sequence[str] = (),
    allow_mixed_protocols: bool = False,
    cached: bool = False,
    publish_to: str | None = None,
) -> Path:
    """Write the report of `experiment` from the runs in `source` into folder `out`; print its results in short.

    Files: `report.md`, `report.html`, `numbers.csv`, `data.parquet` (every logged number of the runs shown),
    `figures/<name>.png` and `.svg`. They replace an earlier report; other files in `out` stay. After an error `out` is
    unchanged. `where`: filters `key=value` on dotted config keys. `cached`: read a server's runs from the cache.
    `publish_to`: also save the report as a W&B Report in the project ENTITY/PROJECT, and print its address.

    Returns the path of `report.html`. Raises UserError: unknown experiment, unreadable source, no runs, FIDs of
    different protocols (unless `allow_mixed_protocols`), `out` is a file, the server refuses the report.
    """
    study = load(experiment)
    unknown = [name for name in study.figures if name not in FIGURES]
    if unknown:
        raise UserError(
            f"Unknown figures in {experiment}: {', '.join(unknown)}. Available: {', '.join(sorted(FIGURES))}."
        )
    runs = open_source(source, [*study.arms, *study.context], cached=cached)
    try:
        selection = select(study, runs, where)
        for warning in selection.warnings:
            print(f"ddpm: warning: {warning}", file=sys.stderr)
        notes = check_all_protocols(selection, allow_mixed_protocols)
    except UserError as error:  # damaged records may be the reason
        said = [f" {run.name}: {note}." for run in runs for note in run.notes]
        raise UserError(f"{error}{''.join(said[:_NOTES])}") from None
    flags = ["--allow-mixed-protocols"] * allow_mixed_protocols + ["--offline-cache"] * cached
    command = command_line(experiment, source, out, where, *flags)
    figures: list[Figure] = []

    def fill(draft: Path) -> None:
        table, *more = numbers(selection), claim_numbers(selection), later_numbers(selection), holm_numbers(selection)
        pd.concat([table, *(part for part in more if len(part))]).to_csv(draft / "numbers.csv", index=False)
        shown = [run for arm in (*selection.arms, *selection.context) for run in arm.runs]
        tidy(shown).to_parquet(draft / "data.parquet", compression="zstd", index=False)
        figures.extend(draw_all(selection, draft / "figures", allow_mixed_protocols))
        page = markdown_page(selection, table, figures, command, notes)
        write_page(page, draft, f"{study.name}: {study.title}")

    page = write_report(out, fill, FIGURES)
    print("\n".join(in_short(selection)))
    if publish_to:
        from reports.publish import publish  # imports wandb

        print(publish(selection, out, figures, publish_to))
    return page
