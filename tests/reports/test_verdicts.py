"""Verdicts: what they say, and what they must not say."""

from pathlib import Path

import pytest

from reports.experiments import Windows, load
from reports.experiments.selection import select
from reports.judging.checks import judge_criteria
from reports.sources import open_source
from reports.stats.statistics import COMMON, NEUTRAL, TRAINED, compare, numbers
from reports.text.verdicts import (
    all_verdicts,
    below_sentence,
    fid_verdicts,
    number,
    seed_verdicts,
    trace_verdicts,
    trend,
)
from tests.reports.conftest import chosen, noise_rows, rows_of, write_run


def text(root: Path, experiment: str) -> str:
    """All sentences of a report."""
    return " ".join(s for _, sentences in all_verdicts(chosen(root, experiment)) for s in sentences)


def test_original_e6(originals: Path) -> None:
    """Catches the study's own claims recomputed wrongly, or stated without their limits."""
    verdict = text(originals, "e6")
    assert (
        "e6's trace of its trained loss lies below e5's at 100 of 100 measurements, by 15.2 % on average "
        "(2.5 to 33.9 %)." in verdict
    )
    assert "traces of different functions" in verdict and "weighting's scale" in verdict
    assert "not logged in both arms, so these runs cannot tell how much of the difference is geometry" in verdict
    assert "train/loss of e6 and e5 are different quantities" in verdict
    assert "e5: FID rises over 5 milestones, from 203.61 at step 2000 to 206.16 at step 10000" in verdict
    assert "best 203.61 at step 2000, last 206.16" in verdict
    assert "One seed per arm: no interval across seeds can be given." in verdict
    assert "These runs cannot tell whether the differences exceed the variation between seeds." in verdict
    assert "within noise" not in verdict


def test_means_over_timesteps_of_two_schedules_are_not_compared(tmp_path: Path) -> None:
    """Arms on two schedules: no sentence and no number compares their trained or common losses or traces, whichever
    part of the report makes it; the neutral trace is compared. Without a neutral trace that is said.

    Catches the common trace of a cosine arm that is called larger although at equal noise it is smaller.
    """
    for name, keys in (("e5", {}), ("e9a", {"diffusion__beta_schedule": "cosine"})):
        rows = rows_of(name, 1) + noise_rows(name)
        write_run(
            tmp_path / "with" / name, name, rows=rows, curvature__draws="fixed", loss__weighting="constant", **keys
        )
        write_run(tmp_path / "without" / name, name, rows=rows_of(name, 1), **keys)
    study = load("e9").model_copy(update={"where": {}})
    for folder, said in (("with", "e9a's trace of the neutral loss lies"), ("without", "was not logged in both arms")):
        selection = select(study, open_source(str(tmp_path / folder)))
        verdict = " ".join(s for _, sentences in all_verdicts(selection) for s in sentences)
        assert said in verdict
        assert "train/loss of e9a and e5 is not compared: the schedules differ" in verdict
        assert "of the common unweighted loss lies" not in verdict
        assert "e9a's trace of its trained loss" not in verdict
        assert "e9a's train/loss lies" not in verdict
        compared = numbers(selection).query("experiment == 'e9a vs e5'")["metric"].unique()
        assert {TRAINED, COMMON, "train/loss", "train/mse"}.isdisjoint(compared)
        assert (NEUTRAL in compared) is (folder == "with")


def test_rising_fid_under_falling_loss_raises_the_alarm(originals: Path, two_seeds: Path) -> None:
    """Catches samples that are noise but are reported as a plain result, as in the original study."""
    assert "look at the samples and the sampler" in text(originals, "e5")
    assert "look at the samples" not in text(two_seeds, "e6")


def test_an_interval_around_zero_says_so(tmp_path: Path) -> None:
    """Catches any difference that is reported as a real one."""
    write_run(tmp_path / "a", "e1", seed=1)
    write_run(tmp_path / "b", "e5", seed=1, rows=rows_of("e1", 9))
    verdict = " ".join(trace_verdicts(chosen(tmp_path, "e5")))
    assert "includes 0" in verdict and "different functions" not in verdict


def test_mixed_signs_are_told_apart(two_seeds: Path) -> None:
    """Catches `above at 8 of 20 by 4 % on average` for a curve that is below at most steps."""
    e5, e6 = chosen(two_seeds, "e6").arms
    found = compare(e5, e6, "train/mse", Windows())
    assert found is not None and found.min_change_pct < 0 < found.max_change_pct
    sentence = below_sentence(found, "train/mse", "logged steps")
    below, above = found.lower_count, found.higher_count
    assert f"below e5's at {below} of 20 logged steps and above it at {above}" in sentence
    assert f"{found.mean_change_pct:+.1f} % on average" in sentence


def test_seeds_are_counted(two_seeds: Path, originals: Path) -> None:
    """Catches an interval across seeds for a single seed, and an unused spread of several seeds."""
    assert "Seeds per arm: e5 2, e6 2." in seed_verdicts(chosen(two_seeds, "e6").arms)[0]
    assert "within the noise of the seeds" in " ".join(fid_verdicts(chosen(two_seeds, "e6")))
    assert "noise of" not in " ".join(fid_verdicts(chosen(originals, "e6")))


@pytest.mark.parametrize(("fid", "side"), [(55.0, "apart beyond"), (41.0, "within")])
def test_the_noise_of_samples_is_said_of_single_seeds(tmp_path: Path, fid: float, side: str) -> None:
    """FIDs of 40 and 55 with errors of 3 and 4: the difference is known to 1.96 * 5. Catches "cannot be said" although
    the table's own bars show it, bars added in place of their squares, and a criterion that the bars decide."""
    for name, value, error in (("e5", 40.0, 3.0), ("e6", fid, 4.0)):
        row = {"val/fid": value, "val/fid_sem": error, "val/fid_protocol": "aaaa1111"}
        write_run(tmp_path / name, name, rows=[(200, row)], eval__sample_seed=0)
    selection = chosen(tmp_path, "e6")
    said = f"{side} the noise of the samples ({fid - 40:+.2f} ± 9.80); seeds unknown"
    verdict = " ".join(fid_verdicts(selection))
    assert f"At step 200 e6 and e5 are {said}." in verdict and "both start from the same noise" in verdict
    (criterion,) = [found for found in judge_criteria(selection) if "samples better" in found.says]
    assert criterion.verdict == "undecided" and criterion.outcomes[0].verdict.reason.endswith(said)


def test_mixed_protocols_void_the_difference(tmp_path: Path) -> None:
    """Catches a difference between two protocols that is reported like a result because the user allowed mixing."""
    write_run(tmp_path / "a", "e5")
    write_run(tmp_path / "b", "e6", protocol="cccc3333")
    assert "this difference means nothing" in " ".join(fid_verdicts(chosen(tmp_path, "e6")))


def test_without_a_baseline_nothing_is_compared(tmp_path: Path) -> None:
    """Catches an exception, or a comparison without a baseline."""
    write_run(tmp_path / "e6", "e6")
    verdict = text(tmp_path, "e6")
    assert "e6: train/loss falls" in verdict and "e5" not in verdict


@pytest.mark.parametrize(
    ("values", "word"),
    [([1, 2, 2, 3], "rises"), ([3, 1], "falls"), ([1, 3, 2], "is mixed"), ([2, 2], "is flat")],
)
def test_trend(values: list[float], word: str) -> None:
    """Catches a curve that is called rising only because its ends differ."""
    assert trend(values) == word


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.10239, "0.1024"),
        (591.149, "591.1"),
        (1008.7, "1009"),
        (4.867e-5, "4.867e-05"),
        (0.0, "0"),
        (123456.0, "123,456"),
        (None, "–"),
        (-62.4588, "-62.46"),
    ],
)
def test_number(value: float | None, shown: str) -> None:
    """Catches digits lost or invented in sentences and tables."""
    assert number(value) == shown
