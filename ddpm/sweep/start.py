"""`ddpm sweep`: runs the points of a file, or those that a server's sweep lost."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ddpm.errors import UserError
from ddpm.runtime.signals import Interrupted
from ddpm.sweep import runner
from ddpm.sweep.jobs import Job, plan
from ddpm.sweep.progress import Progress, summary
from ddpm.sweep.space import read_sweep

LOGS = Path("out/sweeps")


def run_sweep(
    path: Path,
    workers: int | None,
    gpus: Sequence[str],
    count: int | None,
    overrides: Sequence[str],
    *,
    many: bool = False,
) -> int:
    """Run a sweep file's points, `workers` at a time. Returns the exit code. Raises UserError before anything starts,
    and Interrupted after SIGINT or SIGTERM."""
    sweep = read_sweep(path)
    if sweep.early_terminate:
        print("early_terminate needs W&B's server; it is ignored here")
    jobs = plan(sweep, count, [*_device(gpus), *overrides], LOGS / sweep.name, many=many)
    again = ["ddpm", "sweep", str(path), *_options(workers, gpus, count), *(["--yes"] if many else [])]
    return _run(jobs, workers, gpus, again, overrides, sweep.name)


def requeue_sweep(
    name: str, workers: int | None, gpus: Sequence[str], count: int | None, overrides: Sequence[str]
) -> int:
    """Resume the runs of the sweep ENTITY/PROJECT/ID that crashed, failed or were killed. Returns the exit code."""
    from ddpm.sweep.requeue import lost_runs

    jobs = lost_runs(name, [*_device(gpus), *overrides], LOGS)[:count]
    again = ["ddpm", "sweep", "--requeue", name, *_options(workers, gpus, count)]
    return _run(jobs, workers, gpus, again, overrides, name.rpartition("/")[2])


def _device(gpus: Sequence[str]) -> list[str]:
    """The override that keeps runs off the CPU, if GPUs are given. Raises UserError if one is missing."""
    if not gpus:
        return []
    count = [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"]
    asked = os.environ | {"CUDA_VISIBLE_DEVICES": ",".join(gpus)}
    found = subprocess.run(count, env=asked, capture_output=True, text=True, check=False).stdout.strip() or "0"
    if int(found) < len(set(gpus)):
        raise UserError(f"--gpus {','.join(gpus)}: {found} of these exist. Give GPUs that nvidia-smi lists, or none.")
    return ["--device=cuda"]


def _options(workers: int | None, gpus: Sequence[str], count: int | None) -> list[str]:
    given = (("--workers", workers), ("--gpus", ",".join(gpus)), ("--count", count))
    return [word for name, value in given if value for word in (name, str(value))]


def _run(
    jobs: Sequence[Job],
    workers: int | None,
    gpus: Sequence[str],
    again: Sequence[str],
    overrides: Sequence[str],
    name: str,
) -> int:
    began = time.monotonic()
    show = Progress()
    attempts, stopped_by = runner.run(jobs, runner.slots(workers, gpus), show)
    show.close()
    roots = sorted({str(job.cfg.out_dir) for job in jobs})
    report = ["ddpm", "report", "library", "--from", roots[0] if roots else "runs", "--out", f"out/{name}"]
    words = [*again, *(["--", *overrides] if overrides else [])]
    print(summary(attempts, time.monotonic() - began, report, shlex.join(words)), flush=True)
    if stopped_by is not None:
        raise Interrupted(stopped_by)
    return 0 if all(a.state in ("done", "there", "elsewhere") for a in attempts) else 1
