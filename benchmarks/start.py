"""The time until a command answers, and until a run takes its first step.

`python -m benchmarks.start` measures whole processes, in turn, several rounds

- `ddpm --help` and `ddpm train CONFIG --dry-run`, which load neither torch nor W&B, beside Python and `import torch`;
- from the start of a process to a run's first optimizer step, with marks at the places that its start-up passes, as a
  first run and with what earlier runs left in the cache: a point of the smoke sweep on the smoke study's images.
"""

import itertools
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.claims import REPOSITORY, Claim, arguments, conclude, of_rounds, parsed, quotient, say
from benchmarks.timing import in_turn

CONFIG = "configs/sweeps/smoke.yaml"
STUDY = "configs/study/MS1_min_snr/e6/e6_minsnr_linear_hutch_trace_10k_50nfe.yaml"
HELP_S, DRY_RUN_S = 0.5, 1.5
# The parts of a start, in order.
PARTS = (
    "Python and the config",
    "imports",
    "images",
    "reference statistics",
    "the rest of the training",
    "W&B",
    "step 1",
)
START = """
import sys, time
marks = [(time.time(), "begun")]
def mark(name):
    marks.append((time.time(), name))
from pathlib import Path
from ddpm.config.files import load_config
cfg = load_config(Path(sys.argv[1]), sys.argv[2:])
mark("Python and the config")
import torch, torchvision.utils, ddpm.training.loop
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
import ddpm.evaluation.milestones as milestones, ddpm.tracking.tracker as tracker
import ddpm.training.loop as loop, ddpm.training.setup as setup
after(setup, "load_images", "images")
after(milestones, "make_reference", "reference statistics")
after(setup.Training, "facts", "the rest of the training")
after(tracker.Tracker, "__enter__", "W&B")
step = loop.train_step
def first(*args, **kwargs):
    found = step(*args, **kwargs)
    if len(marks) == 7:
        mark("step 1")
    return found
loop.train_step = first
loop.train(cfg)
print("MARKS", *(f"{name}={at!r}" for at, name in marks), sep="|")
"""


def main() -> int:
    args = parsed(arguments(__doc__, rounds=7))
    claims = say(measure_answers(args.rounds))
    with tempfile.TemporaryDirectory() as folder:
        claims += say(measure_first_step(Path(folder), 1 if args.quick else 3))
    return conclude(args, claims, rounds=args.rounds)


def measure_answers(rounds: int) -> list[Claim]:
    def process(*argv: str) -> Callable[[], None]:
        return lambda: subprocess.run([sys.executable, *argv], cwd=REPOSITORY, stdout=subprocess.DEVNULL, check=True)

    taken = in_turn(
        {
            "python": process("-c", "pass"),
            "help": process("-m", "ddpm", "--help"),
            "dry run": process("-m", "ddpm", "train", STUDY, "--dry-run"),
            "torch": process("-c", "import torch"),
        },
        rounds,
        wall=True,
    )
    return [
        of_rounds("ddpm --help", taken["help"], "s", target=HELP_S),
        of_rounds("ddpm train e6 --dry-run", taken["dry run"], "s", target=DRY_RUN_S),
        quotient("   ddpm --help over Python alone", taken["help"], taken["python"]),
        quotient("   ddpm train e6 --dry-run over import torch", taken["dry run"], taken["torch"]),
    ]


def measure_first_step(folder: Path, rounds: int) -> list[Claim]:
    """Seconds of each part of a run's start, for a first run and for later runs."""
    claims = []
    for name in ("first run", "later run"):
        starts = [start(folder, name, number) for number in range(rounds)]
        claims.append(
            of_rounds(f"process start to first step, {name}", [s["step 1"] - s["begun"] for s in starts], "s")
        )
        for a, b in itertools.pairwise(("begun", *PARTS)):
            claims.append(of_rounds(f"   {b}, {name}", [s[b] - s[a] for s in starts], "s"))
    return claims


def start(folder: Path, name: str, number: int) -> dict[str, float]:
    """The time of each mark in a run's start. A first run has its own cache; later runs share one."""
    cache = f"cache-{number}" if name == "first run" else "cache-0"
    options = [f"--out_dir={folder / name}", f"--seed={number}", "--train.total_steps=1", "--data.subset=null"]
    begun = time.time()
    done = subprocess.run(
        [sys.executable, "-c", START, CONFIG, *options, "--eval.reference_n=2000"],
        env=environment(folder, cache),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = re.findall(r"^MARKS\|(.*)$", done.stdout, re.MULTILINE)
    marks = {key: float(value) for key, value in (mark.split("=") for mark in line.split("|"))}
    return marks | {"begun": begun}


def environment(folder: Path, cache: str) -> dict[str, str]:
    """A run's environment: one thread, W&B offline in `folder`, a cache of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    own = {"WANDB_MODE": "offline", "WANDB_DIR": str(folder), "DDPM_CACHE": str(folder / cache), "OMP_NUM_THREADS": "1"}
    return kept | own


if __name__ == "__main__":
    sys.exit(main())
