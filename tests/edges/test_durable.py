"""Run folders after a power cut, without their record, or finished and damaged; and Ctrl-C while the program loads."""

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ddpm.config.run import Config
from ddpm.errors import UserError
from ddpm.runtime.checkpoint import checkpoint_path, list_checkpoints
from ddpm.tracking.run_folder import RunFolder
from ddpm.training.loop import train
from tests.once import once
from tests.training.test_train import NO_WANDB, PLAIN, tiny

KEYS = (*PLAIN, NO_WANDB, "--checkpoint.every=1", "--checkpoint.keep=9", "--logging.log_every_n_steps=1")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of four steps. Tests only read it."""
    return tiny(once(tmp_path_factory, "durable", lambda root: train(tiny(root, *KEYS))), *KEYS).run_dir


def _copy(whole: Path, tmp_path: Path) -> Config:
    """Copy the run's folder into `tmp_path`. Returns the config of that copy."""
    cfg = tiny(tmp_path, *KEYS)
    shutil.copytree(whole, cfg.run_dir)
    return cfg


def _rows(folder: Path) -> list[dict[str, Any]]:
    """The rows, without their times."""
    rows = [json.loads(line) for line in (folder / "loss.jsonl").read_text().splitlines()]
    return [{"_i": r["_i"], **{k: v for k, v in r["out"].items() if not k.startswith("time/")}} for r in rows]


# --- a power cut ---


class Disk:
    """What a power cut leaves of a folder in the worst case that POSIX allows. A file has its content from its last
    fsync (empty without one); a folder has its names from its last fsync. `early`: names are there at once, as on most
    file systems."""

    def __init__(self, root: Path):
        self.root = root
        self.contents: dict[int, bytes] = {}
        self.names: dict[int, dict[str, tuple[int, bool]]] = {root.stat().st_ino: {}}
        self.synced: list[str] = []
        self.states: list[dict[str, bytes]] = []
        self._open: list[int] = []  # keeps the inode numbers of deleted files from being reused

    def fsync(self, descriptor: int) -> None:
        self._open.append(os.dup(descriptor))
        info = os.fstat(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}")
        self.synced.append(path.readlink().name)
        if stat.S_ISDIR(info.st_mode):
            self.names[info.st_ino] = self._names_in(path)
        else:
            self.contents[info.st_ino] = path.read_bytes()
        for early in (True, False):
            self.states.append(dict(self._walk(self.root.stat().st_ino, self.root, "", early)))

    def _names_in(self, folder: Path) -> dict[str, tuple[int, bool]]:
        return {path.name: (path.stat().st_ino, path.is_dir()) for path in folder.iterdir()}

    def _walk(self, number: int, real: Path, at: str, early: bool) -> Iterator[tuple[str, bytes]]:
        names = self._names_in(real) if early else self.names.get(number, {})
        for name, (inside, is_folder) in names.items():
            if is_folder:
                yield from self._walk(inside, real / name, f"{at}{name}/", early)
            else:
                yield f"{at}{name}", self.contents.get(inside, b"")

    def close(self) -> None:
        for descriptor in self._open:
            os.close(descriptor)


@contextlib.contextmanager
def _watched(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk(root)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", disk.fsync)
        yield disk
    disk.close()


def _assert_continuable(state: dict[str, bytes], run: str) -> int:
    """After a power cut there is no run yet, or it has its record and each row before its newest checkpoint. Returns
    that checkpoint's step."""
    files = {name.removeprefix(f"{run}/"): content for name, content in state.items() if name.startswith(f"{run}/")}
    if not files:
        return 0
    assert json.loads(files["run.json"])["config"] and files["config.yaml"]
    steps = [int(n[17:23]) for n, content in files.items() if n.startswith("checkpoints/step-") and n.endswith(".pt")]
    assert all(content for name, content in files.items() if name.endswith(".pt")), "a checkpoint is there and empty"
    lines = files.get("loss.jsonl", b"").splitlines()
    assert {json.loads(line)["_i"] for line in lines} >= set(range(max(steps, default=0)))
    if "results.jsonl" in files:
        assert json.loads(files["results.jsonl"])["out"] and len(lines) == 5
    return max(steps, default=0)


def test_a_power_cut_at_any_moment_loses_no_row_that_a_checkpoint_presumes(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each moment of a run and of its continuation, everything that was not fsynced is lost. A run that continues
    from there has all rows. Catches a checkpoint on disk before its earlier rows, an empty run.json, and names that
    never reached the disk."""
    root = tmp_path / "a"
    root.mkdir()
    cfg = tiny(root, *KEYS)
    run = str(cfg.run_dir.relative_to(root))
    with _watched(root, monkeypatch) as disk:
        train(cfg)
    found = [_assert_continuable(state, run) for state in disk.states]
    assert set(found) == {0, 1, 2, 3, 4} and found[-1] == 4

    state = disk.states[found.index(3, found.index(3) + 1)]  # only names that were fsynced
    continued = tmp_path / "b"
    for name, content in state.items():
        (continued / name).parent.mkdir(parents=True, exist_ok=True)
        (continued / name).write_bytes(content)
    with _watched(continued, monkeypatch) as disk:
        disk.names = {}
        for folder in (continued, *(path for path in continued.rglob("*") if path.is_dir())):
            disk.names[folder.stat().st_ino] = disk._names_in(folder)
        disk.contents = {path.stat().st_ino: path.read_bytes() for path in continued.rglob("*") if path.is_file()}
        folder = train(tiny(continued, *KEYS))
    for state in disk.states:
        assert _assert_continuable(state, run) in (2, 3, 4)
    assert _rows(folder) == _rows(whole)


def test_rows_are_synced_at_checkpoints_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an fsync at each row, which would take longer than the step."""
    cfg = tiny(tmp_path, *KEYS, "--checkpoint.every=100", "--eval.fid_milestone.every=100", "--train.total_steps=8")
    with _watched(tmp_path, monkeypatch) as disk:
        disk.states = []
        monkeypatch.setattr(Disk, "_walk", lambda *_: iter(()))
        train(cfg)
    assert disk.synced.count("loss.jsonl") <= 3


def test_rows_that_no_checkpoint_brings_back_are_counted(whole: Path, tmp_path: Path, capfd: Any) -> None:
    """One line gives their number and range. Catches a run that silently continues, and one that lists 600 steps."""
    cfg = _copy(whole, tmp_path)
    (cfg.run_dir / "results.jsonl").unlink()
    for step in (1, 2, 4):
        checkpoint_path(cfg.run_dir, step).unlink()
    lines = (cfg.run_dir / "loss.jsonl").read_text().splitlines(keepends=True)
    (cfg.run_dir / "loss.jsonl").write_text(lines[0])
    train(cfg)
    said = capfd.readouterr().out
    assert "loss.jsonl lacks 2 rows (steps 1 ... 2) from before the checkpoint of step 3" in said
    assert "those rows stay lost" in said
    assert [row["_i"] for row in _rows(cfg.run_dir)] == [0, 3, 4]


# --- lost files of a run folder ---


@pytest.mark.parametrize("content", [b"", None])
def test_a_lost_record_is_made_again_from_a_checkpoint(
    whole: Path, tmp_path: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """run.json is empty, torn or absent beside good checkpoints. The run is continued, one line says what was lost, and
    the damaged file is kept aside. Catches a run of days that can only be deleted."""
    cfg = _copy(whole, tmp_path)
    (cfg.run_dir / "results.jsonl").unlink()
    checkpoint_path(cfg.run_dir, 4).unlink()
    before = json.loads((cfg.run_dir / "run.json").read_text())
    (cfg.run_dir / "run.json").unlink() if content is None else (cfg.run_dir / "run.json").write_bytes(content)
    with pytest.raises(UserError, match=r"another config: optim\.lr was"):
        RunFolder(tiny(tmp_path, *KEYS, "--optim.lr=0.5"), cfg.run_dir).check()
    train(cfg)
    said = capsys.readouterr().out
    assert said.count("run.json was lost") == 1 and f"continuing {cfg.run_id} after step 3" in said
    assert _rows(cfg.run_dir) == _rows(whole)
    now = json.loads((cfg.run_dir / "run.json").read_text())
    # Which criteria stood at its start is lost: they may have changed since.
    assert {*before} - {"criteria"} == {*now} and now["wandb_id"] != before["wandb_id"]
    assert {k: now[k] for k in ("run_id", "data", "params", "protocols", "experiment", "seed")} == {
        k: before[k] for k in ("run_id", "data", "params", "protocols", "experiment", "seed")
    }
    if content is not None:
        assert (cfg.run_dir / "run.json.damaged").read_bytes() == content


@pytest.mark.parametrize("record", ["{", "[]", "[" * 200_000, '{"run_id": 3}', "sessions", "config"])
def test_a_record_of_another_shape_is_a_lost_one(whole: Path, tmp_path: Path, record: str) -> None:
    """Every reader of a run folder treats it as lost. Catches a KeyError, and a RecursionError from 200,000
    brackets."""
    cfg = _copy(whole, tmp_path)
    path = cfg.run_dir / "run.json"
    other = json.loads(path.read_text()) | {record: [5]}
    path.write_text(json.dumps(other) if record in ("sessions", "config") else record)
    with RunFolder.at(cfg.run_dir) as folder:
        assert folder.record["config"]["experiment"] == "e6" and folder.finished
    shutil.rmtree(cfg.run_dir / "checkpoints")
    path.write_text("{")
    with pytest.raises(UserError, match=r"its run\.json is lost .* and it has no intact checkpoint"):
        RunFolder.at(cfg.run_dir)


@pytest.mark.parametrize("content", ["", "\n", "{}", "[]", '{"out": '])
def test_a_result_that_holds_nothing_is_none(
    whole: Path, tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`ddpm train` and the reports agree: the run is not finished, and is finished again. Catches two readings of one
    file."""
    from reports.sources.folders import read_run

    cfg = _copy(whole, tmp_path)
    (cfg.run_dir / "results.jsonl").write_text(content)
    assert read_run(cfg.run_dir).state == "unfinished"
    assert RunFolder(cfg).over() is None
    if content:
        return
    train(cfg)
    assert "results.jsonl holds no result: the run counts as not finished" in capsys.readouterr().out
    assert read_run(cfg.run_dir).state == "finished"
    assert _rows(cfg.run_dir) == _rows(whole)


def test_a_finished_run_with_a_torn_last_row_measures_it_again(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The row is measured from the last checkpoint, without a training step. Catches a run that counts as finished and
    lacks its last row."""
    cfg = _copy(whole, tmp_path)
    rows = cfg.run_dir / "loss.jsonl"
    rows.write_bytes(rows.read_bytes()[:-10])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ddpm.training.loop.train_step", None)
        train(cfg)
    assert "of a finished run lacks 1 row (step 4)" in capsys.readouterr().out
    assert _rows(cfg.run_dir) == _rows(whole)
    train(cfg)
    assert "warning" not in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["a row is gone", "a line is torn", "no checkpoint"])
def test_a_finished_run_with_other_damage_names_it(
    whole: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Damage that only more training could repair is named, and no file changes. Catches a plain "finished", and
    weights that are trained again under numbers from other weights."""
    cfg = _copy(whole, tmp_path)
    rows = cfg.run_dir / "loss.jsonl"
    lines = rows.read_text().splitlines(keepends=True)
    if damage == "no checkpoint":
        shutil.rmtree(cfg.run_dir / "checkpoints")
        lines[4] = lines[4][:-10]
    else:
        lines[2] = lines[2][:20] + "\n" if damage == "a line is torn" else ""
    rows.write_text("".join(lines))
    before = {path: path.read_bytes() for path in cfg.run_dir.rglob("*") if path.is_file()}
    assert train(cfg) == cfg.run_dir
    said = capsys.readouterr().out
    assert f"it lacks 1 row (step {4 if damage == 'no checkpoint' else 2})" in said
    torn = {"a line is torn": "line(s) 3 do not parse", "no checkpoint": "line(s) 5 do not parse"}.get(damage)
    assert torn in said if torn else "do not parse" not in said
    assert "cannot be brought back" in said and "finished already" in said
    assert {path: path.read_bytes() for path in cfg.run_dir.rglob("*") if path.is_file()} == before


def test_checkpoints_that_a_step_back_drops_go_before_their_rows(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a kill between the two that leaves a checkpoint without its rows."""
    cfg = _copy(whole, tmp_path)
    seen = []
    monkeypatch.setattr(
        "ddpm.tracking.run_folder.write_whole", lambda path, _: seen.append(list_checkpoints(cfg.run_dir))
    )
    with RunFolder(cfg) as folder:
        folder.continuing(2, {}, cfg.nested(), {})
    assert [path.name for path in seen[0]] == ["step-000001.pt", "step-000002.pt"]


# --- while the program loads ---


def test_an_interrupt_while_the_program_is_loaded_is_no_traceback(tmp_path: Path) -> None:
    """Ctrl-C during the import of the command line ends the process as SIGINT does. After that import it gives one line
    and code 130. Catches a traceback through half of the standard library."""
    code = (
        "import os, runpy, signal, sys\n"
        "class At:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == {module!r}: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, At()); sys.argv = ['ddpm', 'metrics']\n"
        "runpy.run_module('ddpm', run_name='__main__')\n"
    )
    for module, ends in (("ddpm.commands.cli", -signal.SIGINT), ("ddpm.metrics.table", 130)):
        ended = subprocess.run([sys.executable, "-c", code.format(module=module)], capture_output=True, text=True)
        assert ended.returncode == ends, ended.stderr
        assert "Traceback" not in ended.stderr
