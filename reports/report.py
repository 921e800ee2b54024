"""One experiment, from the source of its runs to numbers, figures and pages."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ddpm.errors import UserError
from reports.experiments import load
from reports.experiments.choice import select
from reports.figures import FIGURES, draw_all
from reports.pages import html_page, markdown_page
from reports.sources import open_source
from reports.statistics import check_all_protocols, numbers


def make_report(
    experiment: str,
    source: str,
    out: Path,
    where: Sequence[str] = (),
    allow_mixed_protocols: bool = False,
    cached: bool = False,
) -> Path:
    """Write the report of `experiment` from the runs in `source` into folder `out`; returns `report.html`.

    Files: `report.md`, `report.html`, `numbers.csv`, `figures/<name>.png` and `.svg`. An earlier report in
    `out` is replaced, other files there are left alone; on an error `out` is as it was. `where`: filters
    `key=value` on dotted config keys. `cached`: of a server, what was
    read before. Raises UserError: unknown experiment, unreadable source, no runs,
    FIDs of different protocols (unless `allow_mixed_protocols`), `out` not a folder.
    """
    study = load(experiment)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file. Give a folder for the report.")
    runs = open_source(source, [*study.arms, *study.context], cached=cached)
    selection = select(study, runs, where)
    notes = check_all_protocols(selection, allow_mixed_protocols)
    table = numbers(selection)

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # Beside `out`: moves within one file system cannot stop half-way through a copy.
        draft = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise UserError(f"The report cannot be written to {out}: {error}.") from error
    try:
        table.to_csv(draft / "numbers.csv", index=False)
        figures = draw_all(selection, draft / "figures", allow_mixed_protocols)
        command = _command(experiment, source, out, where, allow_mixed_protocols)
        text = markdown_page(selection, table, figures, command, notes)
        (draft / "report.md").write_text(text, encoding="utf-8")
        page = html_page(text, draft, f"{study.name}: {study.title}")
        (draft / "report.html").write_text(page, encoding="utf-8")
        _move(draft, out)
    except OSError as error:
        raise UserError(f"The report could not be written to {out}: {error}.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return out / "report.html"


def _command(experiment: str, source: str, out: Path, where: Sequence[str], allow_mixed: bool) -> list[str]:
    command = ["ddpm", "report", experiment, "--from", source, "--out", str(out)]
    for condition in where:
        command += ["--where", condition]
    return command + (["--allow-mixed-protocols"] if allow_mixed else [])


def _move(draft: Path, out: Path) -> None:
    """Move the draft's files into `out`, pages last; drop figures that only the earlier report had."""
    (out / "figures").mkdir(parents=True, exist_ok=True)
    for name in FIGURES:
        for ending in (".png", ".svg"):
            if not (draft / "figures" / f"{name}{ending}").exists():
                (out / "figures" / f"{name}{ending}").unlink(missing_ok=True)
    files = sorted((path for path in draft.rglob("*") if path.is_file()), key=lambda path: len(path.parts))
    for path in reversed(files):
        path.replace(out / path.relative_to(draft))
