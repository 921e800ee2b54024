"""Seconds, and the memory of a process."""

import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def seconds(work: Callable[[], Any], repeats: int = 1, wall: bool = False) -> float:
    """Seconds a call takes. Waits for a GPU if torch has used one. If torch has one thread and no GPU, these are
    seconds of the processor: other processes of a shared machine do not add to them. wall: always the clock on the
    wall, for work that is done in other threads or processes."""
    elsewhere = wall or torch.cuda.is_initialized()  # a GPU works while the processor waits
    clock = time.process_time if torch.get_num_threads() == 1 and not elsewhere else time.perf_counter
    wait()
    begun = clock()
    for _ in range(repeats):
        work()
    wait()
    return (clock() - begun) / repeats


def wait() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def in_turn(ways: dict[str, Callable[[], Any]], rounds: int, wall: bool = False) -> dict[str, list[float]]:
    """Seconds of each way in each round: A B, then B A, so that a machine that drifts favours none. All run once before
    that, which is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name in list(ways) if number % 2 else reversed(ways):
            spent = seconds(ways[name], wall=wall)
            if number:
                taken[name].append(spent)
    return taken


def forget_peak_memory() -> None:
    """Let the peak of this process's memory start anew from what it holds. Linux only."""
    ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back to the system
    Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """Bytes this process held at most since its peak was forgotten. Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
