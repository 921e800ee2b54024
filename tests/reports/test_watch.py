"""Runs that are read again as their files grow."""

import json
from pathlib import Path

import pytest

from ddpm.errors import UserError
from reports.sources import watch
from reports.sources.watch import Watch
from tests.reports.conftest import WandbRuns, write_run


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_REST", 0.0)


def _read(watched: Watch) -> list[str]:
    return [run.experiment for found in watched.changes() for run in found.runs]


def test_only_the_run_that_grew_is_read_again(two_seeds: Path, tmp_path: Path) -> None:
    """Catches a page that reads everything every second, and one that misses new rows, runs, grids or the end."""
    a = write_run(tmp_path / "a", "e5", finished=False)
    write_run(tmp_path / "b", "e6")
    watched = Watch(str(tmp_path))
    assert _read(watched) == ["e5", "e6"]
    assert _read(watched) == []
    with (a / "loss.jsonl").open("a") as file:
        file.write(json.dumps({"_i": 210, "out": {"train/loss": 0.5}}) + "\n")
    (found,) = watched.changes()
    assert found.runs[0].last_step == 210
    (a / "samples" / "step-000210.png").write_bytes((a / "samples" / "step-000200.png").read_bytes())
    assert _read(watched) == ["e5"]
    (a / "results.jsonl").write_text(json.dumps({"cfg": {}, "out": {"seed": 1}, "_i": 0}) + "\n")
    (found,) = watched.changes()
    assert found.runs[0].state == "finished"
    write_run(tmp_path / "c", "e1")
    assert _read(watched) == ["e1"] and len(watched) == 3


def test_the_files_of_one_wandb_run_are_one_run(wandb_runs: WandbRuns) -> None:
    """Catches a W&B folder that is not watched, or a link that makes a run appear twice."""
    watched = Watch(str(wandb_runs.wandb))
    assert sorted(_read(watched)) == ["e5", "e6"] and len(watched) == 2
    assert _read(watched) == []


def test_a_run_that_was_removed_is_gone(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", "e5")
    write_run(tmp_path / "b", "e6")
    watched = Watch(str(tmp_path))
    assert len(_read(watched)) == 2
    (a / "loss.jsonl").unlink()
    (found,) = watched.changes()
    assert found.key == str(a) and found.runs == [] and found.problem == ""
    assert list(watched.changes()) == []


@pytest.mark.parametrize("source", ["{tmp}/none", "{tmp}/file", "{tmp}", "wandb:a/b"])
def test_a_source_without_runs_is_refused(tmp_path: Path, source: str) -> None:
    """Catches a page that stays empty without a word."""
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"no such folder|is a file|no runs found|--publish a/b"):
        Watch(source.format(tmp=tmp_path))
