"""The sentences that a report opens with: true for every kind of report."""

from pathlib import Path
from typing import Any

import pytest

from reports.experiments import load
from reports.experiments.selection import select
from reports.sources import open_source
from reports.text.answer import answer
from reports.text.short import in_short
from tests.reports.by_hand import Z95, student
from tests.reports.conftest import chosen, rows_of, write_run


def said(root: Path, experiment: str) -> dict[str, str]:
    """about -> what is said, of a report on the runs in `root`."""
    return {sentence.about: sentence.says for sentence in answer(chosen(root, experiment))}


def scored(folder: Path, experiment: str, fid: float, seed: int = 1, **extra: Any) -> Path:
    """A run with one milestone, at step 200."""
    row = {"val/fid": fid, "val/fid_protocol": "aaaa1111", "train/loss": 1.0}
    return write_run(folder, experiment, seed, rows=[(200, row)], **extra)


def test_three_seeds_give_an_interval(tmp_path: Path) -> None:
    """FIDs that differ by 9, 10 and 11: Student's interval around 10, which decides; by -10, 0 and 10: it does not. By
    0, 1 and 2, one standard deviation from 0, which takes 10 seeds (a textbook's number). Catches a sign turned round,
    an interval of something else, a difference within the noise called one, and seeds in all in place of more."""
    for seed, near, far, some in ((1, 9.0, -10.0, 0.0), (2, 10.0, 0.0, 1.0), (3, 11.0, 10.0, 2.0)):
        for place, difference in (("near", near), ("far", far), ("some", some)):
            scored(tmp_path / place / f"a{seed}", "e5", 40.0, seed)
            scored(tmp_path / place / f"b{seed}", "e6", 40.0 + difference, seed)
    low, high = student([9, 10, 11])
    assert said(tmp_path / "near", "e6")["FID (lower is better)"] == (
        f"e6's is 10.00 higher than e5's at step 200 (95 % interval {low:+.2f} to {high:+.2f}; "
        "Student's t over 3 seeds, paired)."
    )
    low, high = student([-10, 0, 10])
    assert said(tmp_path / "far", "e6")["FID (lower is better)"] == (
        f"undecided: e6's is 0 away from e5's at step 200 (95 % interval {low:+.2f} to {high:+.2f}, which includes 0; "
        "Student's t over 3 seeds, paired)."
    )
    some = said(tmp_path / "some", "e6")["FID (lower is better)"]
    assert "Student's t over 3 seeds, paired; about 7 more seeds (" in some and some.endswith(") would tell).")


def test_the_study_itself(originals: Path) -> None:
    """One seed, no common trace, no unweighted loss. Catches a single FID that decides, a trace of two functions called
    flatness, and losses of two weightings compared."""
    fid, trace, loss = answer(chosen(originals, "e6"))
    assert fid.says.startswith("undecided: e6's is 0.83 higher than e5's at step 10000 (no interval: one seed")
    assert trace.about == "Hessian trace of the trained loss"
    assert trace.says.startswith(
        "in these runs, e6's is 16.3 % lower than e5's over 60-100 % of the run (95 % interval"
    )
    assert trace.says.endswith("so part of the difference is the weighting's scale.") and "not seeds" in trace.says
    assert loss.about == "Unweighted loss" and loss.says.startswith("not measured in these runs; the training losses")


def test_what_one_arm_alone_measured_is_still_said(originals: Path) -> None:
    """e1 has no probe. Catches a question about e5's trace that is answered with `not measured`."""
    trace = said(originals, "e5")["Hessian trace of the trained loss"]
    assert trace.startswith("e5's falls by 44.2 % from 0-20 % to 80-100 % of the run (95 % interval ")
    assert trace.endswith("Not measured in e1.")


def test_the_noise_of_the_samples_is_said(tmp_path: Path) -> None:
    """FIDs of 40 and 55 with errors of 3 and 4. Catches a difference of single runs that is decided by the samples
    alone, and the noise of an arm alone that is left out."""
    for name, fid, error in (("e5", 40.0, 3.0), ("e6", 55.0, 4.0)):
        row = {"val/fid": fid, "val/fid_sem": error, "val/fid_protocol": "aaaa1111"}
        write_run(tmp_path / "both" / name, name, rows=[(200, row)])
    write_run(tmp_path / "one" / "e6", "e6", rows=[(200, row)])
    fid = said(tmp_path / "both", "e6")["FID (lower is better)"]
    assert fid.startswith("undecided: e6's is 15.00 higher") and "(+15.00 ± 9.80); seeds unknown" in fid
    alone = said(tmp_path / "one", "e6")
    assert alone["Nothing is compared"].startswith("there is no run of e5.")
    assert "e6's is 55.00 at step 200 (no interval: " in alone["FID (lower is better)"]
    assert f"the noise of its samples is ± {Z95 * 4:.2f}" in alone["FID (lower is better)"]


def test_unfinished_runs(tmp_path: Path) -> None:
    """e6 is at step 100 of 200. Its FID is compared at the common milestone. Catches the FID of step 100 set against
    that of step 200, and a decision about a run that goes on."""
    for seed in (1, 2, 3):
        write_run(tmp_path / f"a{seed}", "e5", seed, train__total_steps=200)
        half = [row for row in rows_of("e6", seed) if row[0] <= 100]
        write_run(tmp_path / f"b{seed}", "e6", seed, rows=half, finished=False, train__total_steps=200)
    found = said(tmp_path, "e6")
    assert all(says.startswith("undecided, not all runs are finished: e6's is ") for says in found.values())
    assert " at step 100 (95 % interval " in found["FID (lower is better)"]


def test_protocols_that_differ(tmp_path: Path) -> None:
    """Finished or not. Catches FIDs of two protocols that are subtracted."""
    for name, protocol in (("e5", "aaaa1111"), ("e6", "cccc3333")):
        write_run(tmp_path / "a" / name, name, protocol=protocol)
        write_run(tmp_path / "b" / name, name, protocol=protocol, finished=False, train__total_steps=900)
    for place in ("a", "b"):
        fid = said(tmp_path / place, "e6")["FID (lower is better)"]
        assert fid == "e6 is not compared with e5: measured under different protocols."


def test_without_a_fid(tmp_path: Path) -> None:
    """The first sentence is about what was measured. Catches an answer that opens with what there is not, and a final
    FID that is forgotten because there is no milestone."""
    ends = []
    for name in ("e5", "e6"):
        ends += [row["final/fid"] for _, row in rows_of(name, 1) if "final/fid" in row]
        rows = [(step, {k: v for k, v in row.items() if "fid" not in k}) for step, row in rows_of(name, 1)]
        write_run(tmp_path / "a" / name, name, rows=rows)
        rows = [(step, {k: v for k, v in row.items() if "val/fid" not in k}) for step, row in rows_of(name, 1)]
        write_run(tmp_path / "b" / name, name, rows=rows)
    found = said(tmp_path / "a", "e6")
    assert list(found) == ["Hessian trace of the common unweighted loss", "Unweighted loss", "FID (lower is better)"]
    assert found["FID (lower is better)"] == "not measured in these runs."
    final = said(tmp_path / "b", "e6")["FID after training (lower is better)"]
    assert f"e6's is {ends[0] - ends[1]:.2f} lower than e5's at step 200" in final


def test_another_prediction_is_another_function_of_the_weights(tmp_path: Path) -> None:
    """The eps-MSE compares between predictions; its trace does not. Catches a loss that is refused for nothing, and a
    trace of another function that is compared without a word."""
    for name, prediction in (("e5", "eps"), ("e6", "v")):
        write_run(tmp_path / name, name, diffusion__prediction=prediction)
    found = said(tmp_path, "e6")
    why = "e6 is not compared with e5: the predictions differ (diffusion.prediction = eps, v)"
    assert found["Hessian trace of the common unweighted loss"].startswith(why)
    assert "predict" not in found["Unweighted loss"] and "e6's is " in found["Unweighted loss"]
    line = in_short(chosen(tmp_path, "e6"))[0]
    assert "Hessian traces are not compared, as the predictions differ" in line and "Hessian trace of" not in line


def test_several_variants_share_a_sentence(tmp_path: Path) -> None:
    """e7b scores 1 lower than e7a, e7c has no run. Catches a variant left out without a word, and one set against
    another variant."""
    for name, fid, width in (("e7a", 40.0, 32), ("e7b", 39.0, 32)):
        scored(tmp_path / "two" / name, name, fid, model__base_channels=width)
        scored(tmp_path / "three" / name, name, fid, model__base_channels=width)
    scored(tmp_path / "three" / "e7c", "e7c", 42.5, model__base_channels=64)
    fid = said(tmp_path / "three", "e7")["FID (lower is better)"]
    assert fid.index("e7b's is 1.00 lower than e7a's") < fid.index("e7c's is 2.50 higher than e7a's")
    assert said(tmp_path / "two", "e7")["Missing"] == "no run of e7c, so nothing is said of it."


def test_a_criterions_own_metric_comes_first(tmp_path: Path) -> None:
    """e24b's criterion is about the reconstruction error. Catches an answer to another question."""
    for name, error, weighting in (("e24a", 2.0, "constant"), ("e24b", 3.0, "minsnr")):
        rows = [(200, {"val/recon_mse": error, "train/loss": 1.0})]
        write_run(tmp_path / name, name, rows=rows, loss__weighting=weighting)
    first, *_ = answer(chosen(tmp_path, "e24b"))
    assert "reconstruction" in first.about and "e24b's is 50.0 % higher than e24a's at step 200" in first.says


@pytest.mark.parametrize("keys", [{"diffusion__beta_schedule": "cosine"}, {}])
def test_other_functions_are_named(tmp_path: Path, keys: dict[str, Any]) -> None:
    """Arms on two schedules. Catches a comparison of their unweighted losses without its limit."""
    write_run(tmp_path / "a", "e5")
    write_run(tmp_path / "b", "e6", **keys)
    study = load("e6").model_copy(update={"difference": ("*",)})
    sentences = answer(select(study, open_source(str(tmp_path))))
    limited = [s.about for s in sentences if "differ in diffusion.beta_schedule, so their losses" in s.says]
    assert limited == (["Hessian trace of the common unweighted loss", "Unweighted loss"] if keys else [])
