"""Trainings that are killed and continued, and trainings in two processes."""

import functools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.claims import REPOSITORY, Claim
from benchmarks.gpu.task import Task, finish, repeatable, start_training
from benchmarks.study import TWO_PROCESSES, rows_of
from ddpm.config.run import Config
from ddpm.models.stored import load_checkpoint
from ddpm.runtime.checkpoint import checkpoint_path
from ddpm.training import loop

Found = Iterator[Claim | str]
# Steps, between logged rows and between checkpoints, and the step in which the process is killed.
STEPS, LOGGED, SAVED, KILLED = 8, 2, 4, 7
# If a device does not give the same bits twice: how far from the uninterrupted training a continued one may end, as a
# multiple of the distance between two uninterrupted ones. Both distances are single draws.
APART = 10.0
# Relative difference of a row's loss in two processes from that in one: two processes sum a batch in two parts, with
# other convolutions. In 100 steps, float32 rounding alone moves a loss by 1e-7. TF32 rounds 2,000 to 8,000 times as
# much.
TWO = 1e-3
# Parts of a checkpoint's state that differ between equal runs: where and how long they ran.
OF_THE_SESSION = ("config", "elapsed_s", "seconds")


def resume(task: Task) -> Found:
    """Trainings in float32 and in fp16, with dropout and the probe: one is killed in the middle and continued."""
    names = ("fp16",) if task.quick else ("fp32", "fp16")
    runs = {(name, kind): _config(task, name, kind) for name in names for kind in ("whole", "again", "killed")}
    started = {run: start_training(cfg, run[0], _before(run[1])) for run, cfg in runs.items()}  # side by side
    for run, process in started.items():
        finish(process, runs[run], -signal.SIGKILL if run[1] == "killed" else 0)
    continued = {name: start_training(runs[name, "killed"], name, repeatable) for name in names}
    for name, process in continued.items():
        finish(process, runs[name, "killed"])
        session = json.loads((runs[name, "killed"].run_dir / "run.json").read_text())["sessions"][-1]
        if session["from_step"] != KILLED // SAVED * SAVED:
            raise RuntimeError(f"the killed training went on from step {session['from_step']}")
        yield from _compared(name, *(runs[name, kind] for kind in ("whole", "again", "killed")))


def _config(task: Task, name: str, kind: str) -> Config:
    return task.config(
        f"--out_dir={task.folder / f'{name}-{kind}'}",
        f"--train.amp={name if name != 'fp32' else 'false'}",
        f"--data.batch_size={task.pick(64, 1)}",
        f"--train.total_steps={STEPS}",
        f"--logging.log_every_n_steps={LOGGED}",
        f"--checkpoint.every={SAVED}",
        "--curvature.enabled=true",
        f"--curvature.every={SAVED}",
        "--curvature.probes=2",
    )


def _before(kind: str):  # type: ignore[no-untyped-def]
    return functools.partial(_killed_at, KILLED) if kind == "killed" else repeatable


def _killed_at(step: int) -> None:
    """Let this process kill itself in the middle of the training step `step`."""
    repeatable()
    original, calls = loop.train_step, 0

    def watched(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    mock.patch.object(loop, "train_step", watched).start()


def _compared(name: str, whole: Config, again: Config, killed: Config) -> Found:
    known, twin, found = (_state(cfg) for cfg in (whole, again, killed))
    control = _differing(known, twin)
    same = not control
    yield f"{name}: two uninterrupted trainings end in {'the same bits' if same else 'other bits'} on this device"
    unsure = sorted({op for cfg in (whole, again) for op in _not_repeatable(cfg)})
    if unsure:
        yield f"{name}: torch has no repeatable algorithm for {', '.join(unsure)}"
    if same:
        rows = [_rows(cfg) for cfg in (whole, killed)]
        yield Claim(f"{name}: rows that a kill changes", sum(a != b for a, b in _paired(*rows)), target=0)
        left = _differing(known, found)
        yield Claim(f"{name}: parts of the last state that a kill changes", len(left), target=0)
    else:
        exact = {key for key in known if not key.startswith(("model", "ema", "optimizer", "row", "mse"))}
        left = _differing({key: known[key] for key in exact}, {key: found.get(key) for key in exact})
        yield Claim(f"{name}: streams, order and scale that a kill changes", len(left), target=0)
        apart = _distance(known, found) / _distance(known, twin)
        yield Claim(f"{name}: weights' distance, of two uninterrupted trainings'", apart, "x", APART)
    for key in left[:5]:
        yield f"{name}: differs: {key}"
    if name == "fp16":
        scaler = {key: value for key, value in known.items() if key.startswith("scaler")}
        off = _differing(scaler, {key: value for key, value in found.items() if key.startswith("scaler")})
        yield Claim("fp16: parts of the scaler's state that a kill changes", len(off), target=0)
        if not scaler or not (known["scaler/_growth_tracker"] or known["scaler/scale"] != 2.0**16):
            raise RuntimeError("the scaler has no state to lose")


def _state(cfg: Config) -> dict[str, Any]:
    """{path: tensor or value} of the last checkpoint."""
    state = load_checkpoint(checkpoint_path(cfg.run_dir, STEPS))
    return dict(_flat({key: value for key, value in state.items() if key not in OF_THE_SESSION}))


def _flat(tree: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict | list | tuple):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from _flat(value, f"{at}/{key}".removeprefix("/"))
    else:
        yield at, tree


def _differing(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    def equal(x: Any, y: Any) -> bool:
        both = isinstance(x, Tensor) and isinstance(y, Tensor)
        return torch.equal(x, y) if both else type(x) is type(y) and x == y

    return sorted(key for key in a.keys() | b.keys() if not (key in a and key in b and equal(a[key], b[key])))


def _distance(a: dict[str, Any], b: dict[str, Any]) -> float:
    keys = [key for key in a if key.startswith("model/")]
    return sum((a[key].double() - b[key].double()).square().sum().item() for key in keys) ** 0.5


def _rows(cfg: Config) -> dict[int, dict[str, Any]]:
    """The run's rows by step, without times."""
    rows = rows_of(cfg.run_dir)
    return {step: {k: v for k, v in row.items() if not k.startswith("time/")} for step, row in rows.items()}


def _paired(a: dict[int, Any], b: dict[int, Any]) -> list[tuple[Any, Any]]:
    return [(a.get(step), b.get(step)) for step in sorted(a.keys() | b.keys())]


def _not_repeatable(cfg: Config) -> list[str]:
    """The operations of which torch has warned."""
    said = (cfg.out_dir / "log").read_text()
    return re.findall(r"(\S+) does not have a deterministic implementation", said)


# --- two processes ---


def processes(task: Task) -> Found:
    """The same training in one process and in two, which torchrun starts: by nccl between GPUs, by gloo on a CPU."""
    if task.on_gpu and torch.cuda.device_count() < 2:
        yield "skipped: one GPU"
        return
    if task.quick:
        yield "skipped: two processes, in a quick check"
        return
    options = ("--data.batch_size=64", "--model.dropout=0", f"--train.total_steps={STEPS}")
    one, two = (
        task.config(*options, f"--logging.log_every_n_steps={LOGGED}", f"--out_dir={task.folder / name}")
        for name in ("one", "two")
    )
    finish(start_training(one), one)
    two.out_dir.mkdir(parents=True)
    path: Path = two.out_dir / "cfg.yaml"
    path.write_text(two.to_yaml())
    command = [sys.executable, *TWO_PROCESSES, "-m", "ddpm", "train", str(path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"torchrun ended with {done.returncode}: {(done.stdout + done.stderr).strip()[-300:]}")
    session = json.loads((two.run_dir / "run.json").read_text())["sessions"][-1]["environment"]
    yield f"{session['world_size']} processes by {session['backend']}"
    found = [_rows(cfg) for cfg in (one, two)]
    if any(a is None or b is None for a, b in _paired(*found)):
        raise RuntimeError("two processes log other steps than one")
    off = max(abs(found[1][step]["train/loss"] / found[0][step]["train/loss"] - 1) for step in found[0] if step)
    yield Claim("two processes' loss against one's, the largest relative difference", off, target=TWO)
