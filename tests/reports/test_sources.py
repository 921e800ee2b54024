"""Opening a source, run folders, and what both readers must agree on."""

import json
from pathlib import Path

import pytest

from ddpm.errors import UserError
from reports.sources import open_source
from tests.reports.conftest import WandbRuns, write_run


def test_bad_sources_say_what_was_looked_for(tmp_path: Path) -> None:
    """Catches: a traceback, or an empty report, for a wrong path."""
    with pytest.raises(UserError, match="no such folder"):
        open_source(str(tmp_path / "absent"))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        open_source(str(tmp_path / "file"))
    (tmp_path / "file").unlink()
    with pytest.raises(UserError, match=r"loss\.jsonl.*run-\*\.wandb"):
        open_source(str(tmp_path))


def test_original_logs(originals: Path) -> None:
    """Catches: the original study's files misread: their experiment, steps, seed, commit or protocol."""
    e1, e5, e6 = open_source(str(originals))
    assert [run.experiment for run in (e1, e5, e6)] == ["e1", "e5", "e6"]
    assert {run.seed for run in (e1, e5, e6)} == {1077}
    assert (e1.last_step, e5.last_step) == (50_000, 10_000)
    assert len(e5.series("curvature/hutch_trace_mean")) == 100
    assert "mins_snr_curve/weight" not in e6.history.columns
    assert e5.commit == "944a5b76537a255a2d990508fa766d65b9731ca7"
    assert e5.state == "finished" and e5.started is None and not e5.notes
    assert e1.protocol_of("val/fid") == e5.protocol_of("val/fid") == e6.protocol_of("val/fid")
    assert e5.protocols[e5.protocol_of("val/fid")]["nfe"] == 50
    assert e5.protocol_of("final/fid") != e5.protocol_of("val/fid")  # 10,000 samples, not 5,000


def test_our_run_folder(tmp_path: Path) -> None:
    """Catches: run.json ignored, grids' steps misread, recorded fingerprints lost."""
    write_run(tmp_path / "any name", "e5", seed=3)
    (run,) = open_source(str(tmp_path))
    assert (run.id, run.experiment, run.seed) == ("e5-s3-any name", "e5", 3)
    assert run.started is not None and run.started.year == 2026
    assert sorted(run.grids) == [100, 200]
    assert run.protocol_of("val/fid") == "aaaa1111" and run.protocol_of("final/fid") == "bbbb2222"
    assert "val/fid_protocol" not in run.history.columns


def test_a_run_that_is_still_going(tmp_path: Path) -> None:
    """Catches: a missing results.jsonl or a half-written last line stopping the whole report."""
    folder = write_run(tmp_path / "r", "e5", finished=False)
    with (folder / "loss.jsonl").open("a") as file:
        file.write('{"_i": 210, "out": {"train/lo')
    (run,) = open_source(str(tmp_path))
    assert run.state == "unfinished" and run.last_step == 200
    assert run.notes == ("loss.jsonl: 1 malformed line(s) were skipped (line 24)",)


def test_malformed_lines_are_counted(tmp_path: Path) -> None:
    """Catches: rows lost without a word."""
    good = json.dumps({"_i": 1, "out": {"train/loss": 1.0}})
    folder = tmp_path / "e9"
    folder.mkdir()
    (folder / "loss.jsonl").write_text("\n".join(["garbage", good, "[1]", '{"_i": "x", "out": {}}', "", good]))
    (run,) = open_source(str(tmp_path))
    assert run.experiment == "e9" and len(run.history) == 1
    assert any("2 malformed line(s)" in note for note in run.notes)
    assert any("1 line(s) without a step" in note for note in run.notes)


def test_both_kinds_give_the_same_run(wandb_runs: WandbRuns) -> None:
    """Catches: any difference between what the two readers deliver for the same training."""
    for ours, theirs in zip(open_source(str(wandb_runs.folders)), open_source(str(wandb_runs.wandb)), strict=True):
        shared = [column for column in theirs.history.columns if column != "no_step_of_its_own"]
        assert sorted(shared) == sorted(ours.history.columns)
        assert ours.history[shared].equals(theirs.history[shared])
        assert (ours.id, ours.experiment, ours.seed) == (theirs.id, theirs.experiment, theirs.seed)
        assert ours.fingerprints == theirs.fingerprints and ours.protocols == theirs.protocols
        assert ours.commit == theirs.commit and ours.state == theirs.state == "finished"
        assert {k: v for k, v in theirs.config.items() if k != "commit"} == ours.config
        assert sorted(theirs.grids) == [100, 200]
        assert theirs.grids[200].read_bytes()[:4] == b"\x89PNG"


def test_run_folders_come_before_wandb_files(wandb_runs: WandbRuns) -> None:
    """Catches: every run twice in a folder that holds both kinds."""
    assert len(open_source(str(wandb_runs.folders.parent))) == 2
