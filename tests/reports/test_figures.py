"""Figures are drawn, say what they show, and refuse what must not be shown together."""

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from ddpm.errors import UserError
from reports import figures
from reports.experiments import load, names
from reports.experiments.selection import Selection, select
from reports.figures import FIGURES, draw, draw_all
from reports.figures.curves import in_cells
from reports.figures.place_labels import place_labels
from reports.figures.style import DPI, NothingToDraw, arm_labels, colour, dash, marker, theme, told_apart
from reports.figures.timesteps import profile, weight_curve
from reports.sources import open_source
from tests.reports import noise_by_hand
from tests.reports.conftest import chosen, rows_of, write_run


def drawn_text(selection: Selection, name: str, allow_mixed: bool = False) -> str:
    """All text of a figure."""
    with theme():
        figure = FIGURES[name][1](selection, allow_mixed).figure
        figure.canvas.draw()
    texts = [item.get_text() for item in figure.findobj(lambda a: hasattr(a, "get_text"))]
    return "\n".join(text for text in texts if text)


def test_all_figures_of_complete_runs_exist_and_are_not_blank(two_seeds: Path, tmp_path: Path) -> None:
    """Catches figures that fail for several seeds, are empty, or have the wrong size or format."""
    for figure in draw_all(chosen(two_seeds, "e6"), tmp_path):
        if figure.name == "nfe_fid":  # all runs have one NFE
            assert figure.png is None and "at NFE 50 only" in figure.reason
            continue
        assert figure.png is not None, figure.reason
        image = matplotlib.image.imread(figure.png)
        assert image.shape[1] >= 5 * DPI
        assert np.mean(image[..., :3].min(axis=-1) < 0.9) > 0.01, f"{figure.name} is nearly blank"
        assert figure.png.with_suffix(".svg").read_text().startswith("<?xml")
        assert figure.caption.endswith(".") and figure.title


def test_originals_draw_what_their_logs_allow(originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A figure that is not drawn says why. Catches a figure that is missing without a reason."""
    monkeypatch.setattr(figures, "save", lambda _drawn, stem: stem)  # saving takes most of the time
    for experiment in ("e1", "e5", "e6"):
        for figure in draw_all(chosen(originals, experiment), tmp_path / experiment):
            assert (figure.png is None) == bool(figure.reason)
            unlogged = ("sample_grids", "trained_vs_common_trace", "nfe_fid", "time_breakdown", *noise_by_hand.CHECKS)
            assert (figure.png is None) == (figure.name in unlogged), figure.reason


def test_the_floor_is_drawn_where_it_was_logged(tmp_path: Path, originals: Path) -> None:
    """There is one line for both arms' common floor, and none for logs without a floor. Catches a line for each run or
    milestone."""
    for experiment in ("e5", "e6"):
        rows = rows_of(experiment, 1)
        scored = [(step, row | {"val/fid_floor": 1.25} if "val/fid" in row else row) for step, row in rows]
        write_run(tmp_path / experiment, experiment, 1, rows=scored)
    (axes,) = FIGURES["fid_vs_step"][1](chosen(tmp_path, "e6"), False).figure.axes
    floors = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert [(line.get_label(), *line.get_ydata()) for line in floors] == [("as many real images: 1.25", 1.25, 1.25)]
    assert "real images" not in drawn_text(chosen(originals, "e6"), "fid_vs_step")


def test_an_fids_interval_and_ceiling_are_drawn(tmp_path: Path) -> None:
    """A single seed has bars of 1.96 logged errors at each milestone. The score of noise is a line if it is near, and a
    sentence if it is far. Catches bars of one error, and an axis that a far ceiling compresses."""
    for experiment, ceiling in (("e5", 100.0), ("e6", 900.0)):
        rows = rows_of(experiment, 1)
        more = {"val/fid_sem": 2.0, "val/fid_ceiling": ceiling}
        scored = [(step, row | more if "val/fid" in row else row) for step, row in rows]
        write_run(tmp_path / experiment, experiment, 1, rows=scored)
    selection = chosen(tmp_path, "e6")
    drawn = FIGURES["fid_vs_step"][1](selection, False)
    (axes,) = drawn.figure.axes
    bars = [segment for lines in axes.collections for segment in lines.get_segments()]
    assert len(bars) == 4 and all(np.ptp(bar[:, 1]) == pytest.approx(2 * 1.959964 * 2) for bar in bars)
    levels = [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "-."]
    assert levels == [100.0] and "Uniform noise scores 900.00." in drawn.caption and "95 % interval" in drawn.caption


def test_legends_name_the_difference(originals: Path) -> None:
    """Catches hard-coded legends, and a constant default that is missing if old configs omit it."""
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
    """Catches the traces of two weighted losses shown as one quantity."""
    text = drawn_text(chosen(originals, "e6"), "curvature_vs_step")
    assert "different functions" in text and "standard error" in text and "Common" not in text
    text = drawn_text(chosen(two_seeds, "e6"), "curvature_vs_step")
    assert "Common unweighted loss" in text


def test_smoothing_is_stated_and_axes_have_units(originals: Path) -> None:
    """Catches a smoothed line without a note, and a bare metric key as an axis label."""
    text = drawn_text(chosen(originals, "e6"), "loss_fid_vs_step")
    assert "rolling mean of 13" in text and "weighted MSE" in text and "FID (lower is better)" in text


def test_points_that_a_title_names_can_be_seen(originals: Path) -> None:
    """The points are wider than the line among them, and not faint. Catches points that are invisible in a small
    panel."""
    with theme():
        figure = FIGURES["small_multiples"][1](chosen(originals, "e6"), False).figure
    named = [axes for axes in figure.axes if axes.get_title().startswith("points: logged values")]
    assert len(named) == 3
    for axes in named:
        points = [line for line in axes.lines if line.get_marker() == "." and len(line.get_xdata()) == 100]
        width = max(line.get_linewidth() for line in axes.lines if line.get_linestyle() != "None")
        assert len(points) == 2
        for line in points:
            assert line.get_markersize() / 2 > 1.5 * width and (line.get_alpha() or 1) >= 0.5  # "." is half as wide


def test_mixed_protocols(tmp_path: Path) -> None:
    """Catches two protocols on one axis without permission or without a note."""
    write_run(tmp_path / "a", "e5")
    write_run(tmp_path / "b", "e6", protocol="cccc3333")
    selection = chosen(tmp_path, "e6")
    for name in ("loss_fid_vs_step", "fid_vs_step", "curvature_vs_fid"):
        with pytest.raises(UserError, match="different protocols"):
            drawn_text(selection, name)
        assert "different protocols" in drawn_text(selection, name, allow_mixed=True).replace("\n", " ")


def test_context_of_another_protocol_is_left_out(tmp_path: Path) -> None:
    """Catches a context arm that stops the report, or that is drawn beside numbers of another protocol."""
    for name, protocol in (("e5", "aaaa1111"), ("e6", "aaaa1111"), ("e1", "cccc3333")):
        write_run(tmp_path / name, name, protocol=protocol)
    figure = draw("fid_vs_step", chosen(tmp_path, "e6"), tmp_path)
    assert "e1 is left out: another FID protocol" in figure.caption
    assert "e1 8" not in figure.caption


def test_absent_data_have_a_reason(tmp_path: Path) -> None:
    """Catches an exception, or an empty axis, for a metric that was not logged."""
    write_run(tmp_path / "e6", "e6", rows=[(10, {"train/loss": 1.0}), (20, {"train/loss": 0.5})])
    selection = chosen(tmp_path, "e6")
    for name in ("curvature_vs_step", "curvature_vs_fid", "trace_mean_vs_std", "fid_vs_step"):
        with pytest.raises(NothingToDraw, match="logged"), theme():
            FIGURES[name][1](selection, False)
    assert draw("loss_fid_vs_step", selection, tmp_path).png is not None  # loss alone is still worth a figure


def test_grids_are_of_the_last_common_step(tmp_path: Path) -> None:
    """Catches samples from different steps side by side."""
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
    """Catches overlapping step labels if milestones lie close together."""
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
    """Catches an experiment whose colour changes from figure to figure."""
    assert len({colour(name) for name in ("e1", "e5", "e6")}) == 3
    assert len({marker(name) for name in ("e1", "e5", "e6")}) == 3
    assert colour("e19") == colour("e19") and colour("e19") not in (colour("e5"), colour("e6"))


def test_twelve_arms_differ_and_the_compared_ones_in_colour() -> None:
    """Catches two arms of one report that look the same, and another experiment with e5's or e6's look."""
    every = {name for study in map(load, names()) for name in study.arms}
    assert len({(colour(name), marker(name), dash(name)) for name in every}) == len(every) > 30
    for study in map(load, names()):
        assert len({colour(name) for name in study.arms}) == len(study.arms), study.name
    twelve = [f"my own arm {n}" for n in range(12)]
    assert len({(colour(name), dash(name)) for name in twelve}) < 12  # if only their names decide
    with told_apart(["e5", *twelve]):
        assert len({(colour(name), dash(name)) for name in ("e5", *twelve)}) == 13
        assert colour(twelve[0]) == _colour_alone(twelve[0])
    assert not {colour(f"my run {i}") for i in range(50)} & {colour("e5"), colour("e6")}


def _colour_alone(name: str) -> str:
    with told_apart([]):
        return colour(name)


def test_nfe_is_an_axis_and_nothing_else_may_differ(tmp_path: Path) -> None:
    """FIDs by the same features at two NFE are drawn; FIDs with different sample counts are not. Catches incomparable
    FIDs joined by a line."""
    write_run(tmp_path / "a" / "e5", "e5", rows=[(200, {"val/fid": 9.0, "val/fid_protocol": "aaaa1111"})])
    write_run(tmp_path / "a" / "e6", "e6", rows=[(200, {"val/fid": 7.0, "val/fid_protocol": "cccc3333"})])
    (axes,) = FIGURES["nfe_fid"][1](chosen(tmp_path / "a", "e6"), False).figure.axes
    assert {(*line.get_xdata(), *line.get_ydata()) for line in axes.lines} == {(50.0, 9.0), (20.0, 7.0)}
    write_run(tmp_path / "b" / "e5", "e5", rows=[(200, {"val/fid": 9.0, "val/fid_protocol": "bbbb2222"})])
    write_run(tmp_path / "b" / "e6", "e6", rows=[(200, {"val/fid": 7.0, "val/fid_protocol": "cccc3333"})])
    with pytest.raises(NothingToDraw, match="differ in n_samples too"):
        FIGURES["nfe_fid"][1](chosen(tmp_path / "b", "e6"), False)


def test_the_profile_by_timestep_of_the_original_and_of_ours(originals: Path, two_seeds: Path) -> None:
    """Our profile is at the logged timesteps. The original's, whose timesteps its batch drew, is in ten bins. The
    weight curve is the logged one; constant weighting's follows from its definition. Catches single draws shown as a
    curve, and a curve for the wrong arm."""
    _, e6 = chosen(two_seeds, "e6").arms
    assert list(profile(e6, (0.8, 1.0)).index) == [10, 100, 500, 900]
    assert list(weight_curve(e6)) == [0.5, 1.0]
    old5, old6 = chosen(originals, "e6").arms
    assert len(profile(old5, (0.8, 1.0))) == 10
    assert list(weight_curve(old5)) == [1.0, 1.0]
    weights = weight_curve(old6)
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    snr = alpha_bar / (1 - alpha_bar)
    assert weights.to_numpy() == pytest.approx(np.minimum(snr, 5) / snr, rel=1e-3)  # logged in float32


def test_many_points_become_an_image_in_the_svg(tmp_path: Path) -> None:
    """Catches an SVG with a path for each of 6,000 raw points."""
    rows = [(step, {"train/loss": 1 / step}) for step in range(1, 6001)]
    write_run(tmp_path / "runs", "e1", rows=rows)
    drawn = draw("loss_fid_vs_step", chosen(tmp_path / "runs", "e1"), tmp_path)
    assert drawn.png is not None
    text = drawn.png.with_suffix(".svg").read_text()
    assert "<image" in text and len(text) < 600_000


def test_cells_hold_every_point() -> None:
    """The counts add up, outliers included, and a cell's value is the mean of its own points. If positive values span
    decades, the cells grow. Catches points dropped at an edge, and steps that are summed, not averaged."""
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 100, 5000), rng.lognormal(0, 2, 5000)
    count, mean, (across, up) = in_cells(x, y, x)
    assert count.sum() == 5000 and up[0] == y.min() and up[-1] == pytest.approx(y.max())
    assert np.allclose(up[1:] / up[:-1], up[1] / up[0])
    inside = (across[:-1, None] - 1e-9 <= mean) & (mean <= across[1:, None] + 1e-9)
    assert inside.all()
    flat = in_cells(np.array([1.0, 2.0]), np.array([-1.0, 3.0]))[2][1]
    assert np.allclose(np.diff(flat), 4 / 120)


def test_log_axes_are_labelled_and_dollars_are_dollars(tmp_path: Path) -> None:
    """Catches ticks that show their mathematics as source, and a config value that is typeset or rejected as
    mathematics."""
    for experiment, root in (("e5", "$HOME/x_$USER"), ("e6", "b")):
        write_run(tmp_path / experiment, experiment, data__root=root, loss__weighting="constant")
    with theme():
        study = load("e6").model_copy(update={"where": {}})  # the arms differ only in the folder
        figure = FIGURES["timestep_profile"][1](select(study, open_source(str(tmp_path))), True).figure
        figure.canvas.draw()
        ticks = [tick for axes in figure.axes for tick in axes.get_yticklabels() if tick.get_text()]
        assert ticks and max(tick.get_window_extent().width for tick in ticks) < 0.5 * figure.dpi
        (said,) = [text for text in figure.legends[0].get_texts() if "HOME" in text.get_text()]
        width = said.get_window_extent().width
        said.set_text(said.get_text().replace("$", "S"))
        assert width == pytest.approx(said.get_window_extent().width, rel=0.02)
