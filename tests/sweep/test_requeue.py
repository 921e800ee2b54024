"""Which runs of a server's sweep are run again, for every state that W&B knows."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ddpm.sweep import requeue
from ddpm.sweep.jobs import Job
from tests.training.test_train import NO_WANDB, PLAIN, tiny

# The states of wandb.apis.public.Run. True: the run is continued here, because something ended it before it was done.
FATES = {
    "crashed": True,  # no longer sends a heartbeat
    "failed": True,
    "killed": True,
    "preempted": True,
    "preempting": False,  # still running, will soon have one of the other states
    "running": False,
    "pending": False,
    "finished": False,
}


def _run(folder: Path, state: str, seed: int, config: dict[str, Any] | None = None) -> Any:
    cfg = tiny(folder, *PLAIN, NO_WANDB, f"--seed={seed}")
    return SimpleNamespace(id=f"id-{state}-{seed}", state=state, config=config or {**cfg.nested(), "run_id": "x"})


def _lost(monkeypatch: pytest.MonkeyPatch, folder: Path, runs: list[Any], config: dict[str, Any]) -> list[Job]:
    monkeypatch.setattr(requeue, "_ask", lambda name: (SimpleNamespace(config=config), runs))
    return requeue.lost_runs("team/project/abc", [], folder / "logs")


@pytest.mark.parametrize("state", FATES)
def test_every_state_has_its_fate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    """Two runs have the state: both are continued, or neither is. Catches a state that is passed over, and a run that
    is started while it is still running."""
    runs = [_run(tmp_path, state, seed) for seed in (1, 2)]
    jobs = _lost(monkeypatch, tmp_path, runs, {})
    assert [job.cfg.seed for job in jobs] == ([1, 2] if FATES[state] else [])


def test_the_states_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The states are printed with their numbers, and a note says that a run killed a moment ago still counts as
    running. Catches a run that is silently missing."""
    runs = [_run(tmp_path, state, seed) for seed, state in enumerate(["killed", "running", "killed", "finished"])]
    assert [job.cfg.seed for job in _lost(monkeypatch, tmp_path, runs, {})] == [0, 2]
    said = capsys.readouterr().out
    assert "team/project/abc: 1 finished, 2 killed, 1 running" in said and "requeue later" in said
    _lost(monkeypatch, tmp_path, runs[:1], {})
    assert "requeue later" not in capsys.readouterr().out
    assert _lost(monkeypatch, tmp_path, [], {}) == [] and "no runs yet" in capsys.readouterr().out


def test_a_run_is_continued_as_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run keeps its own W&B id, sweep and config, whatever the sweep's file says by now. Catches a new run in place
    of the old one, and the sweep's config in place of the run's."""
    (job,) = _lost(monkeypatch, tmp_path, [_run(tmp_path, "crashed", 7)], {"method": "grid", "parameters": {}})
    ids = {"WANDB_ENTITY": "team", "WANDB_PROJECT": "project", "WANDB_SWEEP_ID": "abc", "WANDB_RUN_ID": "id-crashed-7"}
    assert job.environment == ids
    assert job.cfg == tiny(tmp_path, *PLAIN, NO_WANDB, "--seed=7")
    (file,) = job.files
    assert job.command == ["ddpm", "train", str(file)] and job.files[file] == job.cfg.to_yaml()


def test_a_run_that_ended_before_it_had_a_config_is_its_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its point comes from the sweep's command and the run's parameters, limited to the sweep's own keys. Catches a run
    that is lost for ever because it was killed in its first seconds."""
    path = tmp_path / "tiny.yaml"
    path.write_text(tiny(tmp_path, *PLAIN, NO_WANDB).to_yaml())
    sweep = {
        "method": "grid",
        "program": "ddpm",
        "command": ["${env}", "${program}", "train", str(path), "${args}"],
        "parameters": {"optim.lr": {"values": [0.1, 0.2]}, "seed": {"values": [1, 2]}},
    }
    run = _run(tmp_path, "killed", 1, {"optim.lr": 0.2, "seed": 2, "_wandb": {}})
    (job,) = _lost(monkeypatch, tmp_path, [run], sweep)
    assert (job.cfg.optim.lr, job.cfg.seed) == (0.2, 2)
    assert job.environment["WANDB_RUN_ID"] == "id-killed-1" and job.environment["WANDB_SWEEP_PARAM_PATH"]


def test_what_is_finished_here_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """W&B does not know that the run ended: the message names `ddpm sync`. Catches a training that is done twice."""
    run = _run(tmp_path, "crashed", 3)
    folder = tiny(tmp_path, *PLAIN, NO_WANDB, "--seed=3").run_dir
    folder.mkdir(parents=True)
    (folder / "results.jsonl").write_text('{"out": {"final/fid": 1.0}}\n')
    assert _lost(monkeypatch, tmp_path, [run], {}) == []
    assert f"`ddpm sync {folder}`" in capsys.readouterr().out
