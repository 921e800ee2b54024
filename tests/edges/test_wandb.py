"""Unusual W&B setups: settings files, netrc, variables of a reused shell, the staging folder."""

import base64
import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb.sdk import wandb_setup
from wandb.sdk.artifacts.staging import get_staging_dir
from wandb.sdk.lib import wbauth

from ddpm.errors import UserError
from ddpm.sweep.fetch import fetch_point
from ddpm.tracking import client, staged
from ddpm.tracking.amend import send_amended
from ddpm.tracking.run_folder import RunFolder
from ddpm.tracking.sync import sync
from ddpm.tracking.wandb_run import wandb_mode
from ddpm.training.loop import train
from reports.sources.api import _cached, _folder, _root
from tests import processes
from tests.training.test_train import NO_WANDB, PLAIN, tiny
from wandb_standin import RunRecord, StandIn

KEY = "k" * 40
PORT = "http://wb.example:8443"
SHORT = (*PLAIN, "--train.total_steps=2", "--checkpoint.every=2")
SCORED = ("--curvature.enabled=false", "--eval.recon.enabled=false", "--eval.sample_table.rows=0")
# Variables from an earlier run that a shell, notebook or folder may still have.
LEFT_OVER = {
    "WANDB_RUN_ID": "myrun",
    "WANDB_NAME": "an older name",
    "WANDB_RUN_GROUP": "an older group",
    "WANDB_TAGS": "older,tags",
    "WANDB_NOTES": "older notes",
    "WANDB_JOB_TYPE": "eval",
    "WANDB_PROJECT": "another-project",
    "WANDB_RESUME": "must",
    "WANDB_SWEEP_ID": "anoldsweep",
}


def _settings_file(folder: Path, **values: str) -> None:
    """Write the file that `wandb offline` and `wandb login --host` write."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{key} = {value}" for key, value in values.items()]
    (folder / "settings").write_text("\n".join(["[default]", *lines, ""]))


def _records(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "run.json").read_text()))


def test_the_client_is_the_one_that_was_read() -> None:
    """`ddpm/tracking/client.py` uses private parts of W&B's client. Each one exists and does what it is used for. For
    another version: read them again, then add it to `CLIENTS`."""
    assert wandb.__version__.startswith(tuple(f"{version}." for version in client.CLIENTS))
    setup = wandb_setup.singleton()
    assert callable(setup._load_settings) and hasattr(setup, "_settings")
    assert client.server_name() == "api.wandb.ai"
    process = setup.ensure_service()._proc._process  # type: ignore[union-attr]
    assert process.poll() is None
    client.end_service()
    assert process.wait(10) < 0
    with contextlib.suppress(Exception):
        wandb.teardown()
    assert client.staging_folder() == Path(get_staging_dir())


# --- mode and login ---


@pytest.mark.parametrize(
    ("wanted", "environment", "netrc", "file", "mode"),
    [
        # the server is in the settings file, its login in netrc under a name with the port
        ("auto", {}, f"machine wb.example:8443 login u password {KEY}", {"base_url": PORT}, "online"),
        ("auto", {"WANDB_BASE_URL": PORT}, f"machine wb.example:8443 login u password {KEY}", {}, "online"),
        ("auto", {"WANDB_BASE_URL": PORT}, f"machine wb.example login u password {KEY}", {}, "offline"),
        ("auto", {}, f"machine api.wandb.ai login u password {KEY}", {"base_url": PORT}, "offline"),
        ("auto", {}, None, {"base_url": PORT, "api_key": KEY}, "online"),
        ("auto", {"WANDB_IDENTITY_TOKEN_FILE": "token"}, None, {}, "online"),
        # a run that should stay here stays here
        ("auto", {"WANDB_API_KEY": KEY}, None, {"mode": "offline"}, "offline"),
        ("auto", {"WANDB_API_KEY": KEY}, None, {"mode": "dryrun"}, "offline"),
        ("auto", {"WANDB_API_KEY": KEY}, None, {"mode": "disabled"}, "disabled"),
        ("online", {"WANDB_API_KEY": KEY}, None, {"mode": "offline"}, "offline"),
        (
            "auto",
            {"WANDB_API_KEY": KEY},
            None,
            {"mode": "offline", "nosuchkey": "1"},
            "offline",
        ),  # the client drops such a file
        ("offline", {"WANDB_API_KEY": KEY}, None, {"mode": "online"}, "offline"),
        ("auto", {}, None, {"mode": "online"}, "offline"),
        ("online", {"WANDB_API_KEY": KEY, "WANDB_DISABLED": "true"}, None, {}, "disabled"),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_DISABLED": "false"}, None, {}, "online"),
        # WANDB_MODE decides, in all spellings that the client accepts
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_MODE": "dryrun"}, None, {}, "offline"),
        ("offline", {"WANDB_MODE": "run"}, None, {"mode": "offline"}, "online"),
        ("auto", {"WANDB_MODE": "online", "WANDB_SILENT": "true"}, None, {"mode": "disabled"}, "online"),
    ],
)
@pytest.mark.parametrize("place", ["folder", "home"])
def test_mode_and_login_are_the_clients(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wanted: str,
    environment: dict[str, str],
    netrc: str | None,
    file: dict[str, str],
    mode: str,
    place: str,
) -> None:
    """Settings files in the folder or the user's, netrc with a port, and variables. Catches a login that is overlooked,
    one that the client does not have, and a run that goes to a server although it should stay here."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if netrc:
        (tmp_path / "netrc").write_text(netrc + "\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    if file:
        _settings_file(tmp_path / ("wandb" if place == "folder" else "config"), **file)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    if environment.get("WANDB_MODE") == "run":
        assert wandb_mode(wanted) == ("online", "WANDB_MODE=run")
    assert wandb_mode(wanted)[0] == mode
    if "base_url" in file:
        assert _root().name == "wb.example-8443"


@pytest.mark.parametrize(
    ("environment", "file", "says"),
    [
        ({"WANDB_MODE": "sometimes"}, {}, "WANDB_MODE = sometimes is not a mode.*offline"),
        ({"WANDB_MODE": ""}, {}, "WANDB_MODE =  is not a mode"),
        ({"WANDB_MODE": "shared"}, {}, "WANDB_MODE = shared: a training cannot have this mode"),
        ({}, {"mode": "sometimes"}, "settings file .*settings = sometimes: a training cannot"),
        ({"WANDB_API_KEY": "tooshort"}, {}, "refuses the login for https://.*: WANDB_API_KEY invalid"),
        ({"WANDB_API_KEY": KEY, "WANDB_IDENTITY_TOKEN_FILE": "t"}, {}, "Both WANDB_API_KEY and WANDB_IDENTITY_TOKEN"),
        ({"WANDB_BASE_URL": "wb.corp"}, {}, "refuses WANDB_BASE_URL: .*URL"),
        ({"WANDB_RUN_ID": "a/b"}, {}, "Run ID cannot contain"),
    ],
)
def test_what_the_client_refuses_is_an_error_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], file: dict[str, str], says: str
) -> None:
    """The error is one paragraph without the key, also the second time. Catches the client's half-read settings, with
    which the next run in this Python would be online."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if file:
        _settings_file(tmp_path / "wandb", **file)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        with pytest.raises(UserError, match=says) as caught:
            wandb_mode("auto")
        assert "tooshort" not in str(caught.value)


def test_wandb_offline_keeps_a_run_here(
    tmp_path: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real `wandb offline` is used, and there is a login. No request reaches the server. This also holds later,
    when numbers are added by someone with a login and without that file. Catches an upload of data that should stay
    here."""
    processes.wandb_cli(tmp_path, "offline")
    monkeypatch.chdir(tmp_path)
    folder = train(tiny(tmp_path, *SHORT))
    assert f"W&B: offline (W&B's settings file {tmp_path}/wandb/settings)" in capsys.readouterr().out
    (tmp_path / "wandb/settings").unlink()
    wandb.teardown()
    with RunFolder.at(folder) as held:
        held.amend(2, {"curvature/ref_trace_mean": 1.0}, {})
        assert "ddpm sync" in send_amended(held, [2])
    assert server.requests == []


def test_a_login_with_host_and_port_is_used(
    tmp_path: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server is in the user's settings file, the key in netrc, and the environment has neither: the run is online
    there. Catches a host that is read only from the environment."""
    wbauth.write_netrc_auth(host=server.url, api_key=server.api_key)
    _settings_file(tmp_path / "config", base_url=server.url)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.delenv("WANDB_BASE_URL")
    monkeypatch.delenv("WANDB_API_KEY")
    train(tiny(tmp_path, *SHORT))
    assert f"W&B: online (logged in at {server.url})" in capsys.readouterr().out
    assert [run.state for run in server.runs.values()] == ["finished"]


# --- two trainings are two runs ---


def _leave_over(monkeypatch: pytest.MonkeyPatch, *but: str) -> None:
    for name, value in LEFT_OVER.items():
        if name not in but:
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("SM_TRAINING_ENV", "{}")  # on SageMaker the client names a run after its job
    monkeypatch.setenv("TRAINING_JOB_NAME", "job")


def test_a_shell_that_is_used_again_names_no_run(
    tmp_path: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shell has variables from an earlier run. Two trainings are two W&B runs with their own names, and a line says
    which variables are not used. The first run's agent variables do not make the second run a part of it."""
    client._say.cache_clear()
    _leave_over(monkeypatch, "WANDB_SWEEP_ID")
    first, second = (tiny(tmp_path, *SHORT, arm=arm) for arm in ("e5", "e6"))
    folders = [train(cfg) for cfg in (first, second)]
    out = capsys.readouterr().out
    for name in set(LEFT_OVER) - {"WANDB_SWEEP_ID"}:
        assert f"{name} (" in out, name
    assert out.count("W&B's own settings that are not used") == 1
    records = {record["wandb_id"]: record for record in map(_records, folders)}
    assert len(records) == 2
    assert {run.id for run in server.runs.values()} == set(records)
    for run in server.runs.values():
        wanted = records[run.id]["config"]["logging"]["wandb"]
        assert (run.name, run.group) == (wanted["run_name"], records[run.id]["experiment"])
        assert (run.project, run.job_type, run.notes or "") == (wanted["project"], "train", "")
        assert set(run.tags) == set(wanted["tags"])

    id = _records(folders[0])["wandb_id"]
    agent = {"WANDB_ENTITY": server.entity, "WANDB_PROJECT": run.project, "WANDB_RUN_ID": id}
    for name, value in {**agent, "WANDB_SWEEP_ID": "s"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=rf"{second.run_id}, the W&B run .* which belongs to {first.run_id}"):
        fetch_point(tiny(tmp_path, *SHORT, f"--out_dir={tmp_path / 'elsewhere'}"))
    with pytest.raises(UserError, match=f"which belongs to {first.run_dir}"):
        train(tiny(tmp_path, *SHORT, "--seed=5"))


def test_sync_gives_each_run_its_own_whatever_the_shell_holds(
    tmp_path: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shell has an agent's variables, WANDB_RESUME=must and others. One run from W&B's files and one from its run
    folder arrive with their own ids and names. Catches the client's way, which would put both into the agent's run."""
    folders = [
        train(tiny(tmp_path, *SHORT, "--logging.wandb.mode=offline", arm="e5")),
        train(tiny(tmp_path, *SHORT, NO_WANDB)),
    ]
    _leave_over(monkeypatch)
    assert all("uploaded" in line for line in sync(tmp_path / "runs"))
    names = {r["wandb_id"]: r["config"]["logging"]["wandb"]["run_name"] for r in map(_records, folders)}
    assert {run.id: run.name for run in server.runs.values()} == names
    assert not any(run.sweep for run in server.runs.values())


# --- what `ddpm sync` sends ---


def _steps(run: RunRecord) -> list[int]:
    return [row["step"] for row in run.history]


def test_a_missing_artifact_is_sent_as_an_artifact(tmp_path: Path, server: StandIn) -> None:
    """One sample grid's artifact was deleted on the server, and one upload fails on the way. Rows and pictures do not
    change. Catches duplicate rows."""
    folder = train(tiny(tmp_path, *SCORED))
    (run,) = server.runs.values()
    before, media = list(run.history), set(run.files)
    server.delete_artifact(server.artifact(f"{run.id}-samples:step-2"))
    server.fail(400, times=2, where="CreateArtifact")
    with pytest.raises(UserError, match="1 of 1 runs are not completely on the server"):
        list(sync(folder))
    (line,) = sync(folder)
    assert line.startswith(f"{folder}: uploaded 1 sample grid; removed ")  # the copies from the failed upload
    assert not staged.sizes()
    assert server.artifact(f"{run.id}-samples:step-2")
    assert run.history == before
    assert {name for name in run.files if "media" in name} == {name for name in media if "media" in name}


def test_the_runs_after_one_that_fails_are_tried(tmp_path: Path, server: StandIn) -> None:
    """The first run names an entity that the server refuses. The second run arrives, and the last message says how many
    did not. A server that is down is not asked again for each run."""
    train(tiny(tmp_path, *SHORT, NO_WANDB, "--logging.wandb.entity=nobody", arm="e5"))
    train(tiny(tmp_path, *SHORT, NO_WANDB))
    lines = []
    with pytest.raises(UserError, match="1 of 2 runs are not completely on the server"):
        for line in sync(tmp_path / "runs"):
            lines.append(line)
    assert "e5" in lines[0] and "not uploaded completely: " in lines[0]
    assert "uploaded 2 rows" in lines[1]
    assert [_steps(run) for run in server.runs.values()] == [[0, 2]]
    server.down()
    with pytest.raises(UserError, match=r"cannot be asked.* 1 more runs were not tried"):
        list(sync(tmp_path / "runs"))


# --- the staging folder ---


def test_copies_that_have_arrived_are_removed(
    tmp_path: Path, server: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    """An offline run says where its copies are and how large they are. `ddpm sync` removes the copies that the server
    confirms and no others: not another project's file, not a file that took over one of our names, not a copy that has
    not arrived."""
    folder = train(tiny(tmp_path, *SCORED, "--logging.wandb.mode=offline"))
    place = client.staging_folder()
    own = sorted(place.iterdir())
    assert f"W&B keeps {len(own)} copies" in (out := capsys.readouterr().out) and str(place) in out
    (place / "tmpstranger").write_bytes(b"another project's")
    waits = {"path": str(place / "tmpwaits"), "md5": base64.b64encode(hashlib.md5(b"waits").digest()).decode()}
    Path(waits["path"]).write_bytes(b"waits")
    with (folder / staged.FILE).open("a") as file:
        file.write(json.dumps({**waits, "artifact": "not on the server"}) + '\n{"path": "torn')
    (line,) = sync(folder)
    assert f"removed {len(own)} copies" in line and "1 copy (0.0 MB) that the server does not have stays" in line
    own[0].write_bytes(b"somebody else's, under a name that was ours")
    assert [line.partition("; ")[0] for line in sync(folder)] == [f"{folder}: everything is on the server"]
    assert sorted(path.name for path in place.iterdir()) == sorted([own[0].name, "tmpstranger", "tmpwaits"])


def test_checkpoints_can_stay_out_of_it(tmp_path: Path, server: StandIn) -> None:
    """checkpoint.upload=false keeps the run id, puts no checkpoint into the staging folder and none on the server. A
    run that was deleted on the server is uploaded again from W&B's files, although the client has marked them as
    sent."""
    plain = ("--logging.wandb.mode=offline", *SCORED, "--train.total_steps=2")
    cfg = tiny(tmp_path, *plain, "--checkpoint.upload=false")
    assert cfg.run_id == tiny(tmp_path, *plain).run_id
    folder = train(cfg)
    sizes = {path.stat().st_size for path in client.staging_folder().iterdir()}
    (checkpoint,) = (folder / "checkpoints").iterdir()
    assert sizes and checkpoint.stat().st_size not in sizes
    (line,) = sync(folder)
    assert "uploaded W&B's files" in line
    assert {a.type for a in server.artifacts} == {"config", "dataset", "samples"}
    assert list(sync(folder)) == [f"{folder}: everything is on the server"]
    server.runs.clear()
    server.artifacts_by_id.clear()
    (line,) = sync(folder)
    assert "uploaded W&B's files, 1 sample grid, the config" in line
    assert [(_steps(run), bool(run.console)) for run in server.runs.values()] == [([0, 2], True)]


def test_a_project_with_brackets_is_found_in_the_cache() -> None:
    """The project's name is not a glob pattern. Catches an `--offline-cache` that says the project was never read."""
    folder = _folder(["study", "p[1]", "run"])
    folder.mkdir(parents=True)
    (folder / "history.jsonl").touch()
    (folder / "card.json").write_text('{"bytes": 0}')
    assert _cached("study/p[1]") == _cached("p[1]") == [folder]
