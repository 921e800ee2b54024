"""Without wandb installed, everything runs except what needs its files or its server."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from ddpm.errors import UserError
from ddpm.tracking.open_run import possible_mode
from tests.once import HANGS, once
from tests.training.test_train import NO_WANDB, PLAIN, ROOT, TINY

E6 = str(ROOT / "configs/smoke/e6.yaml")
RUN = [E6, *TINY, *PLAIN, "--train.total_steps=2", "--out_dir=runs"]
FROM_RUNS = ["--from", "runs", "--out", "out/report"]
DISABLED: dict[str, str] = {"WANDB_MODE": "disabled"}


def _commands(run: str) -> dict[str, tuple[dict[str, str], list[str]]]:
    """The commands to run, by name; `run`: the folder of the first one."""
    return {
        "train": ({}, ["train", *RUN, "--id=run", NO_WANDB]),
        "train again": ({}, ["train", *RUN, "--id=run", NO_WANDB]),
        "train, by WANDB_MODE": (DISABLED, ["train", *RUN, "--id=other"]),
        "probe": ({}, ["probe", run, "--probes", "2"]),
        "sample": ({}, ["sample", run, "--n", "2", "--nfe", "2"]),
        "evaluate": ({}, ["evaluate", run, "--n", "70", "--nfe", "2"]),
        "report": ({}, ["report", "e6", *FROM_RUNS]),
        "train, auto": ({}, ["train", *RUN, "--id=auto"]),
        "train, offline": ({}, ["train", *RUN, "--id=offline", "--logging.wandb.mode=offline"]),
        "train, by WANDB_MODE=online": ({"WANDB_MODE": "online"}, ["train", *RUN, "--id=online", NO_WANDB]),
        "sync": ({}, ["sync", "runs"]),
        "dashboard": ({}, ["dashboard", "e6", "--publish", "me/study"]),
        "doctor": ({}, ["doctor"]),
    }


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder in which the commands ran, and each command's result."""

    def make(folder: Path) -> None:
        (folder / "commands.json").write_text(json.dumps(list(_commands("runs/e6/run").values())))
        words = [sys.executable, str(Path(__file__).with_name("without_wandb.py")), "commands.json"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=HANGS)
        assert done.returncode == 0, done.stdout + done.stderr
        (folder / "results.jsonl").write_text(done.stdout)

    folder = once(tmp_path_factory, "without-wandb", make)
    lines = (folder / "results.jsonl").read_text().splitlines()
    return folder, dict(zip(_commands(""), map(json.loads, lines), strict=True))


@pytest.mark.parametrize(
    "name", ["train", "train again", "train, by WANDB_MODE", "probe", "sample", "evaluate", "report"]
)
def test_disabled_imports_nothing_of_wandb(name: str, results: tuple[Path, dict[str, Any]]) -> None:
    """Catches any import, also one whose failure would be caught."""
    result = results[1][name]
    assert result["code"] == 0, result["said"]
    assert result["tried"] == []


def test_what_they_leave_is_whole(results: tuple[Path, dict[str, Any]]) -> None:
    """There is a finished run with its probe, a record that says wandb was missing, and the report's page. Catches a
    run that lacks more than W&B."""
    folder, said = results
    record = json.loads((folder / "runs/e6/run/run.json").read_text())
    assert record["sessions"][0]["environment"]["wandb"] is None and record["sessions"][0]["wandb_mode"] == "disabled"
    assert (folder / "runs/e6/run/results.jsonl").exists()
    assert "curvature/missing_hutchinson" in (folder / "runs/e6/run/loss.jsonl").read_text()
    assert (folder / "out/report/report.html").exists() and not list(folder.rglob("*.wandb"))
    assert "W&B: disabled (logging.wandb.mode)" in said["train"]["said"]
    assert "W&B: disabled (WANDB_MODE)" in said["train, by WANDB_MODE"]["said"]


def test_auto_trains_without_it_and_says_so(results: tuple[Path, dict[str, Any]]) -> None:
    """Catches a traceback with the default mode, and a training that is silently not tracked."""
    folder, said = results
    assert said["train, auto"]["code"] == 0
    assert [line for line in said["train, auto"]["said"].splitlines() if "wandb is not installed" in line]
    assert (folder / "runs/e6/auto/results.jsonl").exists()


@pytest.mark.parametrize("name", ["train, offline", "train, by WANDB_MODE=online"])
def test_a_mode_that_needs_it_is_refused(name: str, results: tuple[Path, dict[str, Any]]) -> None:
    """Catches an untracked run although tracking was asked for, and a half-made run folder."""
    folder, said = results
    assert said[name]["code"] == 2
    assert "needs the package wandb" in said[name]["said"] and "pip install wandb" in said[name]["said"]
    assert not (folder / "runs/e6" / name.rpartition(" ")[2].rpartition("=")[2]).exists()


@pytest.mark.parametrize("name", ["sync", "dashboard"])
def test_a_command_that_needs_it_says_so(name: str, results: tuple[Path, dict[str, Any]]) -> None:
    """Catches a traceback."""
    result = results[1][name]
    assert result["code"] == 2
    assert result["said"].splitlines()[-1] == "ddpm: error: This needs wandb, which is not installed: pip install wandb"


def test_doctor_says_that_it_is_missing(results: tuple[Path, dict[str, Any]]) -> None:
    """The demo needs wandb, and the doctor says how a training runs without it. Catches a doctor that stops there."""
    said = results[1]["doctor"]["said"]
    assert "MISSING  wandb: No module named 'wandb'" in said
    assert "missing  W&B login: disabled (the package wandb is not installed" in said


def test_a_folder_of_that_name_is_no_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs leave a folder `wandb`. `python -m ddpm` beside it imports that folder as an empty package if wandb is not
    installed. Catches a traceback at its first use."""
    monkeypatch.setitem(sys.modules, "wandb", types.ModuleType("wandb"))
    assert possible_mode("auto")[0] == "disabled"
    assert possible_mode("disabled") == ("disabled", "logging.wandb.mode")
    with pytest.raises(UserError, match=r"logging\.wandb\.mode = online needs the package wandb"):
        possible_mode("online")
