"""Names of runs, experiments, folders and protocols are drawn in figures exactly, whatever characters they have."""

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.font_manager import findfont, get_font
from matplotlib.text import Text

from ddpm.commands.plots import draw_frontier
from reports import figures
from reports.experiments import load
from reports.experiments.selection import Selection, select
from reports.figures import FIGURES, draw, letters
from reports.figures.library import draw_library, entries
from reports.figures.style import Drawn, new_figure, note_on, save, theme
from reports.sources import open_source
from tests.reports.conftest import noise_rows, rows_of, write_run

HOSTILE = r"$x^{_$\frac{1%s%d<b>&{}\$\alpha漢字عربى😀"
BELL, SHOWN = "\x07", "\N{REPLACEMENT CHARACTER}"


@pytest.fixture(scope="module")
def selection(tmp_path_factory: pytest.TempPathFactory) -> Selection:
    """Two arms with hostile names, folders and protocols."""
    root, names = tmp_path_factory.mktemp("hostile"), [f"e5{HOSTILE}{BELL}", f"e6{HOSTILE}{BELL}"]
    for name in names:
        more = {"data__root": f"{name[:2]}{HOSTILE}", "loss__weighting": "constant", "curvature__draws": "fixed"}
        write_run(root / name[:2], name, rows=rows_of(name, 1) + noise_rows(name), **more)
    study = load("e6")
    names = [name.replace(BELL, SHOWN) for name in names]  # as a reader of runs gets them
    roles = dict(zip(names, study.arms.values(), strict=True))
    study = study.model_copy(update={"name": names[1], "title": HOSTILE, "arms": roles, "where": {}, "context": ()})
    runs = [
        replace(run, protocols={name: {**about, "features": HOSTILE} for name, about in run.protocols.items()})
        for run in open_source(str(root))
    ]
    return select(study, runs, ())


def _squeezed(drawn: Any) -> str:
    """All text of a figure as drawn, without spaces and line breaks."""
    drawn.canvas.draw()
    return "".join("".join(text.get_text().split()) for text in drawn.findobj(Text))


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_draws_hostile_names_as_they_are(
    selection: Selection, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a text that is set as mathematics, or that matplotlib's mathematics cannot parse, in every figure, also
    in new ones."""
    kept: list[Drawn] = []
    monkeypatch.setattr(figures, "save", lambda drawn, stem: kept.append(drawn) or stem)
    figure = draw(name, selection, tmp_path)
    if name == "nfe_fid":  # all at one NFE
        assert "at NFE 50 only" in figure.reason
        return
    assert figure.reason == ""
    said = _squeezed(kept[0].figure)
    for arm in ("e5", "e6"):
        assert f"{arm}{HOSTILE}{SHOWN}" in said
    assert BELL not in said


def test_the_library_the_note_and_the_frontier_too(selection: Selection, tmp_path: Path) -> None:
    """The figures that belong to no experiment. Catches a forgotten place."""
    with theme():
        drawn = draw_library(entries([run for arm in selection.arms for run in arm.runs]))
        note_on(drawn.figure, f"note{HOSTILE}")
        said = _squeezed(drawn.figure)
    assert f"features={HOSTILE}" in said and f"note{HOSTILE}" in said
    row = {
        **{"run": f"r{HOSTILE}", "step": 1, "weights": "ema", "sampler": "ddim", "spacing": "linspace", "seed": 0},
        **{"x0_limit": "clip", "nfe": 5, "value": 3.0, "low": 2.0, "high": 4.0, "floor": 1.0, "ceiling": 9.0, "n": 70},
        **{"features": f"f{HOSTILE}", "reference": HOSTILE, "reference_n": 100, "reference_digest": "abc"},
    }
    draw_frontier([row, row | {"run": HOSTILE, "nfe": 10}], tmp_path / "frontier.png")
    assert [path.name for path in tmp_path.iterdir()] == ["frontier.png"]


def test_signs_that_are_no_letters_leave_a_picture_that_can_be_read(tmp_path: Path) -> None:
    """Control characters, half a surrogate pair and a code that XML forbids, also at ticks. Powers of ten stay powers.
    Catches an SVG that no reader accepts, and a UnicodeEncodeError."""
    with theme():
        figure = new_figure(4, 3)
        axes = figure.subplots()
        axes.plot([0, 1], [1e-3, 1e3], label="a\x08b\ud800c\ufffed\te")
        axes.set(yscale="log", title="$$\nline")
        axes.set_xticks([0, 1], ["$x$", "$\\beta$"])
        axes.legend()
        save(Drawn(figure, "c"), tmp_path / "figure")
    ET.parse(tmp_path / "figure.svg")
    said = _squeezed(figure)
    assert "a\ufffdb\ufffdc\ufffdde" in said and "$\\beta$" in said and "$$line" in said
    ticks = [tick for tick in axes.get_yticklabels() if tick.get_text()]
    assert all(tick.get_window_extent().width < 0.5 * figure.dpi for tick in ticks)


def test_a_letter_comes_from_the_font_that_has_it(capfd: pytest.CaptureFixture[str], recwarn: Any) -> None:
    """Installed fonts are searched. If none has the letter, one line says so, once. Catches a box for a letter that
    could be drawn, a warning for each glyph, and a box without a message."""
    common, other = (get_font(findfont(family)).get_charmap() for family in ("DejaVu Sans", "STIXGeneral"))
    rare = next(chr(code) for code in sorted(other.keys() - common.keys()) if chr(code).isalpha())
    nowhere = "\U0003134a"  # one of the last ideographs in Unicode
    letters._told.clear()
    for _ in range(2):
        with theme():
            figure = new_figure(4, 3)
            title = figure.suptitle(f"{rare}{nowhere}")
            figure.canvas.draw()
    assert any(ord(rare) in get_font(findfont(name)).get_charmap() for name in title.get_fontfamily()[1:])
    said = capfd.readouterr().err
    assert said.count("no installed font has 1 letter(s)") == 1 and nowhere in said
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]
