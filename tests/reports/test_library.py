"""The library: all runs of a source, with separate panels for each protocol."""

from pathlib import Path

import pandas as pd
import pytest

from ddpm.commands.cli import main
from ddpm.errors import UserError
from ddpm.names import SCHEDULES, WEIGHTINGS
from reports.experiments.selection import filtered
from reports.figures.library import draw_library, entries, grouped, last_correlation, loss_colour, schedule_marker
from reports.figures.style import colour, palette, theme
from reports.library import COLUMNS, make_library, sentences
from reports.publish import FILES
from reports.sources import open_source
from reports.stats.statistics import COMMON, NEUTRAL, TRAINED
from tests.reports.conftest import noise_rows, rows_of, write_run


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Runs of several experiments, with one schedule and two protocols. One has no trace."""
    root = tmp_path / "runs"
    write_run(root / "a", "e5", 1)
    write_run(root / "b", "e6", 1)
    write_run(root / "c", "e9a", 1)
    write_run(root / "d", "other", 1, protocol="cccc3333")
    plain = [(step, {k: v for k, v in row.items() if "curvature" not in k}) for step, row in rows_of("e5", 2)]
    write_run(root / "e", "e1", 2, rows=plain)
    return root


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Runs on linear and on cosine betas with the neutral trace, and one on linear betas without it."""
    root = tmp_path / "mixed"
    for name, schedule in (("e5", "linear"), ("e6", "linear"), ("e9a", "cosine"), ("e9b", "cosine")):
        rows = rows_of(name, 1) + noise_rows(name)
        write_run(root / name, name, rows=rows, diffusion__beta_schedule=schedule)
    write_run(root / "old", "old")
    return root


def test_every_run_with_a_trace_is_in_it_and_the_rest_is_named(project: Path, tmp_path: Path) -> None:
    """Catches runs that are lost without a note, and numbers that differ from the runs'."""
    page = make_library(str(project), tmp_path / "out")
    assert {path.name for path in page.parent.iterdir()} == {*FILES, "figures"}
    table = pd.read_csv(page.parent / "numbers.csv")
    assert list(table.columns) == COLUMNS
    assert len(table) == 4 * 2 * 2 and set(table["experiment"]) == {
        "e5",
        "e6",
        "e9a",
        "other",
    }  # runs, traces, milestones
    run = next(run for run in open_source(str(project)) if run.experiment == "e6")
    mine = table[(table["experiment"] == "e6") & (table["trace_of"] == "unweighted loss")]
    assert mine["trace"].tolist() == run.series(COMMON).loc[[100, 200]].tolist()
    assert mine["fid"].tolist() == run.series("val/fid").tolist()
    text = (page.parent / "report.md").read_text()
    assert "e1 seed 2" in text and "no Hessian trace at a step with a FID" in text


def test_protocols_are_on_no_common_axis(project: Path) -> None:
    """Two protocols and two traces give four panels, each with runs of one protocol. Catches incomparable FIDs in one
    panel."""
    shown = entries(open_source(str(project)))
    with theme():
        axes = draw_library(shown).figure.axes
    assert len(axes) == 4
    titles = [panel.get_title().replace("\n", " ") for panel in axes]
    assert [title.split(":")[0] for title in titles] == ["protocol aaaa1111"] * 2 + ["protocol cccc3333"] * 2
    drawn = [{tuple(line.get_ydata()) for line in panel.lines if len(line.get_xdata()) == 2} for panel in axes]
    for panel, protocol in zip(drawn, ["aaaa1111"] * 2 + ["cccc3333"] * 2, strict=True):
        assert panel == {tuple(e.points["fid"]) for e in shown if e.protocol == protocol}


def test_schedules_share_only_the_neutral_trace(mixed: Path, tmp_path: Path) -> None:
    """With two schedules there is one panel, of the neutral trace, and one rank correlation; a sentence names the
    schedules, what to do, and the run that is left out. The table keeps every trace. Catches the common trace of two
    schedules on one axis or in one rank correlation, and a run that is lost without a note."""
    shown = entries(open_source(str(mixed)))
    with theme():
        (axes,) = draw_library(shown).figure.axes
    assert "neutral loss" in axes.get_xlabel()
    neutral = [entry for entry in shown if entry.trace == NEUTRAL]
    drawn = {tuple(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2}
    assert drawn == {tuple(entry.points["trace"]) for entry in neutral} and len(drawn) == 4
    (own, refusal, left_out) = sentences(shown)
    assert "trace of the neutral loss: 4 run(s); rank correlation (Spearman) of trace and FID" in own
    assert f"{last_correlation(neutral):+.2f}" in own
    assert "the trained loss and unweighted loss is not compared" in refusal
    assert "diffusion.beta_schedule = cosine, linear" in refusal
    assert "`--where diffusion.beta_schedule=cosine`" in refusal
    assert left_out == "1 run(s) there logged no neutral trace and are left out: old seed 1 (run old-s1-old)."
    page = make_library(str(mixed), tmp_path / "out")
    table = pd.read_csv(page.parent / "numbers.csv")
    assert table["trace_of"].value_counts().to_dict() == {"trained loss": 10, "unweighted loss": 10, "neutral loss": 8}
    assert refusal.split("`")[0] in page.with_suffix(".md").read_text().replace("\\_", "_")


def test_within_one_schedule_every_trace_stays(mixed: Path) -> None:
    """The filter that the refusal names brings back the panels of the other traces, beside the neutral one. Catches a
    library that shows the neutral trace alone, and a hint that does not work."""
    runs = filtered(open_source(str(mixed)), ["diffusion.beta_schedule=linear"])
    with theme():
        panels = draw_library(entries(runs)).figure.axes
    assert [axes.get_xlabel().split(", ")[1].split("\n")[0] for axes in panels] == [
        *("trained loss", "unweighted loss", "neutral loss")
    ]
    assert [line.count("3 run(s)") for line in sentences(entries(runs))] == [1, 1, 0]


def test_without_a_neutral_trace_two_schedules_have_no_figure(tmp_path: Path) -> None:
    """The page says why, and split by schedule each has its own row. Catches an empty picture, and a row that mixes."""
    for name, schedule in (("e5", "linear"), ("e6", "linear"), ("e9a", "cosine")):
        write_run(tmp_path / "runs" / name, name, diffusion__beta_schedule=schedule)
    page = make_library(str(tmp_path / "runs"), tmp_path / "out")
    assert (
        "No figure: the schedules differ, and no run logged the neutral trace." in page.with_suffix(".md").read_text()
    )
    shown = entries(open_source(str(tmp_path / "runs")))
    with theme():
        panels = draw_library(shown, split=True).figure.axes
    assert [axes.get_title().split("schedule ")[1] for axes in panels] == ["linear", "linear", "cosine", "cosine"]
    assert [sum(len(line.get_xdata()) == 2 for line in axes.lines) for axes in panels] == [2, 2, 1, 1]
    said = sentences(shown, split=True)
    assert ["schedule cosine: 1 run(s)" in line for line in said] == [True, True, False, False]


def test_a_chain_of_another_length_is_another_schedule(tmp_path: Path) -> None:
    """Catches a schedule that is known by its name alone: T = 500 puts the timesteps at other noise levels."""
    for name, length in (("e5", 1000), ("e6", 500)):
        write_run(tmp_path / name, name, diffusion__T=length)
    assert "diffusion.T = 1000, 500" in " ".join(sentences(entries(open_source(str(tmp_path)))))


def test_colour_is_the_loss_and_shape_the_schedule(mixed: Path) -> None:
    """Catches colour or shape by experiment, and a blue for constant weighting that differs from the reports'."""
    shown = [entry for entry in entries(open_source(str(mixed))) if entry.trace == NEUTRAL]
    with theme():
        first = draw_library(shown).figure.axes[0]
    looks = {(line.get_color(), line.get_marker()) for line in first.lines if len(line.get_xdata()) == 1}
    assert looks == {(colour("e5"), "o"), (colour("e6"), "o"), (colour("e5"), "^")}


def test_every_name_has_a_look_of_its_own() -> None:
    """Catches two weightings with one colour, two schedules with one marker, and looks that changed."""
    assert len({loss_colour(name) for name in (*WEIGHTINGS, "unheard of")}) == len(WEIGHTINGS) + 1
    assert len({schedule_marker(name) for name in (*SCHEDULES, "unheard of")}) == len(SCHEDULES) + 1
    before = ("constant", "minsnr", "minsnr_norm", "soft_minsnr", "truncated_snr", "p2", "snr")
    assert [loss_colour(name) for name in before] == [palette(place) for place in range(len(before))]
    before = ("linear", "cosine", "cosine_match_linear", "sigmoid", "scaled_linear")
    assert "".join(map(schedule_marker, before)) == "o^vsD"


def test_the_rank_correlation_is_over_the_last_milestones(project: Path) -> None:
    """The expected value comes from the ranks of three points. Catches several milestones of one run counted as
    runs."""
    shown = [e for e in entries(open_source(str(project))) if e.trace == TRAINED and e.protocol == "aaaa1111"]
    ends = sorted((e.points["trace"].iloc[-1], e.points["fid"].iloc[-1]) for e in shown)
    fids = [fid for _, fid in ends]
    d2 = sum((i - sorted(fids).index(fid)) ** 2 for i, fid in enumerate(fids))
    assert last_correlation(shown) == pytest.approx(1 - 6 * d2 / (3 * 8))
    assert last_correlation(shown[:2]) is None


def test_nothing_to_show(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches an empty picture, or a leftover folder, if no run has both numbers."""
    with pytest.raises(UserError, match="has a Hessian trace at a step with a FID"):
        make_library(str(project), tmp_path / "out", ["experiment=e1"])
    with pytest.raises(UserError, match="No runs that match seed=77"):
        make_library(str(project), tmp_path / "out", ["seed=77"])
    assert main(["report", "library", "--from", str(project), "--publish", "a/b"]) == 2
    assert "cannot be published" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_predictions_have_rows_of_their_own(tmp_path: Path) -> None:
    """Catches traces of networks that predict different things on one axis, or in one rank correlation: another
    prediction is another function of the weights."""
    for name, prediction, seed in (("a", "eps", 1), ("b", "eps", 2), ("c", "v", 3)):
        write_run(tmp_path / name, "e5", seed, diffusion__prediction=prediction)
    shown = entries(open_source(str(tmp_path)))
    rows = grouped(shown)
    assert [row[0].split for row in rows] == ["prediction eps", "prediction v"]
    assert [len({id(entry.run) for panel in row for entry in panel.entries}) for row in rows] == [2, 1]
    said = sentences(shown)
    assert any("prediction eps: 2 run(s)" in line for line in said) and not any("3 run(s)" in line for line in said)
    assert sentences(shown, known=True) == []  # of one or two runs there is no correlation
