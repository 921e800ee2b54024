"""Runs jobs as processes, several at a time: retries once, stops gently, and skips runs that are finished."""

import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType

from ddpm.errors import Held, UserError
from ddpm.files.disk import write_whole
from ddpm.runtime.signals import StopSignals
from ddpm.sweep.command import environment
from ddpm.sweep.jobs import Job

TICK_S = 0.1
State = str  # waiting, going, done, there (done before), failed, stopped, elsewhere (running in another process)


@dataclass
class Attempt:
    """A job's progress. seconds: of all its attempts. code: the last exit code."""

    job: Job
    state: State = "waiting"
    tries: int = 0
    seconds: float = 0.0
    code: int = 0
    process: "subprocess.Popen[bytes] | None" = None
    slot: int = 0
    began: float = 0.0


def slots(workers: int | None, gpus: Sequence[str]) -> list[dict[str, str]]:
    """Environment variables for each of the simultaneous processes: a GPU, if any are given, and a share of the cores
    as threads, unless OMP_NUM_THREADS is set."""
    number = workers or len(gpus) or 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // number))}
    return [threads | ({"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {}) for i in range(number)]


def run(
    jobs: Sequence[Job],
    places: Sequence[dict[str, str]],
    show: Callable[[Sequence[Attempt], Attempt | None], None],
) -> tuple[list[Attempt], int | None]:
    """Run the jobs, one at a time in each of `places`. Returns how each ended, and the signal that stopped all, if any.

    A job that crashes is started once more and resumes from its checkpoint. SIGINT and SIGTERM are passed on to the
    processes, which write checkpoints; no more jobs start then. `show` gets all attempts at every tick, and the one
    that has just ended.
    """
    attempts = [Attempt(job) for job in jobs]
    waiting, free = deque(attempts), deque(range(len(places)))
    going: list[Attempt] = []
    with _Signals() as signals:
        try:
            while waiting or going:
                while signals.new:
                    signum = signals.new.popleft()
                    for attempt in going:
                        _tell(attempt, signum)
                while waiting and free and not signals.signum:
                    attempt = waiting.popleft()
                    if attempt.job.done:
                        attempt.state = "there"
                        show(attempts, attempt)
                        continue
                    attempt.slot = free.popleft()
                    _start(attempt, places[attempt.slot])
                    going.append(attempt)
                if signals.signum and not going:
                    break
                time.sleep(TICK_S)
                for attempt in [a for a in going if a.process and a.process.poll() is not None]:
                    going.remove(attempt)
                    free.append(attempt.slot)
                    _settle(attempt, stopping=signals.signum is not None)
                    if attempt.state == "waiting":
                        waiting.appendleft(attempt)
                    show(attempts, attempt)
                show(attempts, None)
        finally:
            for attempt in going:  # after an error in this process
                _tell(attempt, signal.SIGTERM)
    return attempts, signals.signum


def _start(attempt: Attempt, place: dict[str, str]) -> None:
    job = attempt.job
    job.log.parent.mkdir(parents=True, exist_ok=True)
    for path, text in job.files.items():
        write_whole(path, text, synced=False, shared=True)  # another sweep may be reading or writing it
    with job.log.open("ab") as log:
        # Its own process group: Ctrl-C in the terminal reaches this process first, as it reaches an agent.
        attempt.process = subprocess.Popen(
            job.command,
            env=environment() | place | job.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
    attempt.state, attempt.began = "going", time.monotonic()
    attempt.tries += 1


def _settle(attempt: Attempt, *, stopping: bool) -> None:
    """Update an attempt whose process has ended."""
    assert attempt.process
    attempt.code = attempt.process.returncode
    attempt.seconds += time.monotonic() - attempt.began
    attempt.process = None
    if attempt.code == 0:
        attempt.state = "done"
    elif stopping:
        attempt.state = "stopped"
    elif attempt.code == Held.exit_code:
        attempt.state = "there" if attempt.job.done else "elsewhere"
    elif attempt.code == UserError.exit_code:  # bad input: trying again does not help
        attempt.state = "failed"
    else:
        attempt.state = "waiting" if attempt.tries < 2 else "failed"


def _tell(attempt: Attempt, signum: int) -> None:
    if attempt.process and attempt.process.poll() is None:
        attempt.process.send_signal(signum)


class _Signals(StopSignals):
    """While entered, SIGINT and SIGTERM are collected in `new`; the first one is `signum`."""

    def __init__(self) -> None:
        super().__init__()
        self.new: deque[int] = deque()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is None:
            os.write(2, b"\nstopping: every run writes a checkpoint first; a second signal stops at once\n")
        self.signum = self.signum or signum
        self.new.append(signum)
