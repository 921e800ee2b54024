"""The study's e5 and e6 on real images, for as many steps as time allows."""

import math
import shutil
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.claims import Claim
from benchmarks.gpu.task import FINDINGS, Task, finish, start_training
from benchmarks.study import rows_of
from benchmarks.timing import seconds
from ddpm.config.run import Config
from ddpm.training.loop import train_step
from ddpm.training.setup import Training

Found = Iterator[Claim | str]
ARMS = ("e5", "e6")
# Seconds to start and score, and to stop. BESIDE: how many times as long a step takes while another arm runs.
START_S, STOP_S, BESIDE = 40.0, 15.0, 2.0
MOST, ROUND = 10_000, 100  # steps of the study; a run ends with a logged one


def pair(task: Task) -> Found:
    """Both arms side by side; their last losses, traces, and FIDs by the embedded features."""
    end = time.monotonic() + task.seconds
    n = len(task.images(None))  # decodes them for all later steps
    steps = _steps(_config(task, "e5", ROUND, n), task, end)
    if steps < ROUND and not task.quick:
        yield f"skipped: {task.seconds:.0f} s are too few for {ROUND} steps"
        return
    if not task.root:
        yield "the embedded images: no --root"
    configs = {arm: _config(task, arm, steps, n) for arm in ARMS}
    started = {arm: start_training(cfg) for arm, cfg in configs.items()}
    for process in started.values():
        process.join(max(0.0, end - STOP_S - time.monotonic()))
    late = [arm for arm, process in started.items() if process.exitcode is None]
    for arm in late:
        started[arm].terminate()  # the training writes its rows so far and stops
        yield f"{arm}: stopped before its last step, as the time was over"
    for arm, process in started.items():
        if arm in late:
            process.join()
        else:
            finish(process, configs[arm])
    for arm, cfg in configs.items():
        yield from _said(task, arm, cfg)


def _steps(cfg: Config, task: Task, end: float) -> int:
    """The number of steps that both arms can take until `end`, estimated from a few steps of one."""
    training = Training(cfg)
    logged = training.cfg.logging.log_every_n_steps

    def step() -> None:
        train_step(training, next(training.state.batches))

    def probe() -> None:
        training.diagnostics.curvature.measure(
            training.state.model, logged, training.state.batches.next_indices(), lambda: None
        )

    for work in (step, probe):
        work()
    a_step, a_probe = seconds(step, task.pick(50, 1), wall=True), seconds(probe, wall=True)
    if task.quick:
        return 4
    left = end - time.monotonic() - START_S
    return max(0, min(MOST, int(left / BESIDE / (a_step + a_probe / logged)) // ROUND * ROUND))


def _config(task: Task, arm: str, steps: int, images: int) -> Config:
    """The arm as in docs/findings.md: 9 of 10 images are the reference. images: their number."""
    n, nfe = (66, 2) if task.quick else (500, 50)
    quick = [
        "--eval.grid.n_samples=4",
        "--logging.log_every_n_steps=4",
        "--curvature.probes=2",
        "--eval.accept_sampler_error=[ddpm]",
    ]
    return task.config(
        *task.data(images),
        "--curvature.enabled=true",
        "--eval.fid_milestone.enabled=true",
        "--eval.grid.enabled=true",
        f"--eval.grid.nfe={min(20, nfe)}",
        f"--eval.grid.every={steps}",
        f"--eval.fid_milestone.every={steps}",
        f"--eval.fid_milestone.n_samples={n}",
        f"--eval.fid_milestone.nfe={nfe}",
        f"--eval.reference_n={images * 9 // 10}",
        f"--train.total_steps={steps}",
        f"--out_dir={task.folder / arm}",
        *(quick if task.quick else []),
        file=FINDINGS / f"{arm}.yaml",
    )


def _said(task: Task, arm: str, cfg: Config) -> Found:
    """The last row's numbers."""
    last: dict[str, Any] = {}
    for step, row in rows_of(cfg.run_dir).items():
        last |= {"step": step, **row}
    yield Claim(f"{arm}: steps", last["step"], better="neither")
    wanted = {
        "train/loss": "last batch's loss",
        "train/mse_mean": "eps-MSE, mean since the row before",
        "curvature/hutch_trace_mean": "trace of the trained loss",
        "curvature/ref_trace_mean": "trace of the unweighted loss",
        "val/fid": f"FID by the embedded features, {cfg.eval.fid_milestone.n_samples} samples",
        "val/fid_ceiling": "FID of uniform noise",
        "time/total_s": "seconds",
    }
    for key, what in wanted.items():
        if key not in last:
            yield f"{arm}: no {what.strip()}"
        elif not math.isfinite(last[key]):
            raise RuntimeError(f"{arm}: {key} is {last[key]}")
        else:
            yield Claim(f"{arm}: {what}", last[key], "s" if key == "time/total_s" else "", better="neither")
    for grid in cfg.run_dir.glob(f"samples/step-{last['step']:06d}.png"):
        shutil.copy(grid, task.out / f"{arm}.png")
