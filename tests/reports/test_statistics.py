"""Numbers against the original study's published ones and against closed forms."""

import math
from pathlib import Path

import pandas as pd
import pytest

from ddpm.errors import UserError
from reports.experiments import Windows
from reports.experiments.selection import Arm
from reports.protocols import check_protocols, protocol_difference
from reports.runs import Run
from reports.stats.statistics import (
    COLUMNS,
    COMMON,
    TRAINED,
    compare,
    curve,
    describe,
    in_window,
    numbers,
    standard_error,
    weightings_differ,
)
from reports.text.verdicts import trace_verdicts
from tests.reports.conftest import chosen, write_run

PUBLISHED = {
    ("e5", "train/loss", "first"): (0.1948, 5e-5),
    ("e5", "train/loss", "last"): (0.0135, 5e-5),
    ("e5", "train/loss", "early_mean"): (0.1024, 5e-5),
    ("e5", "train/loss", "late_mean"): (0.0407, 6e-5),
    ("e5", "train/loss", "drop_pct"): (60, 0.5),
    ("e5", "train/grad_global_L2", "early_mean"): (0.2071, 5e-5),
    ("e5", "train/grad_global_L2", "late_mean"): (0.1220, 5e-5),
    ("e5", TRAINED, "first"): (1009, 0.5),
    ("e5", TRAINED, "last"): (328, 0.5),
    ("e5", TRAINED, "early_mean"): (591.1, 0.06),
    ("e5", TRAINED, "late_mean"): (329.7, 0.06),
    ("e5", TRAINED, "drop_pct"): (44, 0.5),
    ("e5", "val/fid", "at_2000"): (203.61, 0.005),
    ("e5", "val/fid", "at_4000"): (204.55, 0.005),
    ("e5", "val/fid", "at_6000"): (205.24, 0.005),
    ("e5", "val/fid", "at_8000"): (205.77, 0.006),
    ("e5", "val/fid", "at_10000"): (206.16, 0.005),
    ("e5", "val/fid", "min_step"): (2000, 0),
    ("e6 vs e5", TRAINED, "paired_count"): (100, 0),
    ("e6 vs e5", TRAINED, "lower_count"): (100, 0),
    ("e6 vs e5", TRAINED, "mean_change_pct"): (-15.2, 0.05),
    ("e6 vs e5", TRAINED, "max_change_pct"): (-2.5, 0.05),
    ("e6 vs e5", TRAINED, "min_change_pct"): (-33.9, 0.05),
}


def test_published_numbers_are_recomputed(originals: Path) -> None:
    """Catches any change of window, average or pairing that moves the numbers away from the study's."""
    table = numbers(chosen(originals, "e6"))
    assert list(table.columns) == COLUMNS
    values = {(row[0], row[1], row[2]): row[3] for row in table.itertuples(index=False)}
    assert len(values) == len(table), "every number once"
    for key, (expected, tolerance) in PUBLISHED.items():
        assert values[key] == pytest.approx(expected, abs=tolerance, rel=0), key


def test_windows_hold_the_steps_they_say(originals: Path) -> None:
    """Catches an off-by-one at a window's edge (100-2000 and 8000-10000 of a 10k run)."""
    values = pd.Series(1.0, index=range(0, 10_001, 100))
    early, late = in_window(values, 10_000, (0.0, 0.2)), in_window(values, 10_000, (0.8, 1.0))
    assert (early.index[0], early.index[-1]) == (100, 2000)
    assert (late.index[0], late.index[-1]) == (8000, 10_000)


def test_describe_closed_form() -> None:
    """Catches swapped first, last or min, and a drop with the wrong sign."""
    values = pd.Series([8.0, 4.0, 1.0, 2.0], index=[1, 2, 9, 10])
    stats = describe(values, 10, Windows())
    assert stats == {
        **{"first": 8.0, "last": 2.0, "early_mean": 6.0, "late_mean": 1.5, "drop_pct": 75.0},
        **{"min": 1.0, "min_step": 9.0},
    }
    assert describe(values.iloc[:0], 10, Windows()) == {}


def test_standard_error_from_std_equals_the_logged_one(tmp_path: Path, two_seeds: Path, originals: Path) -> None:
    """Catches sqrt(probes) in place of sqrt(probes - 1) for a population std, seeds that are not combined, and an error
    of draws that all seeds share divided by sqrt(2)."""
    e5 = chosen(originals, "e5").arms[1]
    first = standard_error(e5, TRAINED).loc[100]
    assert first == pytest.approx(78.78636932373047 / math.sqrt(15))
    for seed in (1, 2):
        write_run(tmp_path / f"seed{seed}", "e6", seed, curvature__draws="batch")
    own, shared = (chosen(root, "e6").arms[-1] for root in (tmp_path, two_seeds))
    assert standard_error(own, TRAINED).iloc[0] == pytest.approx(20 / math.sqrt(3) / math.sqrt(2))
    assert standard_error(shared, TRAINED).iloc[0] == pytest.approx(20 / math.sqrt(3))


def test_the_error_of_fids_of_one_noise_does_not_average_out_over_seeds() -> None:
    """Catches an error bar divided by sqrt(2) although the second training was scored with the same noise."""
    history = pd.DataFrame({"val/fid": [30.0], "val/fid_sem": [1.5]}, index=pd.Index([2000], name="step"))
    runs = [Run(str(seed), "e5", seed, {}, history, Path(str(seed))) for seed in (1, 2)]
    arm = Arm("e5", "baseline", tuple(runs))
    assert standard_error(arm, "val/fid").loc[2000] == pytest.approx(1.5)


def test_seed_means_end_where_the_shortest_seed_ends(tmp_path: Path) -> None:
    """Catches a jump in the mean curve at the step where one seed stops."""
    write_run(tmp_path / "whole", "e1", seed=1, rows=[(s, {"train/loss": 1.0}) for s in (10, 20, 30)])
    write_run(tmp_path / "part", "e1", seed=2, rows=[(s, {"train/loss": 3.0}) for s in (10, 20)])
    assert curve(chosen(tmp_path, "e1").arms[0], "train/loss").to_dict() == {10: 2.0, 20: 2.0}


def test_comparison_closed_form(tmp_path: Path) -> None:
    """Catches a change relative to the variant, unpaired steps that count, and the wrong standard error."""
    sem = {"curvature/ref_trace_sem": 3.0}
    base = [(s, {COMMON: 100.0, **sem}) for s in (10, 20, 90, 100)]
    variant = [(10, {COMMON: 50.0, **sem}), (20, {COMMON: 110.0, **sem}), (100, {COMMON: 80.0, **sem})]
    write_run(tmp_path / "e5", "e5", rows=base)
    write_run(tmp_path / "e6", "e6", rows=variant)
    e5, e6 = chosen(tmp_path, "e6").arms
    found = compare(e5, e6, COMMON, Windows())
    assert found is not None
    assert (found.paired_count, found.lower_count, found.higher_count) == (3, 2, 1)
    assert (found.min_change_pct, found.max_change_pct) == (-50.0, pytest.approx(10.0))
    assert found.mean_change_pct == pytest.approx(-20.0) and found.mean_difference == pytest.approx(-20.0)
    assert found.late_mean_difference == -20.0 and found.late_mean_change_pct == -20.0
    assert found.mean_difference_sem == pytest.approx(math.sqrt(6 * 9) / 3)
    assert compare(e5, e6, "train/mse", Windows()) is None


def test_steps_do_not_average_out_the_error_of_equal_draws(tmp_path: Path) -> None:
    """With `curvature.draws: fixed`, three steps with errors 3 and 4 leave sqrt(3^2 + 4^2), and the page says
    that the draws are shared.

    Catches an error bar that shrinks with every step that measures the same draws again.
    """
    for arm, sem in (("e5", 3.0), ("e6", 4.0)):
        rows = [(s, {COMMON: 100.0, "curvature/ref_trace_sem": sem, "train/loss": 1.0}) for s in (10, 20, 30)]
        write_run(tmp_path / arm, arm, rows=rows, curvature={"enabled": True, "draws": "fixed"})
    selection = chosen(tmp_path, "e6")
    found = compare(*selection.arms[:2], COMMON, Windows())
    assert found is not None
    assert found.mean_difference_sem == pytest.approx(5)
    assert any("both arms share their draws, so" in sentence for sentence in trace_verdicts(selection))


def test_errors_are_looked_up_by_the_name_of_their_quantity(tmp_path: Path) -> None:
    """The improved trace's error is its own `_sem`. A quantity without a `_sem` has no error. Catches a trace in place
    of its own error."""
    row = {"curvature/ref_trace_improved": 50.0, "curvature/ref_trace_improved_sem": 2.0, "curvature/missing": 0.0}
    write_run(tmp_path / "e5", "e5", rows=[(10, row)])
    (arm,) = chosen(tmp_path, "e5").arms
    assert standard_error(arm, "curvature/ref_trace_improved").to_dict() == {10: 2.0}
    assert standard_error(arm, "curvature/missing").empty


def test_zero_and_negative_baselines(tmp_path: Path) -> None:
    """Catches infinite percentages, and a trace that became more negative but counts as an increase."""
    write_run(tmp_path / "e5", "e5", rows=[(10, {TRAINED: 0.0}), (20, {TRAINED: -10.0})])
    write_run(tmp_path / "e6", "e6", rows=[(10, {TRAINED: 1.0}), (20, {TRAINED: -15.0})])
    e5, e6 = chosen(tmp_path, "e6").arms
    found = compare(e5, e6, TRAINED, Windows())
    assert found is not None and found.mean_change_pct == pytest.approx(-50.0)


def test_seed_ranges_are_in_the_numbers(two_seeds: Path, originals: Path) -> None:
    """Catches several seeds reported without their spread, and single seeds reported with one."""
    table = numbers(chosen(two_seeds, "e6"))
    picked = table[(table.experiment == "e5") & (table.metric == "val/fid")]
    stats = picked.set_index("statistic")["value"]
    assert stats["at_200_lowest_seed"] < stats["at_200"] < stats["at_200_highest_seed"]
    assert stats["seeds"] == 2
    assert not table[table.metric == "final/fid"].empty
    single = numbers(chosen(originals, "e6"))
    assert not single["statistic"].str.contains("seed").any()


def test_weightings(originals: Path, tmp_path: Path) -> None:
    """Catches different losses for e1 (no loss section) and e5, and the same loss for e5 and e6."""
    assert weightings_differ(chosen(originals, "e6").arms)
    assert not weightings_differ(chosen(originals, "e5").arms)


def test_gamma_of_a_constant_weighting_does_not_matter(tmp_path: Path) -> None:
    """Catches an unused gamma that makes two constant weightings differ."""
    write_run(tmp_path / "a", "e1", loss__minsnr_gamma=1.0)
    write_run(tmp_path / "b", "e5", loss__minsnr_gamma=5.0)
    assert not weightings_differ(chosen(tmp_path, "e5").arms)


def test_mixed_protocols_are_refused_by_name(tmp_path: Path) -> None:
    """Catches a comparison of FIDs by DDPM-50 and DDIM-20 without an error."""
    write_run(tmp_path / "a", "e5")
    write_run(tmp_path / "b", "e6", protocol="cccc3333")
    arms = chosen(tmp_path, "e6").arms
    with pytest.raises(UserError) as refusal:
        check_protocols(arms, "val/fid", allow_mixed=False)
    for part in ("e5 seed 1", "e6 seed 1", "nfe = 50", "nfe = 20", "sampler = ddim"):
        assert part in str(refusal.value)
    assert "n_samples" not in str(refusal.value)  # only differing fields are named
    note = check_protocols(arms, "val/fid", allow_mixed=True)
    assert note is not None and "not comparable" in note
    assert protocol_difference(arms, "final/fid") is None
