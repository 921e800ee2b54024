"""Arms whose networks predict different things: their traces are of different functions of the weights."""

from pathlib import Path

import pytest

from reports.experiments import Check, Claim, load
from reports.experiments.selection import Selection, select
from reports.figures import FIGURES, draw
from reports.figures.style import theme
from reports.judging.checks import judge_criteria
from reports.sources import open_source
from reports.stats.statistics import numbers
from reports.text.answer import answer
from reports.text.short import in_short
from reports.text.verdicts import all_verdicts
from tests.reports.conftest import noise_rows, rows_of, write_run

pytestmark = pytest.mark.usefixtures("unrendered")
DIFFER = "the predictions differ (diffusion.prediction = eps, v)"


@pytest.fixture
def selection(tmp_path: Path) -> Selection:
    """e5 and e6 predict eps, e5_v predicts v. A criterion compares e5_v's trace with e5's, another one its FID."""
    settings = {
        "e5": {"diffusion__prediction": "eps", "loss__weighting": "constant"},
        "e6": {"diffusion__prediction": "eps", "loss__weighting": "minsnr"},
        "e5_v": {"diffusion__prediction": "v", "loss__weighting": "constant"},
    }
    for arm, keys in settings.items():
        rows = rows_of(arm, 1) + noise_rows(arm)
        write_run(tmp_path / "runs" / arm, arm, rows=rows, curvature__draws="fixed", **keys)
    checks = [
        Check(metric=metric, arm="e5_v", of="change_pct", statistic=statistic, at_most=0)
        for metric, statistic in (("curvature/neutral_trace_mean", "mean"), ("val/fid", "last"))
    ]
    claims = [Claim(says=check.metric, checks=[check]) for check in checks]
    study = load("prediction").model_copy(update={"criteria": tuple(claims)})
    return select(study, open_source(str(tmp_path / "runs")))


def test_no_part_of_a_report_compares_their_traces(selection: Selection) -> None:
    """Not the criteria, the first screen, the verdicts, the numbers, nor the terminal's lines; losses and FIDs are
    compared, and so are e6's traces, as it predicts what e5 does. Catches `56.6 % lower` said of another function."""
    trace, fid = judge_criteria(selection)
    assert trace.verdict == "undecided" and trace.outcomes[0].verdict.reason.startswith(DIFFER)
    assert fid.outcomes[0].estimate.number is not None and DIFFER not in fid.outcomes[0].verdict.reason
    said = {sentence.about: sentence.says for sentence in answer(selection)}
    assert f"e5_v is not compared with e5: {DIFFER}" in said["Hessian trace of the neutral loss"]
    assert DIFFER not in said["FID (lower is better)"] and DIFFER not in said["Unweighted loss"]
    verdict = " ".join(sentence for _, sentences in all_verdicts(selection) for sentence in sentences)
    assert f"e5_v's and e5's traces are not compared: {DIFFER}" in verdict
    assert "e5_v's trace of" not in verdict and "e6's trace of the neutral loss lies" in verdict
    compared = numbers(selection).query("experiment == 'e5_v vs e5'")["metric"].unique()
    assert {"val/fid", "train/mse"} <= set(compared)
    assert not [metric for metric in compared if metric.startswith(("curvature/", "train/grad_"))]
    eps, v, _ = in_short(selection)
    assert "Hessian trace of the neutral loss" in eps and "Hessian trace of" not in v and DIFFER in v


def test_figures_show_each_trace_and_no_ratio(selection: Selection, tmp_path: Path) -> None:
    """Catches a ratio of two functions' traces, an arm that vanishes with it, and axes that do not say so."""
    with theme():
        titles = [axes.get_title() for axes in FIGURES["trace_by_noise"][1](selection, False).figure.axes]
    assert [title for title in titles if " / " in title] == ["e6 / e5"]
    assert sum("e5_v" in title for title in titles) == 1
    for name in ("trace_by_noise", "trace_ratio_by_noise"):
        assert "No ratio for e5_v: the predictions differ." in draw(name, selection, tmp_path).caption
    with theme():
        *_, ratio = FIGURES["trace_ratio_by_noise"][1](selection, False).figure.axes
        traces = FIGURES["curvature_vs_step"][1](selection, False).figure.axes
        (fids,) = FIGURES["curvature_vs_fid"][1](selection, False).figure.axes
    assert len(ratio.containers) == 1
    assert all("different functions of the weights" in axes.get_title() for axes in (traces[0], traces[2], fids))
    assert "Traces do not compare" in draw("small_multiples", selection, tmp_path).caption
