"""Whole sweeps: run here without a server, and by real `wandb agent` processes against the stand-in for W&B's
server."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml

from ddpm.commands.cli import main
from ddpm.metrics.table import TABLE
from ddpm.sweep import start
from tests import processes
from tests.once import HANGS, once
from tests.rows import comparable
from tests.training.test_train import tiny
from wandb_standin import RunRecord, StandIn

# The real `ddpm`. If its command line contains the given words, it ends itself in its third step, once.
PROGRAM = f"""#!{sys.executable}
import os, sys, time
from pathlib import Path
from unittest import mock
word, signum, folder = os.environ.get("SABOTAGE", "no word,0,.").split(",")
if word in sys.argv and not Path(folder, "begun").exists():
    Path(folder, "begun").write_text(str(os.getpid()))
    from ddpm.training import loop
    step, calls = loop.train_step, []
    def watched(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            while Path(folder, "wait").exists():
                time.sleep(0.02)
            os.kill(os.getpid(), int(signum))
        return step(*args, **kwargs)
    mock.patch("ddpm.training.loop.train_step", watched).start()
from ddpm.commands.cli import main
sys.exit(main())
"""
# The real agent, which asks every 0.2 s instead of every 5.
AGENT = "import wandb.wandb_agent as a; a.Agent.POLL_INTERVAL = 0.2; from wandb.cli.cli import cli; cli()"


def _sweep_file(folder: Path, out_dir: str, values: tuple[str, ...] = ("constant", "minsnr")) -> Path:
    """A grid over weightings for the tiny run. `folder` stands for the root of a repository."""
    program = folder / "bin/ddpm"
    program.parent.mkdir(exist_ok=True)
    program.write_text(PROGRAM)
    program.chmod(0o755)
    unmeasured = [f"--{part}.enabled=false" for part in ("curvature", "eval.final", "eval.recon")]
    (folder / "tiny.yaml").write_text(tiny(folder, *unmeasured).to_yaml())
    parameters = {"loss.weighting": {"values": list(values)}, "seed": {"value": 7}, "optim.lr": {"value": 0.002}}
    command = ["${env}", "${program}", "train", str(folder / "tiny.yaml"), f"--out_dir={folder / out_dir}", "${args}"]
    tree = {"method": "grid", "project": "p", "program": str(program), "command": command, "parameters": parameters}
    path = folder / f"{out_dir}.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def _rows(out_dir: Path) -> dict[str, list[dict[str, Any]]]:
    """Run id to its rows in order, without the times."""
    found = {}
    for path in sorted(out_dir.glob("*/*/results.jsonl")):
        lines = (path.parent / "loss.jsonl").read_text().splitlines()
        rows = sorted((comparable(json.loads(line)) for line in lines), key=lambda row: row["_i"])
        kept = [{k: v for k, v in row["out"].items() if not k.startswith("time/")} | {"_i": row["_i"]} for row in rows]
        found[path.parent.name] = kept
    return found


def _until(true: Callable[[], object], seconds: float = HANGS) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The grid, run without a server, two points at a time; the second point is killed in its third step. Returns the
    folder and what was printed."""
    folder = once(tmp_path_factory, "swept", _sweep)
    return folder, (folder / "printed").read_text()


def _sweep(folder: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}
    environment |= {"SABOTAGE": f"--loss.weighting=minsnr,9,{folder}"}
    command = [sys.executable, "-m", "ddpm", "sweep", str(_sweep_file(folder, "runs")), "--workers", "2"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=HANGS)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "printed").write_text(done.stdout)


def test_a_killed_point_is_continued_and_the_rest_goes_on(alone: tuple[Path, str]) -> None:
    """Both points are finished, and the killed one is continued from its checkpoint. There is one log for each, and a
    second call has nothing to do. Catches a crash that ends the sweep, starts a point over, or is not reported."""
    folder, printed = alone
    assert len(_rows(folder / "runs")) == 2
    assert "ended with exit code -9" in printed and "2 runs: 2 done" in printed
    (killed,) = (folder / "runs").glob("*minsnr*/*/run.json")
    assert [session["from_step"] for session in json.loads(killed.read_text())["sessions"]] == [0, 2]
    assert len(list((folder / "out/sweeps/runs").glob("*.log"))) == 2
    with mock.patch("subprocess.Popen", None), mock.patch.object(start, "LOGS", folder / "none"):
        assert main(["sweep", str(folder / "runs.yaml")]) == 0


def test_a_point_is_named_by_its_values(alone: tuple[Path, str]) -> None:
    """Experiment, tags, and W&B's own config of the offline run hold the swept values. Catches runs of a sweep that
    cannot be told apart, and a W&B client that does not learn the point."""
    folder, _ = alone
    runs = [json.loads(path.read_text()) for path in (folder / "runs").glob("*/*/run.json")]
    assert {run["experiment"] for run in runs} == {f"e6-weighting_{w}-lr_0.002" for w in ("constant", "minsnr")}
    for run in runs:
        weighting = run["config"]["loss"]["weighting"]
        assert {f"weighting={weighting}", "lr=0.002", "seed=7"} <= set(run["config"]["logging"]["wandb"]["tags"])
        assert run["config"]["logging"]["wandb"]["run_name"] is None
        logs = list(folder.glob(f"wandb/offline-run-*{run['wandb_id']}/run-*.wandb"))
        assert logs and all(b"loss.weighting" in log.read_bytes() for log in logs)


@pytest.fixture
def agents() -> Iterator[list["subprocess.Popen[str]"]]:
    """The agents that `_agent` starts. None outlives its test."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for agent in started:
        agent.kill()


def _agent(folder: Path, sweep: str, **environment: str) -> "subprocess.Popen[str]":
    """A `wandb agent` in its own process group, with this Python's programs on PATH."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        [sys.executable, "-c", AGENT, "agent", sweep],
        cwd=folder,
        env={**os.environ, "PATH": path, **environment},
        stdout=(folder / "agents.log").open("a"),
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _create(folder: Path, path: Path, server: StandIn) -> str:
    """Run `wandb sweep FILE`. Returns ENTITY/PROJECT/ID."""
    processes.wandb_cli(folder, "sweep", str(path))
    ((project, name),) = server.sweeps
    return f"{server.entity}/{project}/{name}"


def _history(record: RunRecord) -> list[dict[str, Any]]:
    """The server's rows by `step`, with the last value of each key, without times, media and W&B's own keys."""
    merged: dict[int, dict[str, Any]] = {}
    for row in record.history:
        left_out = ("_", "time/", "samples/", TABLE)
        kept = {k: v for k, v in row.items() if not k.startswith(left_out) and k != "step"}
        merged.setdefault(row["step"], {"_i": row["step"]}).update(comparable(kept))
    return [merged[step] for step in sorted(merged)]


def test_two_agents_do_what_one_sweep_here_does(
    tmp_path: Path, server: StandIn, agents: list, alone: tuple[Path, str]
) -> None:
    """`wandb sweep` and two `wandb agent` at once; one run is preempted (SIGTERM) and handed out again. Each point is
    one W&B run, with the same run ids and the same bits as without a server. Catches points run twice or lost, a config
    that the two ways read differently, and a preempted run that starts over or becomes another one."""
    folder, _ = alone
    sweep = _create(tmp_path, _sweep_file(tmp_path, "agents"), server)
    stop = {"SABOTAGE": f"--loss.weighting=constant,{int(signal.SIGTERM)},{tmp_path}"}
    agents += [_agent(tmp_path, sweep, **stop) for _ in range(2)]
    for agent in agents:
        agent.wait(HANGS)
    (record,) = server.sweeps.values()
    log = (tmp_path / "agents.log").read_text()
    assert (record.state, len(record.runs), len(record.agents)) == ("FINISHED", 2, 2), log
    assert _rows(tmp_path / "agents") == _rows(folder / "runs")
    runs = list(server.runs.values())
    assert {run.id for run in runs} == {run["id"] for run in record.runs}
    assert [(run.state, run.sweep) for run in runs] == [("finished", record.id)] * 2, log

    def weight(rows: list[dict[str, Any]]) -> float:
        return rows[0]["loss/mean_weight"]  # differs between the weightings

    assert sorted(map(_history, runs), key=weight) == sorted(_rows(folder / "runs").values(), key=weight)
    preempted = next(run for run in runs if "weighting=constant" in run.tags)
    assert preempted.group == "e6-weighting_constant-lr_0.002"
    (path,) = (tmp_path / "agents").glob("*constant*/*/run.json")  # the step in which the signal came is still done
    assert [session["from_step"] for session in json.loads(path.read_text())["sessions"]] == [0, 3]


def test_what_an_agent_left_is_requeued(
    tmp_path: Path,
    server: StandIn,
    alone: tuple[Path, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    agents: list,
) -> None:
    """Agent and run are killed with -9, and the run folder is on another machine. `ddpm sweep --requeue` takes
    checkpoint and rows from W&B and finishes the same W&B run, to the same bits. A second call has nothing to do."""
    folder, _ = alone
    monkeypatch.chdir(tmp_path)
    sweep = _create(tmp_path, _sweep_file(tmp_path, "lost", ("minsnr",)), server)
    (tmp_path / "wait").touch()
    quick = {"WANDB__FILE_STREAM_TRANSMIT_INTERVAL": "0.5"}  # W&B's own value is 15 s
    agent = _agent(tmp_path, sweep, SABOTAGE=f"--loss.weighting=minsnr,9,{tmp_path}", **quick)
    agents.append(agent)
    _until(lambda: any("step-2" in a.aliases for a in server.artifacts if a.type == "model"))
    (record,) = server.runs.values()
    _until(lambda: [row["_i"] for row in _history(record)] == [0, 2])
    agent.kill()
    agent.wait(HANGS)
    (tmp_path / "wait").unlink()
    _until(lambda: not Path(f"/proc/{(tmp_path / 'begun').read_text()}").exists())
    record.crashed_after = 0.3
    _until(lambda: record.state == "crashed")
    shutil.rmtree(tmp_path / "lost")

    assert main(["sweep", "--requeue", sweep]) == 0, capsys.readouterr().out
    assert "1 crashed" in capsys.readouterr().out
    (log,) = (tmp_path / "out/sweeps").glob("*/*.log")
    assert "continuing from W&B's checkpoint" in log.read_text()
    assert list(server.runs.values()) == [record] and record.state == "finished"
    want = {name: rows for name, rows in _rows(folder / "runs").items() if "minsnr" in name}
    assert _rows(tmp_path / "lost") == want
    assert [_history(record)] == list(want.values())
    assert main(["sweep", "--requeue", sweep]) == 0
    assert "0 runs" in capsys.readouterr().out
    assert main(["sweep", "--requeue", "study/p/none"]) == 2
    assert main(["sweep", "--requeue", "none"]) == 2


def test_a_sweep_is_paused_resumed_and_stopped(tmp_path: Path, server: StandIn, agents: list) -> None:
    """In a paused sweep the agents wait; after resume they continue. After stop, the current run ends by itself and no
    other begins."""
    (tmp_path / "job.py").write_text("import time; time.sleep(0.5)")
    tree = {"method": "grid", "program": "job.py", "parameters": {"seed": {"values": list(range(200))}}, "project": "p"}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(tree))
    sweep = _create(tmp_path, tmp_path / "sweep.yaml", server)
    (record,) = server.sweeps.values()

    def tell(state: str) -> None:
        processes.wandb_cli(tmp_path, "sweep", f"--{state}", sweep)

    agents += [_agent(tmp_path, sweep) for _ in range(2)]
    _until(lambda: len(record.runs) >= 2)
    tell("pause")
    begun = len(record.runs)
    time.sleep(1.5)  # longer than two jobs
    assert len(record.runs) == begun and all(agent.poll() is None for agent in agents)
    tell("resume")
    _until(lambda: len(record.runs) > begun)
    tell("stop")
    begun = len(record.runs)
    for agent in agents:
        agent.wait(HANGS)
    assert len(record.runs) == begun < 200
