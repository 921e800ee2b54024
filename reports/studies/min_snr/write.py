"""Writing docs/findings.md, docs/gallery.md, the table of claims and the figures."""

from collections.abc import Callable
from pathlib import Path

from reports.experiments.selection import Selection
from reports.figures import FIGURES
from reports.figures.library import draw_library
from reports.figures.style import Drawn, NothingToDraw, save, theme, told_apart
from reports.studies.min_snr import figures
from reports.studies.min_snr.claims import judge_claims
from reports.studies.min_snr.gallery import FOLDER, gallery
from reports.studies.min_snr.material import Material, gather, split_of
from reports.studies.min_snr.page import findings, page
from reports.studies.min_snr.questions import answers, load_questions, selections
from reports.studies.min_snr.tables import claims_csv

DPI, SMALL_DPI = 100, 70


def write_text(docs: Path, original: Path) -> Path:
    """Write `docs/findings.md`, `docs/rerun.md`, `docs/findings/claims.csv` and `docs/gallery.md`: equal records give
    equal bytes.

    Raises UserError: no records, or no logs of the study."""
    material = gather(docs / "findings", original)
    judged = judge_claims(material)
    (docs / "findings" / "claims.csv").write_text(claims_csv(judged), encoding="utf-8")
    answered = answers(material.runs, load_questions())
    (docs / "findings.md").write_text(findings(material, judged, answered), encoding="utf-8")
    (docs / "rerun.md").write_text(page(material, judged), encoding="utf-8")
    (docs / "gallery.md").write_text(gallery(docs), encoding="utf-8")
    return docs / "findings.md"


def write_figures(docs: Path, original: Path) -> list[str]:
    """Draw the page's figures into `docs/findings`, and small figures of the report for the gallery. A figure that
    lacks data is removed; returns a line for each. Raises UserError as `write_text` does."""
    m = gather(docs / "findings", original)
    log, ours = m.study.arm("e5"), m.selection.arm("e5")
    own: dict[str, Callable[[], Drawn]] = {
        "answers": lambda: figures.answers(selections(m.runs, load_questions())),
        "all_runs": lambda: draw_library(m.library, bool(split_of(m.library))),
        "the_point": lambda: figures.the_point(m.selection, m.pairs),
        "fids": lambda: figures.fid(m.selection),
        "curvature": lambda: figures.curvature(m.selection),
        "samples": lambda: figures.samples(m.grids),
        "library": lambda: draw_library(m.swept, bool(m.split)),
    }
    if log and ours:
        own["log"] = lambda: figures.log(log, [ours, *([m.faithful] if m.faithful else [])])
    lines = [_draw(docs / "findings" / name, function, DPI) for name, function in own.items()]
    return [line for line in [*lines, *_of_the_report(m, docs / FOLDER)] if line]


def _of_the_report(m: Material, folder: Path) -> list[str]:
    def drawing(function: Callable[[Selection, bool], Drawn]) -> Callable[[], Drawn]:
        return lambda: function(m.selection, False)

    with told_apart([arm.experiment for arm in m.selection.arms]):
        return [_draw(folder / name, drawing(function), SMALL_DPI) for name, (_, function) in FIGURES.items()]


def _draw(stem: Path, function: Callable[[], Drawn], dpi: int) -> str:
    """Draw one figure as STEM.png; if its data are absent, returns why."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    with theme():
        try:
            save(function(), stem, dpi=dpi, svg=False)
        except NothingToDraw as absent:
            stem.with_suffix(".png").unlink(missing_ok=True)
            return f"no {stem.name}.png: {absent}"
    return ""
