"""Figures by noise level of runs that lack something, and reports on arms whose schedules differ."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reports.experiments import load
from reports.experiments.selection import Selection, select
from reports.figures import FIGURES, draw
from reports.figures.noise_levels import by_level
from reports.figures.style import NothingToDraw, theme
from reports.judging.checks import judge_criteria
from reports.sources import open_source
from tests.reports.conftest import chosen, noise_rows, rows_of, write_run
from tests.reports.noise_by_hand import CHECKS, cells, hatched

COSINE = {"diffusion__beta_schedule": "cosine"}
pytestmark = pytest.mark.usefixtures("unrendered")  # rendering takes most of the time
STUDY: dict[str, dict[str, Any]] = {
    **{"e5": {}, "e6": {}, "e9a": COSINE},
    "e9b": {**COSINE, "loss__weighting": "minsnr"},
}


def write(root: Path, experiment: str, rows: list[tuple[int, dict[str, Any]]], **extra: Any) -> None:
    extra = {"curvature__draws": "fixed"} | STUDY[experiment] | extra
    write_run(root / experiment, experiment, rows=rows_of(experiment, 1) + rows, **extra)


def kept(rows: list[tuple[int, dict[str, Any]]], *without: str) -> list[tuple[int, dict[str, Any]]]:
    """The rows without the keys that hold one of these words."""
    return [(step, {k: v for k, v in row.items() if not any(word in k for word in without)}) for step, row in rows]


def axes_of(name: str, selection: Selection) -> list[Any]:
    with theme():
        return list(FIGURES[name][1](selection, False).figure.axes)


@pytest.mark.parametrize("name", CHECKS)
def test_runs_without_noise_levels_say_what_they_need(name: str, tmp_path: Path) -> None:
    """Catches an exception, or an empty picture, for runs from before; and a reason that names no key."""
    for arm in ("e5", "e6"):
        write(tmp_path, arm, [])
    with pytest.raises(NothingToDraw, match=r"not logged in any run of e5, e6; it needs (curvature|eval)\."):
        FIGURES[name][1](chosen(tmp_path, "e6"), False)


def test_bins_that_an_arm_lacks_are_grey_and_have_no_ratio(tmp_path: Path) -> None:
    """e6's schedule covers no bin below -4, and one of its traces is negative. Catches a shift of the other bins, a
    ratio of a missing or negative trace, and a missing cell that counts as undecided."""
    write(tmp_path, "e5", noise_rows("e5"))
    lacking = kept(noise_rows("e6"), "lambda_-8_", "lambda_-6_")
    lacking[3][1]["curvature/trace_by_noise/lambda_0_mean"] = -1.0
    write(tmp_path, "e6", lacking)
    selection = chosen(tmp_path, "e6")
    assert list(by_level(selection.arms[1], "curvature/trace_by_noise/{}_mean").columns) == [-3, -1, 1, 3, 5, 7]
    whole, some, _, ratio, *_ = axes_of("trace_by_noise", selection)
    assert np.isfinite(cells(whole)).all()
    for axes in (some, ratio):
        missing = np.isnan(cells(axes))
        assert missing[:2].all() and missing[4].tolist() == [False] * 3 + [True] + [False] * 16
        assert missing.sum() == 2 * 20 + 1
    assert all(level > -4 for _, level in hatched(ratio))
    drawn = draw("trace_by_noise", selection, tmp_path / "out")
    assert drawn.png is not None and "Grey: not logged, or not positive (41 cells of the upper row)." in drawn.caption
    for name in list(CHECKS)[1:]:
        assert draw(name, selection, tmp_path / "out").png is not None


def test_traces_that_cannot_be_paired_have_no_interval(tmp_path: Path) -> None:
    """e6's draws are of another seed. Every ratio is then undecided, and panel and caption say why. Catches an interval
    from draws that are not the same, and cells that look decided for want of one."""
    write(tmp_path, "e5", noise_rows("e5"), curvature__seed=0)
    write(tmp_path, "e6", noise_rows("e6"), curvature__seed=1)
    study = load("e6").model_copy(update={"difference": ("loss.*", "curvature.*")})
    selection = select(study, open_source(str(tmp_path)))
    *_, ratio, _, _ = axes_of("trace_by_noise", selection)
    assert len(hatched(ratio)) == 8 * 20 and "no interval: curvature.seed is" in ratio.get_title().replace("\n", " ")
    caption = draw("trace_ratio_by_noise", selection, tmp_path / "out").caption
    assert "undecided at log SNR -8 to 8" in caption and "No ratio has an interval: curvature.seed is" in caption


def test_many_measurements_share_columns(tmp_path: Path) -> None:
    """600 measurements become 60 columns of ten. Catches a column that drops a measurement, or shows its first."""
    steps = range(10, 6001, 10)
    for arm in ("e5", "e6"):
        levels = {f"curvature/trace_by_noise/lambda_{low}_mean": low + 9.0 for low in range(-8, 8, 2)}
        rows = [(step, {key: step + level for key, level in levels.items()}) for step in steps]
        write(tmp_path, arm, rows, train__total_steps=6000)
    first, *_ = axes_of("trace_by_noise", chosen(tmp_path, "e6"))
    found = cells(first)
    assert found.shape == (8, 60) and np.allclose(found[0], np.arange(60) * 100 + 55 + 1)


def test_arms_of_two_schedules_meet_on_the_neutral_trace(tmp_path: Path) -> None:
    """Catches the trained traces of two schedules on one axis, a missing row of the neutral trace or one that does not
    say what it is, and arms of one colour."""
    for arm in STUDY:
        write(tmp_path, arm, noise_rows(arm))
    selection = chosen(tmp_path, "e9")
    _, common, neutral = axes_of("curvature_vs_step", selection)
    assert "each arm's own" in common.get_title() and "the same under every schedule" in neutral.get_title()
    assert len({line.get_color() for line in neutral.lines}) == 4
    (axes,) = axes_of("curvature_vs_fid", selection)
    assert "neutral loss" in axes.get_xlabel() and "neutral loss" in axes.get_title()
    traces = [arm.runs[0].series("curvature/neutral_trace_mean") for arm in selection.arms]
    drawn = {tuple(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2}
    assert drawn >= {(trace[100], trace[200]) for trace in traces}
    assert len([axes for axes in axes_of("trace_by_noise", selection) if axes.get_title().endswith(" / e5")]) == 3
    for figure in CHECKS:
        assert draw(figure, selection, tmp_path / "out").png is not None


def test_arms_of_two_schedules_without_the_neutral_trace(tmp_path: Path) -> None:
    """Catches a figure of two functions on one axis, and an absent one without a reason."""
    for arm in STUDY:
        write(tmp_path, arm, [])
    selection = chosen(tmp_path, "e9")
    reason = draw("curvature_vs_fid", selection, tmp_path / "out").reason
    assert "diffusion.beta_schedule = cosine, linear" in reason and "neutral_trace_mean, which would" in reason
    assert "trace of the neutral loss was not logged" in draw("curvature_vs_step", selection, tmp_path / "out").caption
    assert draw("curvature_vs_fid", chosen(tmp_path, "e6"), tmp_path / "out").png is not None


def test_e9_and_e9b_judge_the_neutral_trace(tmp_path: Path) -> None:
    """e6's neutral trace is 15 % above e5's, the others are like e5's. Catches a criterion on another arm or trace, and
    a report that cannot be made because `e9` is no arm."""
    for arm in STUDY:
        write(tmp_path, arm, noise_rows(arm))
    flatter, alike, cosine, _ = (claim.outcomes[0] for claim in judge_criteria(chosen(tmp_path, "e9")))
    arms = chosen(tmp_path, "e6").arms
    e5, e6 = (arm.runs[0].series("curvature/neutral_trace_mean").loc[120:].mean() for arm in arms)
    assert flatter.estimate.number == pytest.approx(100 * (e6 / e5 - 1)) and e6 > 1.1 * e5
    assert alike.estimate.number == pytest.approx(0, abs=3) == cosine.estimate.number
    assert [outcome.what.split(", ")[1] for outcome in (flatter, alike, cosine)] == [
        *("e6 against e5", "e9a against e5", "e9b against e5")
    ]
    of_e9b = judge_criteria(chosen(tmp_path, "e9b"))[1].outcomes[0]
    assert "neutral_trace_mean" in of_e9b.what and of_e9b.estimate.number == pytest.approx(0, abs=3)


def test_the_common_trace_of_two_schedules_decides_nothing(tmp_path: Path) -> None:
    """Arms of e6 that were trained on two schedules, which the experiment does not declare. Catches a verdict on traces
    of two functions."""
    write(tmp_path, "e5", noise_rows("e5"))
    write(tmp_path, "e6", noise_rows("e6"), **COSINE)
    verdicts = {claim.says: claim for claim in judge_criteria(chosen(tmp_path, "e6"))}
    (found,) = [claim for says, claim in verdicts.items() if "flatter" in says]
    assert found.verdict == "undecided" and "diffusion.beta_schedule" in found.outcomes[0].verdict.reason
