"""A run and its server: what arrives, what an outage costs, what a continued run looks like."""

import datetime
import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import wandb

from ddpm.errors import UserError
from ddpm.tracking import client
from ddpm.tracking.run_folder import RunFolder
from ddpm.tracking.sync import sync
from ddpm.training.loop import train
from reports.sources import open_source
from tests import processes
from tests.once import HANGS
from tests.training.test_train import NO_WANDB, PLAIN, tiny
from wandb_standin import RunRecord, StandIn

# A run that sends rows, grids, scores and checkpoints.
UNMEASURED = ("--curvature.enabled=false", "--eval.recon.enabled=false", "--eval.sample_table.rows=0")
QUICK = ("--logging.wandb.init_timeout_s=2", "--logging.wandb.finish_timeout_s=2")


def _record(server: StandIn) -> RunRecord:
    (record,) = server.runs.values()
    return record


def _rows(folder: Path) -> dict[int, dict[str, Any]]:
    lines = (folder / "loss.jsonl").read_text().splitlines()
    return {r["_i"]: r["out"] for r in map(json.loads, lines)}


_NOT_NUMBERS = ("step", "samples/grid", "sample_table")


def _history(record: RunRecord) -> dict[int, dict[str, Any]]:
    """The server's rows by `step`, with the last value of each key, without media and W&B's own keys.

    W&B's own counter must rise from row to row: a real server may drop a row whose counter goes back.
    """
    counted = [row["_step"] for row in record.history]
    assert counted == sorted(set(counted)), counted
    merged: dict[int, dict[str, Any]] = {}
    for row in record.history:
        kept = {k: v for k, v in row.items() if not k.startswith("_") and k not in _NOT_NUMBERS}
        merged.setdefault(row["step"], {}).update(kept)
    return merged


def test_what_a_server_holds_of_a_run(tmp_path: Path, server: StandIn) -> None:
    """The server holds every row, FID's min and last, the config nested once, group, tags, console, grids, checkpoints
    with aliases, and an alert at the end. It never holds the key."""
    folder = train(tiny(tmp_path))
    record = _record(server)
    assert _history(record) == _rows(folder)
    assert (record.state, record.group, record.job_type) == ("finished", "e6", "train")
    assert "minsnr" in record.tags
    assert record.config["loss"]["weighting"] == "minsnr"
    assert record.config["environment"]["torch"]
    assert not [key for key in record.config if "." in key]
    fids = [row["val/fid"] for row in _rows(folder).values() if "val/fid" in row]
    assert record.summary["val/fid"] == {"min": min(fids), "last": fids[-1]}
    assert any("val/fid" in line for line in record.console)
    model = f"{record.id}-model"
    assert {"latest", "step-4"} <= set(server.artifact(f"{model}:latest").aliases)
    assert server.content(f"{model}:step-2", "step-000002.pt") == (folder / "checkpoints/step-000002.pt").read_bytes()
    assert server.artifact(f"{model}:best").aliases
    assert server.content(f"{record.id}-samples:step-4", "step-000004.png")
    assert server.content(f"{record.id}-config:latest", "config.yaml") == (folder / "config.yaml").read_bytes()
    assert [(a.title, a.run) for a in server.alerts] == [("Training finished", record.id)]
    assert not server.bodies_contain(server.api_key)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or server.api_key.encode() not in path.read_bytes(), path


def test_a_continued_run_is_the_same_run_there(tmp_path: Path, server: StandIn) -> None:
    """A run is killed and continued: the server has one run with every row, in the state finished."""
    cfg = tiny(tmp_path, *UNMEASURED, "--checkpoint.every=1", "--train.total_steps=6")
    process = processes.start(
        cfg, functools.partial(processes.at_call, "ddpm.training.loop.train_step", 4, _wait(tmp_path))
    )
    _until((tmp_path / "at the call").exists)
    _until(lambda: any("step-2" in a.aliases for a in server.artifacts if a.type == "model"))  # a thread sends it
    process.kill()
    assert processes.finish(process) < 0
    assert processes.run(cfg) == 0, processes.log(cfg)
    record = _record(server)
    assert _history(record) == _rows(cfg.run_dir)
    assert record.state == "finished"
    assert server.artifact(f"{record.id}-model:step-2").version < server.artifact(f"{record.id}-model:step-6").version


def test_divergence_alerts(tmp_path: Path, server: StandIn) -> None:
    with pytest.raises(UserError, match="not finite"):
        train(tiny(tmp_path, *PLAIN, "--optim.lr=1e30", "--train.grad_clip=null"))
    assert [a.title for a in server.alerts] == ["Training diverged"]
    record = _record(server)
    assert record.state == "failed"
    assert len(record.summary["diverged/batch"]) == 4


def _sync(root: Path) -> list[str]:
    return list(sync(root))


def test_a_server_that_is_down_at_the_start(tmp_path: Path, server: StandIn) -> None:
    """The run starts offline after the stated wait and is complete on disk. `ddpm sync` uploads it; a second sync
    changes nothing."""
    server.down()
    cfg = tiny(tmp_path, *UNMEASURED, *QUICK)
    assert processes.run(cfg) == 0
    folder = cfg.run_dir
    assert "W&B: offline (the server did not answer within 2 s" in processes.log(cfg)
    assert f"to upload this run: ddpm sync {folder}" in processes.log(cfg)
    server.up()
    (line,) = _sync(tmp_path / "runs")
    assert line.startswith(f"{folder}: uploaded W&B's files; removed 5 copies (")  # from W&B's staging folder
    record = _record(server)
    assert (_history(record), record.state) == (_rows(folder), "finished")
    assert {a.type for a in server.artifacts} == {"config", "dataset", "samples", "model"}
    assert any("val/fid" in line for line in record.console)
    before = len(record.history), len(server.artifacts)
    assert _sync(tmp_path / "runs") == [f"{folder}: everything is on the server"]
    assert (len(record.history), len(server.artifacts)) == before


def test_a_server_that_goes_away_in_the_middle(tmp_path: Path, server: StandIn) -> None:
    """The training continues at its pace and ends. No data is lost on disk, and `ddpm sync` uploads the rest
    afterwards."""
    cfg = tiny(tmp_path, *UNMEASURED, *QUICK, "--train.total_steps=6")
    process = processes.start(cfg, functools.partial(processes.at_call, "ddpm.training.loop.fit", 1, _wait(tmp_path)))
    _until((tmp_path / "at the call").exists)
    server.down()
    (tmp_path / "go on").touch()
    began = time.monotonic()
    _until(lambda: (cfg.run_dir / "results.jsonl").exists())
    trained = time.monotonic() - began
    process.join(HANGS)
    assert process.exitcode == 0
    assert trained < 100, "the training waited for the network"  # if it waited: 19 s for each of seven artifacts
    assert f"to upload what the server may lack: ddpm sync {cfg.run_dir}" in processes.log(cfg)
    server.up()
    (line,) = _sync(tmp_path)
    assert "uploaded 4 rows, 3 sample grids, 3 checkpoints, the config" in line
    record = _record(server)
    assert (_history(record), record.state) == (_rows(cfg.run_dir), "finished")
    assert "latest" in server.artifact(f"{record.id}-model:step-6").aliases
    assert _sync(tmp_path) == [f"{cfg.run_dir}: everything is on the server"]


def test_a_server_that_comes_back(tmp_path: Path, server: StandIn) -> None:
    """The server is down for a while after the start. Everything arrives without `ddpm sync`."""
    cfg = tiny(tmp_path, *UNMEASURED, "--train.total_steps=6")
    process = processes.start(cfg, functools.partial(processes.at_call, "ddpm.training.loop.fit", 1, _wait(tmp_path)))
    _until((tmp_path / "at the call").exists)
    server.down()
    (tmp_path / "go on").touch()
    _until(lambda: (cfg.run_dir / "loss.jsonl").exists() and len(_rows(cfg.run_dir)) > 1)
    server.up()
    process.join(HANGS)
    assert process.exitcode == 0
    record = _record(server)
    assert (_history(record), record.state) == (_rows(cfg.run_dir), "finished")
    assert _sync(tmp_path)[0].endswith("everything is on the server")


def test_a_run_killed_offline_and_continued_offline_is_one_run(tmp_path: Path, server: StandIn) -> None:
    """Two sessions share one id. Their rows are uploaded once, in order, with a summary for the whole run."""
    cfg = tiny(tmp_path, *UNMEASURED, "--logging.wandb.mode=offline", "--checkpoint.every=1", "--train.total_steps=6")
    kill = functools.partial(processes.at_call, "ddpm.training.loop.train_step", 4, processes.kill)
    assert processes.run(cfg, kill) < 0
    assert processes.run(cfg) == 0, processes.log(cfg)
    (line,) = _sync(tmp_path)
    assert "uploaded 4 rows, 3 sample grids, 3 checkpoints, the config" in line
    record = _record(server)
    assert [row["step"] for row in record.history] == [0, 2, 4, 6]
    assert record.summary["run_time_s"] == _rows_summary(cfg.run_dir)["run_time_s"]
    assert (_history(record), record.state) == (_rows(cfg.run_dir), "finished")
    (run,) = open_source(str(tmp_path / "wandb"))
    assert sorted(_rows(cfg.run_dir)) == run.history.index.tolist()


def test_a_clock_that_jumps_back_between_two_sessions(tmp_path: Path) -> None:
    """The second session's rows count, although its files look older by their name and their content."""
    cfg = tiny(tmp_path, *PLAIN, "--checkpoint.every=1", "--train.total_steps=6")
    kill = functools.partial(processes.at_call, "ddpm.training.loop.train_step", 4, processes.kill)
    assert processes.run(cfg, kill) < 0
    (first,) = (tmp_path / "wandb").glob("offline-run-*")
    assert processes.run(cfg, _an_hour_ago) == 0, processes.log(cfg)
    (second,) = set((tmp_path / "wandb").glob("offline-run-*")) - {first}
    assert second.name < first.name
    (run,) = open_source(str(tmp_path / "wandb"))
    assert run.state == "finished"
    assert run.config["session"] == 2
    assert run.history.index.tolist() == sorted(_rows(cfg.run_dir))
    assert run.series("time/total_s").to_dict() == {
        step: row["time/total_s"] for step, row in _rows(cfg.run_dir).items() if step
    }


def test_the_server_keeps_the_newest_checkpoints_and_the_best(
    tmp_path: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """keep_online = 2, FIDs 5, 3, 6, 7, 8: milestones 2 and 6 are deleted on the server, 4 stays as the best. All stay
    on disk, and a later sync does not upload the deleted ones again."""
    fids = iter([5.0, 3.0, 6.0, 7.0, 8.0])
    monkeypatch.setattr("ddpm.evaluation.evaluator.Evaluator.scores", lambda *_: {"fid": next(fids)})
    folder = train(tiny(tmp_path, *UNMEASURED, "--train.total_steps=10", "--checkpoint.keep_online=2"))
    kept = [a for a in server.artifacts if a.type == "model"]
    assert sorted(alias for a in kept for alias in a.aliases) == ["best", "latest", "step-10", "step-4", "step-8"]
    assert len(list((folder / "checkpoints").iterdir())) == 5
    assert _sync(folder) == [f"{folder}: everything is on the server"]


def test_a_wrong_key_is_an_error_not_an_outage(
    tmp_path: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is refused before a step is trained, and the message says what to do. The key is not shown."""
    monkeypatch.setenv("WANDB_API_KEY", "wrongkey" * 5)
    with pytest.raises(UserError, match=r"could not start in mode online.*mode=offline") as caught:
        train(tiny(tmp_path))
    assert "wrongkey" not in str(caught.value)
    assert not list((tmp_path / "runs").rglob("run.json"))


def test_sync_says_what_it_cannot_do(tmp_path: Path, server: StandIn) -> None:
    """There are no run folders; a run is still being written (it is left out); the server is down."""
    with pytest.raises(UserError, match="holds no run folders"):
        _sync(tmp_path)
    folder = train(tiny(tmp_path, *UNMEASURED, NO_WANDB))
    with RunFolder.at(folder):
        assert "left out: Another process is writing" in _sync(tmp_path)[0]
    assert "uploaded 3 rows, 2 sample grids, 2 checkpoints, the config" in _sync(tmp_path)[0]
    (tmp_path / "runs" / "e7").mkdir()
    (tmp_path / "runs" / "e7" / "run.json").write_text("{")
    assert ["everything" in line or "left out" in line for line in _sync(tmp_path)] == [True, True]
    server.down()
    with pytest.raises(UserError, match=r"server cannot be asked"):
        _sync(tmp_path)
    server.up()


def test_damaged_wandb_files_are_made_up_for(tmp_path: Path, server: StandIn) -> None:
    """W&B's file of an offline run is cut in the middle. `ddpm sync` uploads what is readable, and takes the rest from
    the run folder."""
    folder = train(tiny(tmp_path, *UNMEASURED, "--logging.wandb.mode=offline", "--train.total_steps=6"))
    (log,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    log.write_bytes(log.read_bytes()[: log.stat().st_size * 2 // 3])
    (line,) = _sync(tmp_path / "runs")
    assert "uploaded" in line
    record = _record(server)
    assert (_history(record), record.state) == (_rows(folder), "finished")
    assert {a.type for a in server.artifacts} >= {"samples", "model"}
    assert _sync(tmp_path / "runs") == [f"{folder}: everything is on the server"]


@pytest.mark.parametrize("command", ["with arguments", "without"])
def test_a_sweep_sets_the_config(tmp_path: Path, server: StandIn, command: str) -> None:
    """A real agent: its values reach the training and the config in W&B, with or without the command line. The run is
    the agent's own, so the sweep knows that its point is done."""
    tiny_config = tmp_path / "tiny.yaml"
    tiny_config.write_text(tiny(tmp_path, *PLAIN, "--train.total_steps=2").to_yaml())
    arguments = ["${args}"] if command == "with arguments" else []
    sweep = wandb.sweep(
        {
            "method": "grid",
            "parameters": {"loss.weighting": {"values": ["p2"]}, "optim.lr": {"value": 0.002}},
            "program": "ddpm",
            "command": [sys.executable, "-m", "ddpm", "train", str(tiny_config), *arguments],
        },
        project="min_snr_smoke",
    )
    agent = [sys.executable, "-m", "wandb", "agent", f"study/min_snr_smoke/{sweep}", "--count", "1"]
    # The agent's own exit code says nothing here: it has aborted while its threads shut down, after the work was done.
    done = subprocess.run(agent, capture_output=True, text=True, cwd=tmp_path, timeout=HANGS)
    assert server.runs, done.stdout + done.stderr
    record = _record(server)
    assert (record.state, record.sweep) == ("finished", sweep), done.stdout + done.stderr
    assert record.config["loss"]["weighting"] == record.config["loss.weighting"] == "p2"
    assert record.config["optim"]["lr"] == 0.002


def test_wandb_that_dies_does_not_take_the_training_with_it(tmp_path: Path, server: StandIn) -> None:
    """W&B's process is killed in the middle of the run: a warning, a complete run folder, exit code 0. `ddpm sync`
    uploads the rest."""
    cfg = tiny(tmp_path, *UNMEASURED, *QUICK)
    dies = functools.partial(processes.at_call, "ddpm.training.loop.train_step", 2, _kill_wandb)
    assert processes.run(cfg, dies) == 0, processes.log(cfg)
    assert "W&B takes nothing more" in processes.log(cfg)
    assert f"ddpm sync {cfg.run_dir}" in processes.log(cfg)
    assert sorted(_rows(cfg.run_dir)) == [0, 2, 4]
    assert "uploaded" in _sync(tmp_path)[0]
    assert _history(_record(server)) == _rows(cfg.run_dir)


def test_the_lowest_fid_is_of_all_sessions(tmp_path: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """FIDs 3, kill, 5, 4: the summary's minimum is 3. The last session never saw that value, and nothing from the first
    session is sent again."""
    cfg = tiny(tmp_path, *UNMEASURED, "--checkpoint.every=1", "--train.total_steps=6")
    monkeypatch.setenv("WANDB__FILE_STREAM_TRANSMIT_INTERVAL", "0.5")  # W&B's own value is 15 s
    process = processes.start(cfg, functools.partial(_fids_then, [3.0], _wait(tmp_path)))
    _until(lambda: any("val/fid" in row for run in server.runs.values() for row in run.history))
    process.kill()
    assert processes.finish(process) < 0
    assert processes.run(cfg, functools.partial(_fids_then, [5.0, 4.0], None)) == 0, processes.log(cfg)
    assert _record(server).summary["val/fid"] == {"min": 3.0, "last": 4.0}


def _fids_then(values: list[float], at_step_4: Callable[[], None] | None) -> None:
    fids = iter(values)
    mock.patch("ddpm.evaluation.evaluator.Evaluator.scores", lambda *_: {"fid": next(fids)}).start()
    mock.patch("ddpm.tracking.tracker.FLUSH_S", -1e9).start()  # as if the first session were long ago
    if at_step_4:
        processes.at_call("ddpm.training.loop.train_step", 4, at_step_4)


def _kill_wandb() -> None:
    client.end_service()
    time.sleep(0.5)


def _rows_summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.jsonl").read_text())["out"]


def _wait(folder: Path) -> Callable[[], None]:
    return functools.partial(_wait_in, folder)


def _wait_in(folder: Path) -> None:
    (folder / "at the call").touch()
    _until((folder / "go on").exists)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + HANGS
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def _an_hour_ago() -> None:
    """In the child: the wall clock shows an hour earlier, for Python and so in W&B's file names and start times."""
    now = time.time
    mock.patch("time.time", lambda: now() - 3600).start()
    real = datetime.datetime

    class Earlier(real):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return real.now(tz) - datetime.timedelta(hours=1)

    mock.patch("datetime.datetime", Earlier).start()


def test_a_login_that_may_not_delete_leaves_nothing_unsent(
    tmp_path: Path, server: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    """The retention fails and the upload works. The message says exactly that and sends nobody to `ddpm sync`."""
    with mock.patch("ddpm.tracking.wandb_run.drop_old_versions", side_effect=PermissionError("may not delete")):
        train(tiny(tmp_path, *UNMEASURED))
    out = capsys.readouterr().out
    assert "older checkpoints stay on the server (may not delete)" in out
    assert "is not uploaded" not in out
    assert "ddpm sync" not in out
    assert server.artifact(f"{_record(server).id}-model:step-4")
