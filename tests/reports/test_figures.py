"""Figures: that they are drawn, say what they show, and refuse what must not be shown together."""

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from ddpm.errors import UserError
from reports import figures
from reports.experiments.choice import Selection
from reports.figures import FIGURES, draw, draw_all
from reports.figures.style import DPI, NothingToDraw, arm_labels, colour, marker, place_labels, theme
from tests.reports.conftest import chosen, rows_of, write_run


def drawn_text(selection: Selection, name: str, allow_mixed: bool = False) -> str:
    """All text of a figure."""
    with theme():
        figure = FIGURES[name][1](selection, allow_mixed).figure
        figure.canvas.draw()
    texts = [item.get_text() for item in figure.findobj(lambda a: hasattr(a, "get_text"))]
    return "\n".join(text for text in texts if text)


def test_all_figures_of_complete_runs_exist_and_are_not_blank(two_seeds: Path, tmp_path: Path) -> None:
    """Catches: figures that fail on several seeds, come out empty, or in the wrong size or format."""
    for figure in draw_all(chosen(two_seeds, "e6"), tmp_path):
        assert figure.png is not None, figure.reason
        image = matplotlib.image.imread(figure.png)
        assert image.shape[1] >= 5 * DPI
        assert np.mean(image[..., :3].min(axis=-1) < 0.9) > 0.01, f"{figure.name} is nearly blank"
        assert figure.png.with_suffix(".svg").read_text().startswith("<?xml")
        assert figure.caption.endswith(".") and figure.title


def test_originals_draw_what_their_logs_allow(originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: a figure silently missing: what is not drawn must say why."""
    monkeypatch.setattr(figures, "save", lambda _drawn, stem: stem)  # saving is most of the time
    for experiment in ("e1", "e5", "e6"):
        for figure in draw_all(chosen(originals, experiment), tmp_path / experiment):
            assert (figure.png is None) == bool(figure.reason)
            assert (figure.png is None) == (figure.name == "sample_grids"), figure.reason


def test_the_floor_is_drawn_where_it_was_logged(tmp_path: Path, originals: Path) -> None:
    """One line for both arms' common floor; none for logs without. Catches a line for each run or milestone."""
    for experiment in ("e5", "e6"):
        rows = rows_of(experiment, 1)
        scored = [(step, row | {"val/fid_floor": 1.25} if "val/fid" in row else row) for step, row in rows]
        write_run(tmp_path / experiment, experiment, 1, rows=scored)
    (axes,) = FIGURES["fid_vs_step"][1](chosen(tmp_path, "e6"), False).figure.axes
    floors = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert [(line.get_label(), *line.get_ydata()) for line in floors] == [("as many real images: 1.25", 1.25, 1.25)]
    assert "real images" not in drawn_text(chosen(originals, "e6"), "fid_vs_step")


def test_legends_name_the_difference(originals: Path) -> None:
    """Catches: legends typed by hand, or the constant default missing where old configs leave it out."""
    selection = chosen(originals, "e6")
    assert arm_labels(selection.arms, selection) == {
        "e5": "e5: loss.weighting = constant",
        "e6": "e6: loss.weighting = minsnr",
    }
    text = drawn_text(selection, "loss_fid_vs_step")
    assert "e5: loss.weighting = constant" in text and "e6: loss.weighting = minsnr" in text
    shown = [*selection.context, *selection.arms]
    assert arm_labels(shown, selection)["e1"] == "e1: loss.weighting = constant, train.total_steps = 50000"
    other = chosen(originals, "e5")
    assert arm_labels(other.arms, other)["e5"] == "e5: train.total_steps = 10000"


def test_the_trace_figure_says_that_the_functions_differ(originals: Path, two_seeds: Path) -> None:
    """Catches: two weighted losses' traces overlaid as if they were one quantity."""
    text = drawn_text(chosen(originals, "e6"), "curvature_vs_step")
    assert "different functions" in text and "standard error" in text and "Common" not in text
    text = drawn_text(chosen(two_seeds, "e6"), "curvature_vs_step")
    assert "Common unweighted loss" in text


def test_smoothing_is_stated_and_axes_have_units(originals: Path) -> None:
    """Catches: a smoothed line taken for data; a bare metric key as an axis label."""
    text = drawn_text(chosen(originals, "e6"), "loss_fid_vs_step")
    assert "rolling mean of 13" in text and "weighted MSE" in text and "FID (lower is better)" in text


def test_finals_are_stars_of_a_protocol_of_their_own(two_seeds: Path) -> None:
    """Catches: the final evaluation shown as one more milestone."""
    assert "another protocol than the milestones'" in drawn_text(chosen(two_seeds, "e6"), "loss_fid_vs_step")


def test_mixed_protocols(tmp_path: Path) -> None:
    """Catches: two protocols on one axis, unasked or unmarked."""
    write_run(tmp_path / "a", "e5")
    write_run(tmp_path / "b", "e6", protocol="cccc3333")
    selection = chosen(tmp_path, "e6")
    for name in ("loss_fid_vs_step", "fid_vs_step", "curvature_vs_fid"):
        with pytest.raises(UserError, match="different protocols"):
            drawn_text(selection, name)
        assert "Different protocols" in drawn_text(selection, name, allow_mixed=True).replace("\n", " ")


def test_context_of_another_protocol_is_left_out(tmp_path: Path) -> None:
    """Catches: a context arm stopping the report, or drawn beside numbers of another protocol."""
    for name, protocol in (("e5", "aaaa1111"), ("e6", "aaaa1111"), ("e1", "cccc3333")):
        write_run(tmp_path / name, name, protocol=protocol)
    figure = draw("fid_vs_step", chosen(tmp_path, "e6"), tmp_path)
    assert "e1 is left out: another FID protocol" in figure.caption
    assert "e1 8" not in figure.caption


def test_absent_data_have_a_reason(tmp_path: Path) -> None:
    """Catches: an exception, or an empty axis, where a metric was not logged."""
    write_run(tmp_path / "e6", "e6", rows=[(10, {"train/loss": 1.0}), (20, {"train/loss": 0.5})])
    selection = chosen(tmp_path, "e6")
    for name in ("curvature_vs_step", "curvature_vs_fid", "trace_mean_vs_std", "fid_vs_step"):
        with pytest.raises(NothingToDraw, match="logged"), theme():
            FIGURES[name][1](selection, False)
    assert draw("loss_fid_vs_step", selection, tmp_path).png is not None  # loss alone is still worth a figure


def test_grids_are_of_the_last_common_step(tmp_path: Path) -> None:
    """Catches: samples of different steps side by side."""
    write_run(tmp_path / "e5", "e5")
    write_run(tmp_path / "e6", "e6")
    (tmp_path / "e6" / "samples" / "step-000200.png").unlink()
    selection = chosen(tmp_path, "e6")
    text = drawn_text(selection, "sample_grids")
    assert "e5: loss.weighting = constant\nstep 100" in text and "minsnr\nstep 100" in text
    (tmp_path / "e6" / "samples" / "step-000100.png").unlink()
    with pytest.raises(NothingToDraw):
        (tmp_path / "e5" / "samples").rename(tmp_path / "gone")
        drawn_text(chosen(tmp_path, "e6"), "sample_grids")


def test_labels_do_not_overlap() -> None:
    """Catches: step labels printed over each other where milestones lie close together."""
    from reports.figures.style import new_figure

    figure = new_figure(5, 4)
    axes = figure.subplots()
    points = [(x, y, f"{i}k", "black") for i, (x, y) in enumerate([(0, 0), (0.02, 0.01), (0.5, 0.5), (0.51, 0.5)])]
    axes.plot([p[0] for p in points], [p[1] for p in points], "o")
    place_labels(axes, points, [])
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 4
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_looks_are_fixed_by_name() -> None:
    """Catches: an experiment changing its colour from figure to figure."""
    assert len({colour(name) for name in ("e1", "e5", "e6")}) == 3
    assert len({marker(name) for name in ("e1", "e5", "e6")}) == 3
    assert colour("e19") == colour("e19") and colour("e19") not in (colour("e5"), colour("e6"))
