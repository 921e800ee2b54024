"""The unmodified wandb client against the stand-in for its server, which the other tests use."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import wandb
import yaml

from tests import processes
from tests.once import HANGS
from wandb_standin import RunRecord, StandIn, SweepRecord
from wandb_standin.graphql import execute, parse
from wandb_standin.records import HISTORY

RUN = """
import os, sys
import numpy as np, wandb
name, first, rows, resume, *more = sys.argv[1:]
run = wandb.init(project="p", id=name, name="the " + name, resume=resume or None, group="e6", job_type="train",
                 tags=["smoke"], notes="why", config={"lr": 0.1, "loss": {"gamma": int(rows)}},
                 settings=wandb.Settings(silent=True))
run.define_metric("step")
run.define_metric("*", step_metric="step")
run.define_metric("val/fid", step_metric="step", summary="min,last")
for i in range(int(first), int(first) + int(rows)):
    run.log({"step": i, "train/loss": 1 / (i + 1), "val/fid": abs(i - 1), "odd": float("nan")})
print("rows written", flush=True)
exec(" ".join(more))
run.finish()
"""
CHECKPOINT = """
def keep(text, *aliases):
    open("model.pt", "w").write(text)
    artifact = wandb.Artifact(name + "-model", type="model", metadata={"text": text})
    artifact.add_file("model.pt")
    run.log_artifact(artifact, aliases=list(aliases)).wait()
"""
# The real agent, which asks every 0.2 s instead of every 5.
AGENT = "import wandb.wandb_agent as a; a.Agent.POLL_INTERVAL = 0.2; from wandb.cli.cli import cli; cli()"
TRAIN = """
import sys, wandb
run = wandb.init(settings=wandb.Settings(silent=True))
run.log({"step": 0, "val/fid": 1.0})
print(sys.argv[1:])
run.finish()
"""


def call(*command: str, cwd: Path, **environment: str) -> str:
    """Run a command and return what it printed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # agents start bare `python`
    env = {**os.environ, "PATH": path, **environment}
    done = subprocess.run(command, cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    return done.stdout


def log_run(cwd: Path, name: str, first: int = 0, rows: int = 3, resume: str = "", more: str = "", **env: str) -> str:
    """A process logs a run's rows from `first` on and then runs `more`. Returns what it printed."""
    log = cwd / "log"
    log.unlink(missing_ok=True)
    code = processes.finish(
        processes.start_call(partial(_log, [name, str(first), str(rows), resume, more], cwd, env), cwd)
    )
    assert code == 0, log.read_text()
    return log.read_text()


def _log(words: list[str], cwd: Path, environment: dict[str, str]) -> None:
    os.chdir(cwd)
    os.environ.update(environment)
    sys.argv[1:] = words
    exec(RUN, {"__name__": "__main__"})


def steps(server: StandIn, name: str) -> list[int]:
    return [row["step"] for row in server.runs["p", name].history]


def test_online_run_arrives_whole(server: StandIn, tmp_path: Path) -> None:
    """History, summary, config, console, files, labels, metric definitions, alert. Catches a stand-in that loses any of
    them."""
    more = """run.log({"step": 3, "samples/grid": wandb.Image(np.zeros((8, 8, 3), dtype=np.uint8))})
run.alert("FID rose", "by 10", level="WARN")"""
    log_run(tmp_path, "r1", more=f"exec({more!r})")
    run = server.runs["p", "r1"]
    assert (run.name, run.group, run.job_type, run.tags, run.notes) == ("the r1", "e6", "train", ["smoke"], "why")
    assert run.state == "finished"
    assert run.config == {"lr": 0.1, "loss": {"gamma": 3}}
    assert steps(server, "r1") == [0, 1, 2, 3]
    assert run.summary["val/fid"] == {"min": 0, "last": 1}
    assert any(line.endswith("rows written") for line in run.console)
    metrics = [(m.get("1"), m.get("5")) for m in run.raw_config["_wandb"]["value"]["m"]]
    assert ("val/fid", metrics.index(("step", None)) + 1) in metrics  # by the place of its step metric, from 1
    (image,) = [name for name in run.files if name.startswith("media/images/samples/grid")]
    assert run.files[image].startswith(b"\x89PNG")
    assert [(a.run, a.title, a.text, a.level) for a in server.alerts] == [("r1", "FID rose", "by 10", "WARN")]
    assert server.bodies_contain("FID rose")
    assert not server.bodies_contain(server.api_key)


def test_how_runs_end(server: StandIn, tmp_path: Path) -> None:
    """An exit code other than 0 makes `failed`, silence makes `crashed`. Catches a stand-in that reports every ended
    run as finished."""
    log_run(tmp_path, "bad", more="run.finish(exit_code=3)")
    assert server.runs["p", "bad"].state == "failed"
    killed = "os.kill(os.getpid(), 9)"
    with pytest.raises(AssertionError):
        log_run(tmp_path, "killed", more=killed)
    assert server.runs["p", "killed"].state == "running"
    server.runs["p", "killed"].crashed_after = 0.0  # from now on any silence is too long
    assert server.runs["p", "killed"].state == "crashed"


@pytest.mark.parametrize("resume", ["allow", "must"])
def test_resume_continues_the_run(server: StandIn, tmp_path: Path, resume: str) -> None:
    """W&B's own step continues. Catches rows that are overwritten, or that start again at 0.

    The client's `summary="min"` knows only the rows since the resume: whoever wants a run's minimum must read its
    history.
    """
    log_run(tmp_path, "r1")
    out = log_run(tmp_path, "r1", first=3, resume=resume, more="print('resumed', run.resumed, run.step)")
    assert "resumed True 6" in out
    assert [(row["_step"], row["step"]) for row in server.runs["p", "r1"].history] == [(i, i) for i in range(6)]
    assert server.runs["p", "r1"].summary["val/fid"] == {"min": 2, "last": 4}
    assert server.runs["p", "r1"].state == "finished"


def test_resume_must_refuses_a_run_that_is_not_there(server: StandIn, tmp_path: Path) -> None:
    """Catches a stand-in that accepts everything."""
    with pytest.raises(AssertionError, match="has not been initialized"):
        log_run(tmp_path, "none", resume="must")


def test_artifact_versions_aliases_and_retention(server: StandIn, tmp_path: Path) -> None:
    """Aliases move, equal content makes no new version, bytes can be read back, and old versions can be deleted.
    Catches a stand-in that fails at any of these."""
    keeps = "keep('a', 'step-1', 'best'); keep('b', 'step-2'); keep('b', 'step-2'); keep('c', 'step-3', 'best')"
    log_run(tmp_path, "r1", more=f"exec({CHECKPOINT!r}); {keeps}")
    assert [set(a.aliases) for a in server.artifacts] == [{"step-1"}, {"step-2"}, {"step-3", "best", "latest"}]
    assert server.content("r1-model:best", "model.pt") == b"c"

    api = wandb.Api()
    best = api.artifact("study/p/r1-model:best")
    assert (best.version, best.metadata, best.logged_by().id) == ("v2", {"text": "c"}, "r1")
    assert (Path(best.download(root=str(tmp_path / "got"))) / "model.pt").read_text() == "c"
    logged = list(api.run("study/p/r1").logged_artifacts())
    assert [a.name for a in logged] == ["r1-model:v0", "r1-model:v1", "r1-model:v2"]

    with pytest.raises(wandb.errors.CommError, match="aliases"):
        logged[0].delete()
    logged[0].delete(delete_aliases=True)
    logged[1].aliases = ["kept"]
    logged[1].save()
    versions = api.artifacts("model", "study/p/r1-model")
    assert [(a.version, sorted(a.aliases)) for a in versions] == [
        ("v2", ["best", "latest", "step-3"]),
        ("v1", ["kept"]),
    ]
    assert not api.artifact_exists("study/p/r1-model:v0")
    assert len([path for path in server.blobs if path.startswith("blobs/")]) == 2, "the bytes of v0 are gone"

    log_run(tmp_path, "r2", more="run.use_artifact('r1-model:best')")
    assert [a.name for a in api.run("study/p/r2").used_artifacts()] == ["r1-model:v2"]
    assert [r.id for r in best.used_by()] == ["r2"]


def test_sync_uploads_offline_folders_once(server: StandIn, tmp_path: Path) -> None:
    """Syncs one folder, the same folder again, and two folders from a run resumed offline. Catches rows that are lost,
    doubled or out of order."""
    log_run(tmp_path, "one", more=f"exec({CHECKPOINT.replace('.wait()', '')!r}); keep('a')", WANDB_MODE="offline")
    (folder,) = tmp_path.glob("wandb/offline-run-*-one")
    processes.wandb_cli(tmp_path, "sync", str(folder))  # its last output may be missing
    assert "Skipped 1 synced" in processes.wandb_cli(tmp_path, "sync", str(folder))
    assert steps(server, "one") == [0, 1, 2]
    assert server.content("one-model:latest", "model.pt") == b"a"

    log_run(tmp_path, "two", WANDB_MODE="offline")
    time.sleep(1.0)  # folder names have a resolution of one second
    log_run(tmp_path, "two", first=3, resume="allow", WANDB_MODE="offline")
    processes.wandb_cli(tmp_path, "sync", *map(str, sorted(tmp_path.glob("wandb/offline-run-*-two"))))
    if wandb.__version__.startswith("0.30."):
        return  # it numbers the second folder's rows from 0 again; `ddpm sync` does not use it for two sessions
    assert [(row["_step"], row["step"]) for row in server.runs["p", "two"].history] == [(i, i) for i in range(6)]
    assert server.runs["p", "two"].state == "finished"


def test_sync_of_an_online_run_writes_its_rows_again(server: StandIn, tmp_path: Path) -> None:
    """The client appends its whole file to the server's rows, so readers must drop repeated steps. Catches a client
    that changes this."""
    log_run(tmp_path, "r1")
    (folder,) = tmp_path.glob("wandb/run-*-r1")
    assert "Skipped 1 online" in processes.wandb_cli(tmp_path, "sync", str(folder))
    processes.wandb_cli(tmp_path, "sync", "--include-online", str(folder))
    assert steps(server, "r1") == [0, 1, 2, 0, 1, 2]


def test_points_of_a_grid() -> None:
    """Every combination once, also with nested parameters, up to `run_cap`. Catches points that are repeated or left
    out."""
    nested = {"parameters": {"gamma": {"values": [1, 5]}, "kind": {"value": "minsnr"}}}
    config = {"method": "grid", "parameters": {"lr": {"values": [0.1, 0.2, 0.3]}, "loss": nested}}
    assert len(_points(config)) == 6
    assert {(p["lr"], p["loss"]["gamma"], p["loss"]["kind"]) for p in _points(config)} == {
        (lr, gamma, "minsnr") for lr in (0.1, 0.2, 0.3) for gamma in (1, 5)
    }
    assert _points({**config, "run_cap": 4}) == _points(config)[:4]


def _points(config: dict[str, Any]) -> list[dict[str, Any]]:
    sweep = SweepRecord("study", "p", "s", config, "")
    while (point := sweep.next_point()) is not None:
        sweep.runs.append({"args": point})
    return [run["args"] for run in sweep.runs]


def test_grid_sweep_with_agents(server: StandIn, tmp_path: Path) -> None:
    """`wandb sweep` and two agents, the first with `--count`. Catches a run that is given out twice, and a sweep that
    never ends."""
    nested = {"parameters": {"gamma": {"values": [1, 5]}}}
    sweep = {"method": "grid", "program": "train.py", "parameters": {"lr": {"value": 0.1}, "loss": nested}}
    (tmp_path / "sweep.yaml").write_text(yaml.dump(sweep))
    (tmp_path / "train.py").write_text(TRAIN)
    processes.wandb_cli(tmp_path, "sweep", "--project", "p", "sweep.yaml")
    ((_, sweep_id),) = server.sweeps
    record = server.sweeps["p", sweep_id]

    agent = [sys.executable, "-c", AGENT, "agent"]
    out = call(*agent, "--count", "1", f"study/p/{sweep_id}", cwd=tmp_path)
    assert """["--loss={'gamma': 1}", '--lr=0.1']""" in out
    assert (len(record.runs), record.state) == (1, "RUNNING")
    call(*agent, f"study/p/{sweep_id}", cwd=tmp_path)
    assert record.state == "FINISHED"
    configs = [server.runs["p", run["id"]].config for run in record.runs]
    assert configs == [{"lr": 0.1, "loss": {"gamma": gamma}} for gamma in (1, 5)]

    read = wandb.Api().sweep(f"study/p/{sweep_id}")
    assert (read.state, read.expected_run_count, len(read.runs)) == ("FINISHED", 2, 2)


def test_random_sweep_and_stopping_a_run(server: StandIn, tmp_path: Path) -> None:
    """Values lie in their ranges, a stopped run ends, and a canceled sweep ends its agent. Catches a stand-in that
    fails at any of these."""
    ranges = {"lr": {"min": 0.0, "max": 1.0}, "n": {"min": 1, "max": 3}, "how": {"values": ["a", "b"]}}
    (tmp_path / "train.py").write_text(TRAIN.replace("run.finish()", "import time; time.sleep(60)"))
    sweep = {"method": "random", "program": "train.py", "parameters": ranges}
    sweep_id = wandb.sweep(sweep, project="p", entity="study")
    command = [sys.executable, "-c", AGENT, "agent", f"study/p/{sweep_id}"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "PATH": path}) as agent:
        _until(lambda: server.runs)
        ((_, run_id),) = server.runs
        server.stop("p", run_id)
        _until(lambda: len(server.runs) == 2)
        processes.wandb_cli(tmp_path, "sweep", "--cancel", f"study/p/{sweep_id}")
        assert agent.wait(timeout=HANGS) == 0
    first = server.sweeps["p", sweep_id].runs[0]["args"]
    assert 0 <= first["lr"] <= 1
    assert first["n"] in (1, 2, 3)
    assert first["how"] in ("a", "b")


def _until(true: Callable[[], object], seconds: float = HANGS) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


def test_api_reads_back(server: StandIn, tmp_path: Path) -> None:
    """Runs by filter and page, config, summary, history, files, console. Catches answers that the client cannot use."""
    log_run(
        tmp_path, "a", rows=30, more="run.log({'step': 30, 'late': 1, 'samples': wandb.Image(np.zeros((8, 8, 3)))})"
    )
    log_run(tmp_path, "b", rows=2, more="run.finish(exit_code=1)")
    api = wandb.Api()
    assert [r.id for r in api.runs("study/p", per_page=1)] == ["a", "b"]
    assert [r.id for r in api.runs("study/p", filters={"group": "e6"}, order="-summary_metrics.step")] == ["a", "b"]
    assert [r.id for r in api.runs("study/p", filters={"config.loss.value.gamma": {"$lt": 3}})] == ["b"]
    assert [r.id for r in api.runs("study/p", filters={"$and": [{"state": "finished"}, {"tags": "smoke"}]})] == ["a"]

    run = api.run("study/p/a")
    assert (run.name, run.state, run.config["loss"], run.summary["late"]) == ("the a", "finished", {"gamma": 30}, 1)
    assert run.lastHistoryStep == 30
    assert (run.metadata or {})["python"].startswith("CPython 3")
    rows = list(run.scan_history())
    assert [row["_step"] for row in rows] == list(range(31))
    assert str(rows[0]["odd"]) in ("nan", "NaN")
    assert [row["_step"] for row in run.scan_history(min_step=5, max_step=9, page_size=3)] == [5, 6, 7, 8]
    assert [row["late"] for row in run.scan_history(keys=["_step", "late"])] == [1]
    assert len(run.history(keys=["train/loss"], x_axis="step")) == 30
    assert len(run.history(samples=10)) == 10
    (image,) = [f for f in run.files() if f.name.startswith("media/")]
    image.download(root=str(tmp_path / "got"))
    assert (tmp_path / "got" / image.name).read_bytes().startswith(b"\x89PNG")

    run.tags.append("read")
    run.config["added"] = 1
    run.update()
    assert server.runs["p", "a"].tags == ["smoke", "read"]
    assert server.runs["p", "a"].config["added"] == 1
    assert any(line.content.endswith("rows written") for line in run.console_logs())
    assert [p.name for p in api.projects("study")] == ["p"]
    run.delete()
    assert [r.id for r in wandb.Api().runs("study/p")] == ["b"]
    with pytest.raises((wandb.errors.CommError, ValueError)):
        wandb.Api().run("study/p/a")


def test_saved_workspace_and_report(server: StandIn) -> None:
    """A view saved by `wandb-workspaces` is read back by its address. Catches a view that is saved without a name.

    The test sets the view's name. Otherwise the client draws one, and finds it again only if the name itself has no
    `nw-` or `-v`: to make the address, the client removes all of them from `nw-NAME-v`.
    """
    workspaces = pytest.importorskip("wandb_workspaces.workspaces")
    reports = pytest.importorskip("wandb_workspaces.reports.v2")
    panel = reports.LinePlot(x="step", y=["train/loss"])
    section = workspaces.Section(name="loss", panels=[panel], is_open=True)
    workspace = workspaces.Workspace(entity="study", project="p", name="Study", sections=[section])
    workspace._internal_name = "nw-study-v"
    workspace.save()
    again = workspaces.Workspace.from_url(workspace.url)
    assert (again.name, [s.name for s in again.sections]) == ("Study", ["loss"])
    again.name = "Study 2"
    again.save()
    views = [(v.name, v.display_name, v.type) for v in server.views.values()]
    assert views == [("nw-study-v", "Study 2", "project-view")]

    report = reports.Report(entity="study", project="p", title="E6", blocks=[reports.H1("Loss")]).save()
    assert reports.Report.from_url(report.url).title == "E6"


def test_outage_in_the_middle_of_a_run(server: StandIn, tmp_path: Path) -> None:
    """The server is down while rows are logged, and up again before the end. Catches lost rows, and a stand-in that
    forgets."""
    command = [sys.executable, "-c", RUN, "r1", "0", "3", "", "sys.stdin.readline(); run.log({'step': 3})"]
    with subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin and child.stdout
        assert "rows written" in child.stdout.readline()
        server.down()
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(server.url, timeout=5)
        child.stdin.write("\n")
        child.stdin.close()
        time.sleep(1.0)
        server.up()
        assert child.wait(timeout=HANGS) == 0
    assert steps(server, "r1") == [0, 1, 2, 3]
    assert server.runs["p", "r1"].state == "finished"


def test_a_chunk_sent_again_does_not_double() -> None:
    """Catches rows that double when the client repeats an unanswered request, and rows that are accepted after a
    gap."""
    run = RunRecord("study", "p", "r")
    run.write(HISTORY, 0, ['{"step": 0}', '{"step": 1}'])
    run.write(HISTORY, 1, ['{"step": 1}', '{"step": 2}'])
    assert [row["step"] for row in run.history] == [0, 1, 2]
    with pytest.raises(ValueError, match="only 3 are held"):
        run.write(HISTORY, 5, ["{}"])


def test_failures_that_were_ordered(server: StandIn, tmp_path: Path) -> None:
    """The client recovers from a 429 and a 500, and waits for a silent server as long as it is told to. Catches a
    switch that sticks."""
    server.hang()
    with pytest.raises(AssertionError, match="Timed out initializing run"):
        log_run(tmp_path, "r1", WANDB_INIT_TIMEOUT="1")
    server.up()
    server.fail(429, where="UpsertBucket")
    server.fail(500, where="file_stream")
    log_run(tmp_path, "r1")
    assert steps(server, "r1") == [0, 1, 2]


def test_unknown_requests_are_loud() -> None:
    """The request names an operation, field, address or key that the stand-in does not know. Catches a new client
    question that silently gets no answer."""
    with StandIn() as server:

        def post(query: str, key: str = server.api_key) -> int:
            request = urllib.request.Request(f"{server.url}/graphql", json.dumps({"query": query}).encode())
            request.add_header("Authorization", "Basic " + base64.b64encode(f"api:{key}".encode()).decode())
            try:
                return urllib.request.urlopen(request, timeout=5).status
            except urllib.error.HTTPError as error:
                return error.code

        assert post("query Who { viewer { entity } }") == 200
        assert post("query Who { viewer { entity } }", key="x" * 40) == 401
        assert server.unknown == []
        assert post("query Moon { moon { phase } }") == 400
        assert post("query Age { viewer { age } }") == 400
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{server.url}/oidc/config", timeout=5)
        assert [u.split(":")[0] for u in server.unknown] == ["Moon", "Age", "GET /oidc/config"]


def test_graphql_of_the_client() -> None:
    """Aliases, fragments, defaults, directives and input objects. Catches an answer with another shape."""
    text = """query Q($n: Int = 2, $with: Boolean = false, $given: [String!]!) {
      result: double(input: {n: $n, text: "a \\"b\\"", absent: $absent}) { ...F ... on dict { c: text } }
      given(names: $given) @include(if: $with)  # left out
    }
    fragment F on Result { value @skip(if: $with) }"""

    class Root:
        def double(self, n: int, text: str) -> dict[str, object]:
            return {"value": 2 * n, "text": text}

    answer = execute(parse(text), {"given": ["x"]}, {"query": Root()})
    assert answer == {"result": {"value": 4, "c": 'a "b"'}}


def test_by_hand() -> None:
    """`python -m wandb_standin` prints what to export, and ends on Ctrl-C. Catches a command-line entry that no longer
    works."""
    command = [sys.executable, "-m", "wandb_standin", "--port", "0"]
    root = Path(__file__).parent.parent
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline().startswith("export WANDB_BASE_URL=http://127.0.0.1:")
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=HANGS) == 0
        finally:
            process.kill()  # otherwise leaving the block would wait for ever
