"""The overhead of a sweep: two workers against one.

`python -m benchmarks.sweep` runs the points of `sweeps/smoke.yaml` with `ddpm sweep`, one at a time and then two at a
time, and compares the second time with half of the first runs' sum. Run it on an idle machine.
"""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.claims import REPOSITORY, Claim, arguments, conclude, of_rounds, parsed, quotient, say
from benchmarks.start import environment

SWEEP = "sweeps/smoke.yaml"
TIMES_IDEAL = 1.15


def main() -> int:
    args = parsed(arguments(__doc__, rounds=1))
    options, extra = (["--count", "2"], ["--train.total_steps=4"]) if args.quick else ([], [])
    with tempfile.TemporaryDirectory() as folder:
        claims = say(measure_sweep(Path(folder), args.rounds, options, extra))
    return conclude(args, claims, rounds=args.rounds)


def measure_sweep(folder: Path, rounds: int, options: list[str], extra: list[str]) -> list[Claim]:
    """The sweep with two workers against half the summed seconds of its runs, one at a time."""
    run_sweep(folder, "warm-up", ["--workers", "1", "--count", "1"], extra)  # fills the caches that runs share
    alone, together, runs = [], [], 0
    for number in range(rounds):
        seconds, _ = run_sweep(folder, f"one-{number}", ["--workers", "1", *options], extra)
        alone.append(sum(seconds))
        runs = len(seconds)
        together.append(run_sweep(folder, f"two-{number}", ["--workers", "2", *options], extra)[1])
    return [
        of_rounds(f"{runs} runs one at a time, sum of their seconds", alone, "s"),
        of_rounds("the same sweep with two workers", together, "s"),
        quotient("two workers over half the sum", together, [s / 2 for s in alone], target=TIMES_IDEAL),
    ]


def run_sweep(folder: Path, name: str, options: list[str], extra: list[str]) -> tuple[list[float], float]:
    """(seconds of each run, total seconds) of `ddpm sweep` into its own folder, with the shared cache."""
    command = [sys.executable, "-m", "ddpm", "sweep", SWEEP, *options, "--", f"--out_dir={folder / name}", *extra]
    begun = time.perf_counter()
    done = subprocess.run(command, env=environment(folder, "cache"), cwd=REPOSITORY, capture_output=True, text=True)
    seconds = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return [float(s) for s in re.findall(r"\] done in (\d+) s", done.stdout)], seconds


if __name__ == "__main__":
    sys.exit(main())
