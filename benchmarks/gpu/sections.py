"""The sections of the GPU check, in order. Each runs in its own process with a time limit."""

import contextlib
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Literal

from benchmarks.claims import Claim, machine, say
from benchmarks.gpu import checks, graph, pair, resume, speed
from benchmarks.gpu.task import Task

Status = Literal["passed", "measured", "skipped", "failed"]


@dataclass(frozen=True)
class Section:
    """measure: yields claims and lines of text. is_check: a claim that misses its target fails the section. limit_s:
    the time limit."""

    name: str
    measure: Callable[[Task], Iterator[Claim | str]]
    limit_s: float
    is_check: bool = True


# The longest, which can adapt to less time, comes last.
SECTIONS = (
    Section("precision", checks.precision, 60),
    Section("resume", resume.resume, 90),
    Section("samplers", checks.samplers, 60),
    Section("probe", checks.probe, 60),
    Section("distances", checks.distances, 60),
    Section("processes", resume.processes, 60),
    Section("graph", graph.equal, 60),
    Section("graph_speed", graph.speed, 60, is_check=False),
    Section("step", speed.step, 120, is_check=False),
    Section("sampling", speed.samples, 45, is_check=False),
    Section("probes", speed.probes, 45, is_check=False),
    Section("pair", pair.pair, 300, is_check=False),
)
LEAST_S = 10.0  # a section with less time left does not start


@dataclass
class Outcome:
    """The output of a section, and its status."""

    section: Section
    claims: list[Claim] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    seconds: float = 0.0

    @property
    def missed(self) -> list[Claim]:
        return [c for c in self.claims if c.holds is False or c.measured != c.measured]

    @property
    def status(self) -> Status:
        if self.reason or (self.section.is_check and self.missed):
            return "failed"
        if not self.claims:
            return "skipped"
        return "passed" if self.section.is_check else "measured"

    @property
    def why(self) -> str:
        """The reason for a failure, or what was skipped."""
        missed = f"{self.missed[0].claim.strip()}: {self.missed[0].shown}" if self.missed else ""
        return self.reason or (missed if self.status == "failed" else "; ".join(self.notes))

    def record(self) -> dict[str, Any]:
        """A record like that of `benchmarks.claims.conclude`, with the status."""
        return {
            "status": self.status,
            "reason": self.why if self.status == "failed" else "",
            "seconds": round(self.seconds, 1),
            "notes": self.notes,
            "setting": {"check": self.section.is_check},
            "machine": self.machine,
            "claims": [asdict(c) | {"holds": c.holds} for c in self.claims],
        }


def run(section: Section, task: Task, told: Callable[[Outcome], None]) -> Outcome:
    """Run a section in its own process until it ends or its time is over. told: called after each message."""
    outcome, begun = Outcome(section, machine={"threads": None}), time.monotonic()
    if task.seconds < LEAST_S:
        outcome.reason = "no time was left for it"
        told(outcome)
        return outcome
    # CUDA does not survive a fork, so a GPU's process is spawned. On a CPU a fork saves the imports; this process has
    # computed nothing yet, so it has no thread pool that a fork would break.
    context: Any = get_context("spawn" if task.on_gpu else "fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, section.measure, task))
    process.start()
    theirs.close()
    try:
        while _heard(ours, outcome, begun + task.seconds - time.monotonic()):
            outcome.seconds = time.monotonic() - begun
            told(outcome)
        outcome.seconds = time.monotonic() - begun
        told(outcome)
    finally:
        _end(process)
    return outcome


def _heard(words: Connection, outcome: Outcome, left: float) -> bool:
    """Receive the next message. Returns whether another may follow."""
    if not words.poll(max(0.0, left)):
        outcome.reason = "not done in its time"
        return False
    try:
        word = words.recv()
    except EOFError:
        outcome.reason = "its process ended without a word"
        return False
    match word:
        case Claim():
            outcome.claims += say([word])
        case str():
            print(word, flush=True)
            outcome.notes.append(word)
        case {"machine": found}:
            outcome.machine = found
        case {"failed": reason}:
            outcome.reason = reason
        case _:
            return False  # done
    return not outcome.reason


def _child(words: Connection, measure: Callable[[Task], Iterator[Claim | str]], task: Task) -> None:
    os.setsid()  # its children end with it
    try:
        task.folder.mkdir(parents=True, exist_ok=True)
        words.send({"machine": machine()})
        for word in measure(task):
            words.send(word)
        words.send(None)
    except BaseException as error:
        traceback.print_exc()
        text = " ".join(str(error).split())
        words.send({"failed": f"{type(error).__name__}: {text}"[:400]})


def _end(process: BaseProcess) -> None:
    """Kill a section's process and all processes that it started."""
    with contextlib.suppress(ProcessLookupError, TypeError):
        os.killpg(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
    process.kill()
    process.join()


def within(section: Section, task: Task, left: float) -> Task:
    """The task with the section's folder and time limit. On a (slow) CPU only the total time is limited."""
    return replace(task, folder=task.folder / section.name, seconds=min(section.limit_s, left) if task.on_gpu else left)
