"""An interrupted run, continued by the same command, ends in the same bits as one that was left alone."""

import functools
import json
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from ddpm.config.run import Config
from ddpm.files import disk
from ddpm.models.stored import load_checkpoint
from ddpm.runtime.checkpoint import checkpoint_path, digest
from tests import processes
from tests.once import once
from tests.training.test_train import tiny

# Every step has a checkpoint. Probes, grids, milestones, reconstructions (step 7) and plain rows fall on different
# steps. Dropout draws random numbers too.
SHORT = [
    "--train.total_steps=9",
    "--model.dropout=0.1",
    "--logging.log_every_n_steps=2",
    "--eval.grid.every=4",
    "--eval.fid_milestone.every=3",
    "--eval.recon.every=7",
    "--checkpoint.every=1",
]


def short(folder: Path, *overrides: str) -> Config:
    return tiny(folder, *SHORT, *overrides)


def _rows(cfg: Config) -> list[dict[str, Any]]:
    """The logged rows, without the times."""
    rows = [json.loads(line) for line in (cfg.run_dir / "loss.jsonl").read_text().splitlines()]
    return [{"_i": r["_i"], **{k: v for k, v in r["out"].items() if not k.startswith("time/")}} for r in rows]


def _end(cfg: Config) -> str:
    """Digest of the last checkpoint without times and place: weights, EMA, Adam, data order, random streams."""
    state = load_checkpoint(checkpoint_path(cfg.run_dir, cfg.train.total_steps))
    return digest({k: v for k, v in state.items() if k not in ("elapsed_s", "seconds", "config")})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The run without interruptions."""
    return short(once(tmp_path_factory, "undisturbed", lambda folder: _train(short(folder))))


def _train(cfg: Config) -> None:
    assert processes.run(cfg) == 0, processes.log(cfg)


def assert_same(cfg: Config, undisturbed: Config) -> None:
    assert _rows(cfg) == _rows(undisturbed)
    assert _end(cfg) == _end(undisturbed)
    for path in (undisturbed.run_dir / "samples").iterdir():
        assert (cfg.run_dir / "samples" / path.name).read_bytes() == path.read_bytes()
    assert (cfg.run_dir / "results.jsonl").exists()


def _at(target: str, number: int = 1) -> processes.Sabotage:
    return functools.partial(processes.at_call, target, number, processes.kill)


def _at_sync(name: str) -> None:
    """The process is killed before the file or folder with that name is synced to the disk."""
    original = disk.sync
    mock.patch("ddpm.files.disk.sync", lambda path: processes.kill() if path.name == name else original(path)).start()


# One run is killed at these places, one after the other. Each process continues from what the previous one left.
KILLS = {
    "before the first step": _at("ddpm.training.loop.fit"),
    "before the first sample": _at("ddpm.evaluation.evaluator.draw"),
    "before a milestone's row": _at("ddpm.tracking.run_folder.RunFolder.append"),
    "between a milestone's row and its artifact": _at("ddpm.tracking.tracker.Tracker.log_checkpoint"),
    "in a probe": _at("ddpm.curvature.hessian.squares._Network.passed", 2),
    "in a checkpoint's write, before it has its name": functools.partial(_at_sync, "step-000005.pt.part"),
    "and after": functools.partial(_at_sync, "checkpoints"),
    "in the second milestone's evaluation": _at("ddpm.evaluation.scores.frechet_distance"),
    "between two timesteps of a reconstruction": _at("ddpm.evaluation.reconstruction.eps_from_x0", 2),
    "after the last row, before the run counts as finished": _at("ddpm.tracking.tracker.Tracker.finish"),
}


def test_kills_in_the_middle(tmp_path: Path, undisturbed: Config) -> None:
    """Weights, EMA, optimizer, data order, random streams, every row and every grid are bitwise those of the
    undisturbed run."""
    cfg = short(tmp_path)
    for where, sabotage in KILLS.items():
        assert processes.run(cfg, sabotage) == -signal.SIGKILL, f"{where}: {processes.log(cfg)}"
        assert not (cfg.run_dir / "results.jsonl").exists()
    assert processes.run(cfg) == 0, processes.log(cfg)
    assert_same(cfg, undisturbed)


def test_a_kill_steps_after_the_last_checkpoint(tmp_path: Path, undisturbed: Config) -> None:
    """Rows after the last checkpoint are there when the run is continued. They are logged again, and the old ones do
    not count. (On a GPU the old rows would come from other weights; here one row is marked.)"""
    cfg = short(tmp_path, "--checkpoint.every=100")
    assert (
        processes.run(cfg, functools.partial(processes.at_call, "ddpm.training.loop.train_step", 6, processes.kill)) < 0
    )
    assert [row["_i"] for row in _rows(cfg)] == [0, 2, 3, 4]
    log = cfg.run_dir / "loss.jsonl"
    log.write_text(log.read_text().replace('"train/images_seen": 16', '"train/images_seen": -1'))
    assert _rows(cfg)[-1]["train/images_seen"] == -1
    assert processes.run(cfg) == 0, processes.log(cfg)
    assert f"continuing {cfg.run_id} after step 3" in processes.log(cfg)
    assert_same(cfg, undisturbed)


# The same writes, with less computation between them.
BRISK = [
    *SHORT,
    "--train.total_steps=8",
    "--curvature.every=4",
    "--eval.fid_milestone.every=4",
    "--eval.fid_milestone.nfe=1",
    "--eval.final.nfe=1",
    "--eval.recon.every=8",
]


def test_kill_9_at_random_moments(tmp_path: Path) -> None:
    """A run is killed at six random moments between its start and its end. Catches an order of writes that a kill can
    break."""
    undisturbed = tiny(tmp_path / "undisturbed", *BRISK)
    processes.ready()
    start = time.monotonic()
    assert processes.run(undisturbed) == 0
    longest = time.monotonic() - start

    def kill_and_continue(i: int) -> bool:
        cfg = tiny(tmp_path / str(i), *BRISK)
        process = processes.start(cfg)
        process.join(random.Random(i).uniform(0.0, longest))
        killed = process.exitcode is None
        process.kill()
        process.join()
        assert processes.run(cfg) == 0, processes.log(cfg)
        assert_same(cfg, undisturbed)
        return killed

    with ThreadPoolExecutor(2) as two:
        assert sum(two.map(kill_and_continue, range(6))) >= 3
