"""Jobs in processes of their own, some at a time: retried once, stopped gently, known as done by their run folders."""

import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

from ddpm.errors import Held, UserError
from ddpm.sweep.command import environment
from ddpm.sweep.jobs import Job

TICK_S = 0.1
State = str  # waiting, going, done, there (done before), failed, stopped, elsewhere (another process has it)


@dataclass
class Attempt:
    """How far a job has come. `seconds`: of all its attempts here; `code`: how the last one ended."""

    job: Job
    state: State = "waiting"
    tries: int = 0
    seconds: float = 0.0
    code: int = 0
    process: "subprocess.Popen[bytes] | None" = None
    slot: int = 0
    began: float = 0.0


def slots(workers: int | None, gpus: Sequence[str]) -> list[dict[str, str]]:
    """What the environment of each process at a time has of its own: a GPU where there are some, and its share of the
    threads, unless OMP_NUM_THREADS says how many."""
    number = workers or len(gpus) or 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // number))}
    return [threads | ({"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {}) for i in range(number)]


def run(
    jobs: Sequence[Job],
    places: Sequence[dict[str, str]],
    show: Callable[[Sequence[Attempt], Attempt | None], None],
) -> tuple[list[Attempt], int | None]:
    """Run the jobs, one in each of `places` at a time; how each ended, and the signal that stopped it all, if any.

    A job that ends in a crash is started once more, and continues from its checkpoint. SIGINT and SIGTERM go to the
    processes, which write checkpoints; nothing is started after that. `show` gets all attempts every tick, and the one
    that has just ended.
    """
    attempts = [Attempt(job) for job in jobs]
    waiting, free = deque(attempts), deque(range(len(places)))
    going: list[Attempt] = []
    with _Signals() as signals:
        try:
            while waiting or going:
                for signum in signals.new():
                    for attempt in going:
                        _tell(attempt, signum)
                while waiting and free and not signals.first:
                    attempt = waiting.popleft()
                    if attempt.job.done:
                        attempt.state = "there"
                        show(attempts, attempt)
                        continue
                    attempt.slot = free.popleft()
                    _start(attempt, places[attempt.slot])
                    going.append(attempt)
                if signals.first and not going:
                    break
                time.sleep(TICK_S)
                for attempt in [a for a in going if a.process and a.process.poll() is not None]:
                    going.remove(attempt)
                    free.append(attempt.slot)
                    _settle(attempt, stopping=signals.first is not None)
                    if attempt.state == "waiting":
                        waiting.appendleft(attempt)
                    show(attempts, attempt)
                show(attempts, None)
        finally:
            for attempt in going:  # an error of this process's own
                _tell(attempt, signal.SIGTERM)
    return attempts, signals.first


def _start(attempt: Attempt, place: dict[str, str]) -> None:
    job = attempt.job
    job.log.parent.mkdir(parents=True, exist_ok=True)
    for path, text in job.files.items():
        aside = path.with_name(f"{path.name}.{os.getpid()}")  # another sweep's process may be reading it
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    with job.log.open("ab") as log:
        # A group of its own: Ctrl-C in the terminal comes here first, as it comes to an agent.
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
    """What became of an attempt whose process has ended."""
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
    elif attempt.code == UserError.exit_code:  # bad input, which no second attempt mends
        attempt.state = "failed"
    else:
        attempt.state = "waiting" if attempt.tries < 2 else "failed"


def _tell(attempt: Attempt, signum: int) -> None:
    if attempt.process and attempt.process.poll() is None:
        attempt.process.send_signal(signum)


class _Signals:
    """While entered, SIGINT and SIGTERM are noted instead of ending this process."""

    def __init__(self) -> None:
        self.first: int | None = None
        self._new: deque[int] = deque()
        self._before: dict[int, Any] = {}

    def new(self) -> list[int]:
        """Those that came since the last call."""
        return [self._new.popleft() for _ in range(len(self._new))]

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.first is None:
            os.write(2, b"\nstopping: every run writes a checkpoint first; again stops at once\n")
        self.first = self.first or signum
        self._new.append(signum)

    def __enter__(self) -> "_Signals":
        if threading.current_thread() is threading.main_thread():
            self._before = {signum: signal.signal(signum, self._note) for signum in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
