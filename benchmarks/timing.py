"""Time, and the memory of a process."""

import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def seconds(work: Callable[[], Any], repeats: int = 1, wall: bool = False) -> float:
    """Seconds per call. Waits for the GPU if torch has used one.

    With one torch thread and no GPU, this is processor time, which other processes on the machine do not change. wall:
    always wall-clock time, for work in other threads or processes.
    """
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
    """Seconds of each way in each round: A B, then B A, so a drifting machine favours none. Before that, each way runs
    once without being counted."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name in list(ways) if number % 2 else reversed(ways):
            spent = seconds(ways[name], wall=wall)
            if number:
                taken[name].append(spent)
    return taken


def memory_growth(work: Callable[[], Any]) -> int:
    """Bytes by which the memory of this process grows during `work`, at its peak. Linux only."""
    ctypes.CDLL(None).malloc_trim(0)  # returns freed memory to the system
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _peak_memory()
    work()
    return _peak_memory() - before


def _peak_memory() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
