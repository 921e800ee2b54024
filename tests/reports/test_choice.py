"""Which runs a report compares."""

import json
from pathlib import Path

import pytest

from ddpm.config.files import load_config
from ddpm.config.run import is_bookkeeping
from ddpm.errors import UserError
from reports.experiments.selection import Arm, Selection, filtered
from reports.report import make_report
from reports.sources import open_source
from tests.reports.conftest import chosen, write_run


def ids(selection: Selection) -> dict[str, list[str]]:
    """experiment -> names of the folders of its chosen runs."""
    arms = (*selection.arms, *selection.context)
    return {arm.experiment: [run.source.name for run in arm.runs] for arm in arms}


def test_originals(originals: Path) -> None:
    """Catches declared differences of e5 and e6 that do not cover the original configs."""
    for experiment, arms in (("e1", ["e1"]), ("e5", ["e1", "e5"]), ("e6", ["e5", "e6", "e1"])):
        selection = chosen(originals, experiment)
        assert list(ids(selection)) == arms
        assert not (selection.warnings or selection.missing or selection.left_out)


def test_newest_rerun_of_a_seed_wins(tmp_path: Path) -> None:
    """Catches a rerun averaged with the run that it replaces, and an old run that is kept."""
    write_run(tmp_path / "old", "e5", started="2026-01-01T00:00:00+00:00")
    write_run(tmp_path / "new", "e5", started="2026-02-01T00:00:00+00:00")
    write_run(tmp_path / "other seed", "e5", seed=2)
    write_run(tmp_path / "e6", "e6")
    selection = chosen(tmp_path, "e6")
    assert ids(selection) == {"e5": ["new", "other seed"], "e6": ["e6"]}
    assert any("old" in line and "newer run" in line for line in selection.left_out)


def test_the_setting_with_all_arms_wins_over_a_newer_one(tmp_path: Path) -> None:
    """Catches a linear-schedule baseline compared with a cosine-schedule variant."""
    write_run(tmp_path / "e5 linear", "e5")
    write_run(tmp_path / "e6 linear", "e6")
    write_run(tmp_path / "e6 cosine", "e6", started="2026-09-01T00:00:00+00:00", diffusion__beta_schedule="cosine")
    selection = chosen(tmp_path, "e6")
    assert ids(selection) == {"e5": ["e5 linear"], "e6": ["e6 linear"]}
    assert not selection.warnings
    assert any("diffusion.beta_schedule = cosine, not linear" in line for line in selection.left_out)


def test_keys_that_change_no_number_make_no_other_setting(tmp_path: Path) -> None:
    """All bookkeeping keys of the config count as the same setting. One is train.skip_nonfinite, which a diverged run
    is told to raise. Catches a seed that is left out because of such a key."""
    changed = {"train.skip_nonfinite": 7, "data.num_workers": 9, "checkpoint.every": 3, "device": "cuda:1"}
    assert all(map(is_bookkeeping, changed))
    write_run(tmp_path / "a", "e5")
    write_run(tmp_path / "b", "e5", seed=2, **{key.replace(".", "__"): value for key, value in changed.items()})
    write_run(tmp_path / "e6", "e6")
    selection = chosen(tmp_path, "e6")
    assert ids(selection) == {"e5": ["a", "b"], "e6": ["e6"]}


def test_equal_images_are_one_data_set_whatever_their_folder_is_called(tmp_path: Path) -> None:
    """Seeds that trained on the same images under two paths are of one arm, and a note says so. Other images under one
    path are another setting. Catches a comparison that splits by a machine's paths, and one that mixes data sets."""
    for name, arm, seed, root, images in (
        ("a", "e5", 1, "here/cifar10", "1234"),
        ("b", "e5", 2, "there/cifar10", "1234"),
        ("c", "e6", 1, "there/cifar10", "1234"),
        ("d", "e5", 3, "elsewhere", "9999"),
    ):
        folder = write_run(tmp_path / name, arm, seed, data__dataset="folder", data__root=root)
        card = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps(card | {"data": {"digest": images, "n": 9}}))
    selection = chosen(tmp_path, "e6")
    assert ids(selection) == {"e5": ["a", "b"], "e6": ["c"]} and not selection.warnings
    notes = [note for arm in selection.arms for run in arm.runs for note in run.notes]
    assert len(notes) == 2 and all("there/cifar10, holds the same images (digest 1234)" in note for note in notes)
    assert any("d" in line and "data.root = elsewhere" in line for line in selection.left_out)
    assert ids(chosen(tmp_path, "e6", "data.root=there/cifar10")) == {
        "e5": ["b"],
        "e6": ["c"],
    }  # the name in its config


def test_of_complete_settings_the_newest_wins(tmp_path: Path) -> None:
    """Catches a choice that depends on file order."""
    for schedule, start in (("linear", "2026-03-01"), ("cosine", "2026-02-01")):
        for experiment in ("e5", "e6"):
            write_run(
                tmp_path / f"{schedule} {experiment}",
                experiment,
                started=f"{start}T00:00:00+00:00",
                diffusion__beta_schedule=schedule,
            )
    assert ids(chosen(tmp_path, "e6")) == {"e5": ["linear e5"], "e6": ["linear e6"]}
    where = "diffusion.beta_schedule=cosine"
    assert ids(chosen(tmp_path, "e6", where)) == {"e5": ["cosine e5"], "e6": ["cosine e6"]}


def test_without_a_complete_setting_the_difference_is_a_warning(tmp_path: Path) -> None:
    """Catches an uncontrolled comparison that looks controlled."""
    write_run(tmp_path / "e5", "e5")
    write_run(tmp_path / "e6", "e6", diffusion__beta_schedule="cosine")
    (warning,) = chosen(tmp_path, "e6").warnings
    assert "diffusion.beta_schedule: e5 linear, e6 cosine" in warning


def test_seeds_of_one_arm_share_a_setting_even_in_declared_keys(tmp_path: Path) -> None:
    """Catches a mean over gamma 5 and gamma 1, or over 200 and 10,000 steps, that is called a mean over seeds."""
    write_run(tmp_path / "e5", "e5")
    write_run(tmp_path / "gamma 5", "e6", seed=1, started="2026-02-01T00:00:00+00:00")
    write_run(tmp_path / "gamma 1", "e6", seed=2, loss__minsnr_gamma=1.0)
    selection = chosen(tmp_path, "e6")
    assert ids(selection)["e6"] == ["gamma 5"]
    assert any("loss.minsnr_gamma = 1.0, not 5.0" in line for line in selection.left_out)


def test_bookkeeping_makes_no_setting(tmp_path: Path) -> None:
    """Catches runs that are kept apart because they have other folders or tags."""
    write_run(tmp_path / "e5", "e5", out_dir="a", logging__log_every_n_steps=5, device="cpu")
    write_run(tmp_path / "e6", "e6", out_dir="b", study_name="x")
    assert not chosen(tmp_path, "e6").warnings


def test_a_newer_run_of_another_weighting_is_not_the_baseline(tmp_path: Path) -> None:
    """`--loss.weighting=p2` keeps the name e5. Catches a page called "Min-SNR against constant weighting" that compares
    with p2, and one that does not say why the run is left out."""
    write_run(tmp_path / "real", "e5")
    write_run(tmp_path / "p2", "e5", started="2026-09-01T00:00:00+00:00", loss__weighting="p2")
    write_run(tmp_path / "e6", "e6")
    selection = chosen(tmp_path, "e6")
    assert ids(selection) == {"e5": ["real"], "e6": ["e6"]} and not selection.warnings
    (why,) = [line for line in selection.left_out if "(context)" not in line]
    assert why == "e5 seed 1 (run e5-s1-p2): its loss.weighting is p2, not constant, as the experiment asks for"


def test_only_runs_of_another_weighting_are_none(tmp_path: Path) -> None:
    """Catches `No runs of e6`, without the reason, for a folder that holds one."""
    write_run(tmp_path / "e6", "e6", loss__weighting="p2")
    with pytest.raises(UserError, match=r"No runs of .*Left out: e6 seed 1 .*its loss.weighting is p2, not minsnr"):
        chosen(tmp_path, "e6")


def test_a_whole_number_meets_a_condition_however_it_is_written(tmp_path: Path) -> None:
    """Catches a run with gamma 5 that is left out because the experiment says 5.0, and one with `true` that is accepted
    for 1."""
    runs = open_source(str(write_run(tmp_path / "e6", "e6", loss__minsnr_gamma=5, curvature__enabled=True).parent))
    assert filtered(runs, ["loss.minsnr_gamma=5.0"]) and not filtered(runs, ["curvature.enabled=1"])


@pytest.mark.usefixtures("few_figures")
def test_several_values_that_the_experiment_leaves_open_are_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seed 1 has gamma 5; the newer seed 2 has gamma 3. The arm shows one of them. Catches a mean over both, and a
    choice of the newest without a warning on the page and on stderr."""
    write_run(tmp_path / "runs" / "e5", "e5")
    write_run(tmp_path / "runs" / "five", "e6")
    write_run(tmp_path / "runs" / "three", "e6", seed=2, started="2026-09-01T00:00:00+00:00", loss__minsnr_gamma=3.0)
    page = make_report("e6", str(tmp_path / "runs"), tmp_path / "out").with_suffix(".md").read_text()
    said = "e6 has runs with several values of loss.minsnr_gamma: 3.0 (the"
    assert ids(chosen(tmp_path / "runs", "e6"))["e6"] == ["three"]
    assert f"ddpm: warning: {said}" in capsys.readouterr().err
    assert f"**Warning: {said}" in page.replace("\\", "")


def test_a_missing_baseline_leaves_a_report_with_a_gap(tmp_path: Path) -> None:
    """Catches a missing report, or one that hides that its baseline is absent."""
    write_run(tmp_path / "e6", "e6")
    selection = chosen(tmp_path, "e6")
    assert selection.missing == ("e5",) and selection.baseline is None and len(selection.arms) == 1


def test_the_requested_experiment_must_be_there(tmp_path: Path) -> None:
    """Catches a report called e6 that shows only e5."""
    write_run(tmp_path / "e5", "e5")
    with pytest.raises(UserError, match=r"No runs of `e6`.*Experiments there: e5"):
        chosen(tmp_path, "e6")


def test_no_arm_at_all_lists_what_is_there(tmp_path: Path) -> None:
    """Catches an empty report for the wrong source."""
    write_run(tmp_path / "x", "e19")
    with pytest.raises(UserError, match=r"Experiments there: e19"):
        chosen(tmp_path, "e6")


def test_bad_and_empty_filters(tmp_path: Path) -> None:
    """Catches a filter without `=` that is ignored, and an unfiltered report from a filter that matches nothing."""
    write_run(tmp_path / "e6", "e6")
    with pytest.raises(UserError, match="key=value"):
        chosen(tmp_path, "e6", "seed")
    with pytest.raises(UserError, match="seed=99"):
        chosen(tmp_path, "e6", "seed=99")
    assert chosen(tmp_path, "e6", "seed=1", "loss.weighting=minsnr").arms


def test_runs_without_metrics_are_left_out(tmp_path: Path) -> None:
    """Catches a run that crashed at the start but replaces a whole one because it is newer."""
    write_run(tmp_path / "e6", "e6")
    write_run(tmp_path / "empty", "e6", rows=[], started="2026-09-01T00:00:00+00:00")
    selection = chosen(tmp_path, "e6")
    assert ids(selection)["e6"] == ["e6"]
    assert any("no metrics logged" in line for line in selection.left_out)


def test_arm_config_knows_old_defaults(originals: Path) -> None:
    """Catches the original e1, which has no loss section, shown with another weighting."""
    arm: Arm = chosen(originals, "e1").arms[0]
    assert arm.config["loss.weighting"] == "constant"


def test_a_run_from_before_a_key_is_of_the_same_setting(tmp_path: Path) -> None:
    """The older seed has no `eval.kid` yet, and the newer one has another cache folder. Both belong to the arm. A run
    probed on other draws does not. Catches seeds that a report drops because the package was updated between them."""
    smoke = load_config(Path(__file__).parents[2] / "configs/smoke/e5.yaml").nested()
    config = {key: value for key, value in smoke.items() if key not in ("experiment", "seed")}
    older = {**config, "eval": {key: value for key, value in config["eval"].items() if key != "kid"}}
    write_run(tmp_path / "a", "e5", seed=1, **older)
    write_run(tmp_path / "b", "e5", seed=2, **{**config, "cache_dir": "/elsewhere"})
    selection = chosen(tmp_path, "e5")
    assert [run.seed for run in selection.arms[0].runs] == [1, 2], selection.left_out
    draws = {key: value for key, value in config["curvature"].items() if key != "draws"}
    write_run(tmp_path / "c", "e5", seed=3, started="2025-01-01T00:00:00+00:00", **{**config, "curvature": draws})
    selection = chosen(tmp_path, "e5")
    assert [run.seed for run in selection.arms[0].runs] == [1, 2]
    assert any("curvature.draws" in reason for reason in selection.left_out)
