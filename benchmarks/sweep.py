"""What a sweep costs besides its trainings: two workers against one, and where a run's time goes before its first step.

`python -m benchmarks.sweep` runs the points of `sweeps/smoke.yaml` with `ddpm sweep`, one at a time and then two, in a
process of its own each, and compares the second time with half of the first one's sum. Before that it starts one run
with marks at the places that its start-up passes, without and with what earlier runs left in the cache.

It prints a table, and the same as one line of JSON. Other work on the machine spoils it: run it on an idle one.
"""

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.report_reading import REPOSITORY, Claim

SWEEP = "sweeps/smoke.yaml"
CONFIG = "configs/sweeps/smoke.yaml"
TIMES_IDEAL = 1.15
# The parts of a start, in their order; each ends where its last line is reached.
PARTS = (
    "Python and the config",
    "imports",
    "images",
    "reference statistics",
    "the rest of the trainer",
    "W&B",
    "step 1",
)
START = """
import sys, time
marks = [(time.time(), "begun")]
def mark(name):
    marks.append((time.time(), name))
from pathlib import Path
from ddpm.config_files import load_config
cfg = load_config(Path(sys.argv[1]), sys.argv[2:])
mark("Python and the config")
import torch, torchvision.utils, ddpm.train
torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # imports torch._dynamo
import wandb
mark("imports")
def after(module, name, part):
    original = getattr(module, name)
    def marked(*args, **kwargs):
        found = original(*args, **kwargs)
        mark(part)
        return found
    setattr(module, name, marked)
import ddpm.evaluation.milestones as milestones, ddpm.train as train, ddpm.tracking.tracker as tracker
after(train, "load_images", "images")
after(milestones, "make_reference", "reference statistics")
after(train.Trainer, "facts", "the rest of the trainer")
after(tracker.Tracker, "__enter__", "W&B")
step = train.Trainer.step
def first(*args, **kwargs):
    found = step(*args, **kwargs)
    if len(marks) == 7:
        mark("step 1")
    return found
train.Trainer.step = first
train.train(cfg)
print("MARKS", *(f"{name}={at!r}" for at, name in marks), sep="|")
"""


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what a sweep costs besides its trainings.")
    parser.add_argument("--quick", action="store_true", help="2 points of few steps: whether it works, no measurement")
    args = parser.parse_args()
    extra = ["--train.total_steps=4"] if args.quick else []
    with tempfile.TemporaryDirectory() as folder:
        claims = [*measure_start(Path(folder)), *measure_sweep(Path(folder), ["--count", "2"] * args.quick, extra)]
    print(f"{'':64}{'measured':>12}{'target':>12}  holds")
    for c in claims:
        target, holds = ("", "") if c.target is None else (f"{c.target:.4g} {c.unit}", "yes" if c.holds else "NO")
        print(f"{c.claim:64}{f'{c.measured:.4g} {c.unit}':>12}{target:>12}  {holds}")
    print(json.dumps({"cores": os.cpu_count(), "claims": [asdict(c) | {"holds": c.holds} for c in claims]}))
    return 0 if args.quick or all(c.holds is not False for c in claims) else 1


def environment(folder: Path, cache: str) -> dict[str, str]:
    """A run's environment: one thread, W&B offline in `folder`, a cache of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    own = {"WANDB_MODE": "offline", "WANDB_DIR": str(folder), "DDPM_CACHE": str(folder / cache), "OMP_NUM_THREADS": "1"}
    return kept | own


def measure_start(folder: Path) -> list[Claim]:
    """Seconds of each part of a run's start, at a first run and at a later one of the smoke study's own size."""
    claims = []
    for number, name in enumerate(("first run", "later run")):
        options = [f"--out_dir={folder / 'start'}", f"--seed={number}", "--train.total_steps=1"]
        options += ["--data.subset=null", "--eval.reference_n=2000"]
        begun = time.time()
        done = subprocess.run(
            [sys.executable, "-c", START, CONFIG, *options],
            env=environment(folder, "cache-start"),
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        )
        (line,) = re.findall(r"^MARKS\|(.*)$", done.stdout, re.MULTILINE)
        at = {key: float(value) for key, value in (mark.split("=") for mark in line.split("|"))}
        at["begun"] = begun
        claims.append(Claim(f"a. process start to first step, {name}", at["step 1"] - begun, "s"))
        places = ["begun", *PARTS]
        claims += [Claim(f"   {b}", at[b] - at[a], "s") for a, b in itertools.pairwise(places)]
    return claims


def measure_sweep(folder: Path, options: list[str], extra: list[str]) -> list[Claim]:
    """The sweep with two workers against half the summed seconds of its runs, one at a time."""
    run_sweep(folder, "warm-up", ["--workers", "1", "--count", "1"], extra)  # what runs share is there for both
    alone, _ = run_sweep(folder, "one", ["--workers", "1", *options], extra)
    _, seconds = run_sweep(folder, "two", ["--workers", "2", *options], extra)
    ideal = sum(alone) / 2
    return [
        Claim(f"b. {len(alone)} runs one at a time, sum of their seconds", sum(alone), "s"),
        Claim("c. the same with two workers", seconds, "s"),
        Claim("   against half of b", seconds / ideal, "", TIMES_IDEAL),
    ]


def run_sweep(folder: Path, name: str, options: list[str], extra: list[str]) -> tuple[list[float], float]:
    """(seconds of each run, seconds of the whole) of `ddpm sweep` into a folder of its own, with the earlier cache."""
    command = [sys.executable, "-m", "ddpm", "sweep", SWEEP, *options, "--", f"--out_dir={folder / name}", *extra]
    begun = time.perf_counter()
    done = subprocess.run(command, env=environment(folder, "cache"), cwd=REPOSITORY, capture_output=True, text=True)
    seconds = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return [float(s) for s in re.findall(r"\] done in (\d+) s", done.stdout)], seconds


if __name__ == "__main__":
    sys.exit(main())
