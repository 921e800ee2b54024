"""The speed of two processes on two cores, compared with one process of two threads at the same batch.

`python -m benchmarks.distributed` trains the study's e5 (embedded images, probe and evaluation off) for some steps in
two gloo processes of one thread each, under torchrun, and in one process with two threads, in turn. The batch counts
all processes, so both do the same work. Measured are the seconds between two logged rows (`time/train_s`), without
start-up and first steps.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.claims import REPOSITORY, Claim, arguments, conclude, of_rounds, parsed, quotient, say
from benchmarks.study import CONFIG, PLAIN, TWO_PROCESSES, rows_of

# Target: seconds of one process with two threads over those of two processes with one thread each.
EFFICIENCY = 0.9


def main() -> int:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--batch", type=int, nargs="+", default=[4, 64])
    args = parsed(parser)
    claims: list[Claim] = []
    for batch in args.batch:
        claims += say(measure(batch, args.quick, args.rounds))
    return conclude(args, claims, rounds=args.rounds)


def measure(batch: int, quick: bool, rounds: int) -> list[Claim]:
    steps = 2 if quick else max(4, 160 // batch)
    taken: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            for processes in (1, 2) if number % 2 else (2, 1):
                taken[processes].append(train(Path(folder) / f"{processes}-{number}", processes, batch, steps))
    at = f"batch {batch}"
    return [
        of_rounds(f"a step in one process, two threads, {at}", [1e3 * s for s in taken[1]], "ms"),
        of_rounds(f"a step in two processes, one thread each, {at}", [1e3 * s for s in taken[2]], "ms"),
        quotient(f"two processes' speed over one's, {at}", taken[1], taken[2], target=EFFICIENCY, better="more"),
    ]


def train(folder: Path, processes: int, batch: int, steps: int) -> float:
    """Seconds per step, from the second logged row to the last."""
    options = [
        *PLAIN,
        "--device=cpu",
        "--train.amp=false",
        f"--data.batch_size={batch}",
        f"--train.total_steps={2 * steps}",
        f"--logging.log_every_n_steps={steps}",
        "--logging.wandb.mode=disabled",
        f"--out_dir={folder}",
    ]
    command = [sys.executable, *TWO_PROCESSES * (processes - 1), "-m", "ddpm", "train", str(CONFIG), *options]
    env = os.environ | {"OMP_NUM_THREADS": str(2 // processes)}
    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    (log,) = folder.glob("*/*/loss.jsonl")
    rows = rows_of(log.parent)
    return (rows[2 * steps]["time/train_s"] - rows[steps]["time/train_s"]) / steps


if __name__ == "__main__":
    sys.exit(main())
