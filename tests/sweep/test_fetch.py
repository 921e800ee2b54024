"""A sweep's run that began on another machine gets its folder from W&B's server."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb

from ddpm.config.run import Config
from ddpm.errors import UserError
from ddpm.sweep.fetch import fetch_point
from ddpm.tracking.record import read_record
from tests.training.test_train import NO_WANDB, PLAIN, tiny

ROWS = [
    {"step": 0, "loss/mean_weight": 0.9, "mins_snr_curve/t": [0, 1], "_step": 0, "_runtime": 1.5},
    {"step": 10, "train/loss": 0.5, "train/mse": 0.7, "val/fid": None, "_step": 1},
    {"step": None, "train/loss": 9.0},  # not a training's row
    {"step": 2, "train/loss": "NaN", "samples/grid": {"_type": "image-file"}},
    {"step": 10, "train/loss": 0.25, "val/fid_protocol": "abcd"},  # sent again by a session that continued
]


class Server:
    """W&B's server with one run, as its client presents it. A request for the run raises `error`."""

    def __init__(self, cfg: Config, error: Exception | None = None, **config: Any):
        self.asked: list[str] = []
        self.error = error
        about = {"run_id": cfg.run_id, "commit": "c0ffee", "version": "1", "params": 5, "environment": {"cpus": 2}}
        self.config = cfg.nested() | about | config
        self.id, self.created_at = "agents-run", "2026-01-01T00:00:00"
        self.artifacts = [
            self._artifact("model", "step-2", "latest"),
            self._artifact("model", "step-10", "best"),
            self._artifact("model", "step-9"),
            self._artifact("samples", "step-12"),
        ]

    def _artifact(self, kind: str, *aliases: str) -> Any:
        def download(root: Path) -> None:
            step = int(aliases[0].removeprefix("step-"))
            (Path(root) / f"step-{step:06d}.pt").write_bytes(f"state of {step}".encode())
            (Path(root) / "notes.txt").write_text("no checkpoint")

        return SimpleNamespace(type=kind, aliases=list(aliases), name=f"x:{aliases[0]}", download=download)

    def run(self, path: str) -> "Server":
        self.asked.append(path)
        if self.error:
            raise self.error
        return self

    def logged_artifacts(self) -> list[Any]:
        return self.artifacts

    def scan_history(self) -> list[dict[str, Any]]:
        return ROWS


def _serve(monkeypatch: pytest.MonkeyPatch, server: Server) -> Server:
    """Make this process look like the one that an agent started for the server's run."""
    monkeypatch.setattr(wandb, "Api", lambda timeout: server)
    for name, value in (("ENTITY", "team"), ("PROJECT", "p"), ("RUN_ID", server.id), ("SWEEP_ID", "s")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    return server


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    return tiny(tmp_path, *PLAIN, NO_WANDB)


def test_the_folder_is_what_the_server_has(
    cfg: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder gets the checkpoint of the last step, whatever the order and the aliases. Rows are sorted by step;
    rows of one step are merged, and a key keeps its last value. Only numbers, names and curves are kept. The record has
    the server's id and facts. Catches an older checkpoint, a row without its NaN, and a run that continues as another
    one."""
    server = _serve(monkeypatch, Server(cfg))
    fetch_point(cfg)
    assert server.asked == ["team/p/agents-run"]
    folder = cfg.run_dir
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-000010.pt"]
    assert (folder / "checkpoints/step-000010.pt").read_bytes() == b"state of 10"
    rows = [json.loads(line) for line in (folder / "loss.jsonl").read_text().splitlines()]
    assert [row["_i"] for row in rows] == [0, 2, 10]
    assert rows[0]["out"] == {"loss/mean_weight": 0.9, "mins_snr_curve/t": [0, 1]}
    assert list(rows[1]["out"]) == ["train/loss"] and math.isnan(rows[1]["out"]["train/loss"])
    assert rows[2]["out"] == {"train/loss": 0.25, "train/mse": 0.7, "val/fid_protocol": "abcd"}
    record = json.loads((folder / "run.json").read_text())
    assert (record["wandb_id"], record["run_id"], record["seed"]) == ("agents-run", cfg.run_id, cfg.seed)
    assert (record["commit"], record["params"], record["config"]) == ("c0ffee", 5, cfg.nested())
    assert read_record(folder)["wandb_id"] == "agents-run"  # whole, although the server's run has no criteria
    (session,) = record["sessions"]
    assert (session["wandb"], session["wandb_mode"], session["from_step"]) == ("team/p/agents-run", "online", 0)
    assert {path.name for path in folder.iterdir()} == {
        *("run.json", "run.json.crc", "config.yaml", "checkpoints", "loss.jsonl")
    }
    assert "continuing from W&B's checkpoint x:step-10 (step 10)" in capsys.readouterr().out


def test_nothing_is_asked_where_there_is_nothing_to_fetch(cfg: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fetched outside an agent, if the folder exists, or if the run is to start anew. Catches a run fetched
    because of variables left in the shell, and a folder that is overwritten."""
    server = _serve(monkeypatch, Server(cfg))
    for name in ("WANDB_ENTITY", "WANDB_PROJECT", "WANDB_RUN_ID", "WANDB_SWEEP_ID"):
        with monkeypatch.context() as patch:
            patch.delenv(name)
            fetch_point(cfg)
    fetch_point(cfg.model_copy(update={"clean_run": True}))
    assert not cfg.run_dir.exists()
    cfg.run_dir.mkdir(parents=True)
    fetch_point(cfg)
    assert server.asked == [] and not list(cfg.run_dir.iterdir())


def test_a_run_without_a_checkpoint_begins_at_its_beginning(cfg: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ended before its first checkpoint, has no config yet, or is not known to the server. Catches a folder
    without a checkpoint, which would be a run that cannot continue."""
    server = _serve(monkeypatch, Server(cfg))
    server.artifacts = server.artifacts[3:]
    fetch_point(cfg)
    server = _serve(monkeypatch, Server(cfg))
    del server.config["experiment"]
    fetch_point(cfg)
    _serve(monkeypatch, Server(cfg, wandb.errors.CommError("Could not find run <Run team/p/x (not found)>")))
    fetch_point(cfg)
    assert not cfg.run_dir.exists()


def test_a_server_that_does_not_answer_is_said(
    cfg: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The training begins with a warning. Catches a point that is lost to an outage, and one that silently starts
    over."""
    _serve(monkeypatch, Server(cfg, OSError("no route to host\nat all")))
    fetch_point(cfg)
    assert "warning: nothing is continued from W&B (no route to host)\n" in capsys.readouterr().out
    assert not cfg.run_dir.exists()


def test_the_run_of_another_training_is_refused(cfg: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches rows from two trainings in one W&B run."""
    _serve(monkeypatch, Server(cfg, run_id="e5-s1-abcdef01"))
    with pytest.raises(UserError, match=rf"{cfg.run_id}, the W&B run team/p/agents-run, which belongs to e5-s1-abc"):
        fetch_point(cfg)
    assert not cfg.run_dir.exists()
