"""A sweep's output: a line for each run that ends, a live table on a terminal, and a summary."""

import shlex
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from ddpm.sweep.runner import Attempt

REDRAW_S = 1.0
_clock = tqdm.format_interval  # 01:30, 1:00:00
_ENDED = ("done", "there", "failed", "stopped", "elsewhere")


class Progress:
    """The `show` of `runner.run`."""

    def __init__(self, out: TextIO = sys.stdout):
        self._out, self._live = out, out.isatty()
        self._began, self._drawn, self._height = time.monotonic(), 0.0, 0

    def __call__(self, attempts: Sequence[Attempt], ended: Attempt | None) -> None:
        """Print a line for `ended`, and redraw the table if it is due."""
        if ended:
            self._wipe()
            print(_line(attempts, ended), file=self._out, flush=True)
            self._drawn = 0.0
        if self._live and time.monotonic() - self._drawn >= REDRAW_S:
            self._wipe()
            lines = table(attempts, time.monotonic() - self._began, shutil.get_terminal_size().columns)
            print("\n".join(lines), file=self._out, flush=True)
            self._drawn, self._height = time.monotonic(), len(lines)

    def close(self) -> None:
        """Erase the table."""
        self._wipe()

    def _wipe(self) -> None:
        if self._height:
            self._out.write(f"\x1b[{self._height}F\x1b[J")
            self._height = 0


def _line(attempts: Sequence[Attempt], ended: Attempt) -> str:
    """`[3/8] done in 41 s: RUN_ID`."""
    number = sum(a.state in _ENDED for a in attempts)
    how = {
        "there": "done before",
        "waiting": f"ended with exit code {ended.code} after {ended.seconds:.0f} s, tried again",
        "failed": f"FAILED with exit code {ended.code} after {ended.seconds:.0f} s",
        "elsewhere": "left to another process, which is running it",
    }.get(ended.state, f"{ended.state} in {ended.seconds:.0f} s")
    return f"[{number}/{len(attempts)}] {how}: {ended.job.name}"


def table(attempts: Sequence[Attempt], elapsed_s: float, width: int) -> list[str]:
    """A line about all runs and one for each running one, each narrower than `width` characters."""
    count = Counter(a.state for a in attempts)
    done = count["done"] + count["there"]
    head = f"{done} of {len(attempts)} done, {count['failed']} failed, {count['waiting']} to come"
    going = [a for a in attempts if a.state == "going"]
    now = time.monotonic()
    rows = [(a, a.job.step, a.job.cfg.train.total_steps) for a in going]
    work = count["done"] + sum(step / total for _, step, total in rows)
    left = count["waiting"] + sum(1 - step / total for _, step, total in rows)
    if work > 0.05:
        head += f"; {_clock(elapsed_s)}, about {_clock(elapsed_s / work * left)} to go"
    lines = [head]
    for attempt, step, total in rows:
        bar = "#" * (20 * step // total)
        where = f"  [{bar:<20}] {step:>{len(str(total))}}/{total} {_clock(now - attempt.began):>8}  {attempt.job.name}"
        lines.append(where + ("  (2nd attempt)" if attempt.tries > 1 else ""))
    return [line[: width - 1] for line in lines]


def summary(attempts: Sequence[Attempt], elapsed_s: float, report: Sequence[str], again: str) -> str:
    """How the runs ended, the logs of failed ones, and what to do next."""
    count = Counter(a.state for a in attempts)
    parts = [f"{count['done']} done"]
    parts += [
        f"{count[state]} {word}"
        for state, word in (
            ("there", "done before"),
            ("failed", "failed"),
            ("stopped", "stopped"),
            ("elsewhere", "running in another process"),
            ("waiting", "not started"),
        )
        if count[state]
    ]
    lines = [f"{len(attempts)} runs: {', '.join(parts)}, in {elapsed_s:.0f} s"]
    lines += [
        f"  exit code {a.code}: {a.job.name}: {_last_line(a.job.log)} ({a.job.log})"
        for a in attempts
        if a.state == "failed"
    ]
    if count["done"] + count["there"] < len(attempts):
        lines.append(f"to continue: {again}")
    if count["done"] + count["there"]:
        lines.append(f"to compare them: {shlex.join(report)}")
    return "\n".join(lines)


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.is_file() else []
    return lines[-1].strip()[:300] if lines else "it printed nothing"
