"""The time to read runs and to make a whole report on them, against targets.

`python -m benchmarks.report_reading` measures

- requests of a stand-in W&B server, and seconds, for a first and a second reading of runs from it;
- run folders of e5 and e6 beside the same rows in one parquet file each, every measurement in a process of its own, in
  turn: pandas reading the parquet files; `open_source` without and with its cache; `ddpm report e6` without and with
  the cache, and its memory;
- how time and memory of a report grow from 10 to 100 and to 1,000 runs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.claims import REPOSITORY, Claim, arguments, conclude, in_process, of_rounds, parsed, quotient, say

API_RUNS = 4
# Numbers of runs for which time and memory are compared, and rows of each.
GROWTH, GROWTH_ROWS = (10, 100, 1000), 1000
NAMES = (
    *("train/loss", "train/mse", "train/grad_global_L2", "train/grad_abs_mean"),
    *(f"curvature/{kind}_trace_{number}" for kind in ("hutch", "ref") for number in ("mean", "sem")),
)
# Targets of a report: reading as a multiple of pandas' time for the same numbers, and seconds for the figures.
TIMES_PANDAS, FIGURES_S, AGAIN_S, MEMORY_MIB = 3, 30.0, 10.0, 2048

# Target: the cost of an additional run among many, relative to among few.
LINEAR = 1.2


def main() -> int:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--steps", type=int, default=10_000, help="logged steps a run")
    parser.add_argument("--metrics", type=int, default=8)
    parser.add_argument("--step", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    args = parsed(parser)
    if args.quick:
        args.runs, args.steps = 6, 1000
    if args.step:
        print(json.dumps(STEPS[args.step[0]](Path(args.step[1]), args)))
        return 0
    claims: list[Claim] = []
    for measure in (measure_server, measure_folders, measure_growth):
        with tempfile.TemporaryDirectory() as folder:
            claims += say(measure(Path(folder), argparse.Namespace(**vars(args))))
    return conclude(args, claims, runs=args.runs, steps=args.steps, metrics=args.metrics)


def measure_folders(folder: Path, args: argparse.Namespace) -> list[Claim]:
    """Reading run folders and reporting on them; they are written into `folder`."""
    print(f"Writing {args.runs} runs of {args.steps} rows and {args.metrics} metrics", flush=True)
    written = run_step("write", folder, args)
    taken: dict[str, list[float]] = {"parquet": [], "cold": [], "warm": []}
    for number in range(args.rounds):
        cache = folder / f"cache-{number}"
        taken["parquet"].append(run_step("parquet", folder, args)["seconds"])
        taken["cold"].append(run_step("read", folder, args, cache)["seconds"])
        taken["warm"].append(run_step("read", folder, args, cache)["seconds"])
    limit = TIMES_PANDAS * statistics.median(taken["parquet"]) + FIGURES_S
    first, again = (report(folder, folder / "cache-report") for _ in range(2))
    return [
        of_rounds(f"pandas reads {written['values']:,} values from parquet", taken["parquet"], "s"),
        of_rounds(f"the same from run folders ({written['bytes'] / 1e6:.0f} MB)", taken["cold"], "s"),
        of_rounds("the same again, from the cache", taken["warm"], "s", target=AGAIN_S),
        quotient("   from run folders over pandas' parquet", taken["cold"], taken["parquet"]),
        quotient("   from the cache over pandas' parquet", taken["warm"], taken["parquet"]),
        Claim(f"the whole report on {args.runs} runs", first[0], "s", limit),
        Claim("   its memory", first[1], "MiB", MEMORY_MIB),
        Claim("the whole report again", again[0], "s", limit),
        Claim("   its memory, again", again[1], "MiB", MEMORY_MIB),
    ]


def measure_growth(folder: Path, args: argparse.Namespace) -> list[Claim]:
    """The cost of an additional run in a report, among many and among few."""
    few, more, many = (2, 4, 6) if args.quick else GROWTH
    args.steps = 100 if args.quick else GROWTH_ROWS
    cost: dict[int, tuple[float, float]] = {}
    claims = []
    for runs in (few, more, many):
        args.runs = runs
        place = folder / str(runs)
        place.mkdir()
        run_step("write", place, args)
        cost[runs] = seconds, memory = report(place, place / "cache")
        claims.append(Claim(f"the whole report on {runs} runs of {args.steps} rows", seconds, "s"))
        claims.append(Claim(f"   its memory, {runs} runs", memory, "MiB"))
    for name, i in (("seconds", 0), ("memory", 1)):
        among_few = (cost[more][i] - cost[few][i]) / (more - few)
        among_many = (cost[many][i] - cost[more][i]) / (many - more)
        claim = f"   {name} for a run more, {more} to {many} runs over {few} to {more}"
        claims.append(Claim(claim, among_many / among_few, "x", LINEAR))
    return claims


def run_step(
    name: str, folder: Path, args: argparse.Namespace, cache: Path | None = None, **env: str
) -> dict[str, Any]:
    """The result of the step `name`, run in its own process; this one stays small (see `report`)."""
    sizes = [f"--{size}={getattr(args, size)}" for size in ("runs", "steps", "metrics")]
    env["DDPM_CACHE"] = str(cache or folder / "cache")
    return in_process("report_reading", "--step", name, str(folder), *sizes, **env)


def report(folder: Path, cache: Path) -> tuple[float, float]:
    """(seconds, MiB at the peak) of `ddpm report e6` on the runs in `folder`.

    Linux counts the parent's memory at the start of a child as the child's, so the steps run in other processes.
    """
    code = "import sys; from ddpm.commands.cli import main; sys.exit(main(sys.argv[1:]))"
    argv = ["report", "e6", "--from", str(folder / "runs"), "--out", str(folder / "out")]
    environment = {**os.environ, "DDPM_CACHE": str(cache)}
    begin = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-c", code, *argv], env=environment, cwd=REPOSITORY, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"the report ended with exit code {child.returncode}")
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss is in bytes there, in KiB elsewhere
    return time.perf_counter() - begin, usage.ru_maxrss / unit


# --- the steps, each in its own process ---


def rows(experiment: str, seed: int, args: argparse.Namespace) -> list[tuple[int, dict[str, Any]]]:
    """Falling curves with noise, the same for every call; an FID at every tenth of the run."""
    import numpy as np

    names = [*NAMES, *(f"more/metric_{i}" for i in range(args.metrics))][: args.metrics]
    noise = np.random.default_rng(seed * 1000 + sum(experiment.encode())).lognormal(0, 0.3, (args.steps, args.metrics))
    level = (0.8 if experiment == "e6" else 1.0) * (0.02 + 0.2 * np.exp(-np.arange(args.steps) / args.steps * 5))
    values = (level[:, None] * noise).tolist()
    found: list[tuple[int, dict[str, Any]]] = [
        (step, dict(zip(names, row, strict=True))) for step, row in enumerate(values, start=1)
    ]
    for tenth in range(1, 11):
        step, row = found[tenth * args.steps // 10 - 1]
        found[step - 1] = (
            step,
            row | {"val/fid": 100 - 5 * tenth + noise[step - 1, 0], "val/fid_protocol": "aaaa1111"},
        )
    return found


def runs_of(args: argparse.Namespace) -> list[tuple[str, int]]:
    """(experiment, seed) of each run: e5 and e6 in turn."""
    return [(("e5", "e6")[number % 2], number // 2 + 1) for number in range(args.runs)]


def write_run(folder: Path, experiment: str, seed: int, logged: list[tuple[int, dict[str, Any]]]) -> int:
    """A run folder as `ddpm train` writes it, with two sample grids. Returns the bytes of its rows."""
    import numpy as np
    from PIL import Image

    (folder / "samples").mkdir(parents=True)
    (folder / "loss.jsonl").write_text("".join(json.dumps({"_i": step, "out": row}) + "\n" for step, row in logged))
    config = {
        "experiment": experiment,
        "seed": seed,
        "out_dir": "runs",
        "train": {"total_steps": len(logged)},
        "diffusion": {"beta_schedule": "linear"},
        "loss": {"weighting": "minsnr" if experiment == "e6" else "constant", "minsnr_gamma": 5.0},
        "curvature": {"enabled": True, "probes": 4},
        "eval": {"fid_milestone": {"every": 100}},
    }
    card = {"run_id": f"{experiment}-s{seed}", "experiment": experiment, "seed": seed, "config": config}
    card |= {"started": "2026-01-01T00:00:00+00:00", "commit": "0123456789abcdef", "version": "0.1", "protocols": {}}
    (folder / "run.json").write_text(json.dumps(card))
    (folder / "results.jsonl").write_text(json.dumps({"cfg": config, "out": {"seed": seed}, "_i": 0}) + "\n")
    for step in (100, 200):
        image = np.random.default_rng(step).integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / "samples" / f"step-{step:06d}.png")
    return (folder / "loss.jsonl").stat().st_size


def write(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The run folders and the parquet files, the same numbers in both."""
    import pandas as pd

    (folder / "parquet").mkdir()
    values = size = 0
    for experiment, seed in runs_of(args):
        logged = rows(experiment, seed, args)
        size += write_run(folder / "runs" / experiment / f"seed{seed}", experiment, seed, logged)
        table = pd.DataFrame.from_records([{"step": step, **row} for step, row in logged]).drop(
            columns="val/fid_protocol"
        )
        values += int(table.drop(columns="step").count().sum())
        table.to_parquet(folder / "parquet" / f"{experiment}-{seed}.parquet", index=False)
    return {"values": values, "bytes": size}


def read_parquet(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    import pandas as pd
    import pyarrow.parquet  # noqa: F401  # pandas imports it at the first call

    return timed(lambda: [pd.read_parquet(path) for path in sorted((folder / "parquet").iterdir())])


def read_folders(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    from reports.sources import open_source

    return timed(lambda: open_source(str(folder / "runs")))


def read_server(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    import wandb  # noqa: F401

    from reports.sources import open_source

    return timed(lambda: open_source("wandb:study/bench"))


def timed(read: Callable[[], list[Any]]) -> dict[str, Any]:
    begin = time.perf_counter()
    found = read()
    return {"seconds": time.perf_counter() - begin, "runs": len(found)}


STEPS: dict[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
    "write": write,
    "parquet": read_parquet,
    "read": read_folders,
    "server": read_server,
}


# --- a server ---


def measure_server(folder: Path, args: argparse.Namespace) -> list[Claim]:
    """Requests and seconds for a first and a second reading of a few runs from a stand-in server in this process."""
    from wandb_standin import RunRecord, StandIn
    from wandb_standin.records import HISTORY

    args.runs = min(args.runs, API_RUNS)
    with StandIn() as server:
        server.projects.append("bench")
        for experiment, seed in runs_of(args):
            lines = [
                json.dumps({"_step": i, "step": s, **row}) for i, (s, row) in enumerate(rows(experiment, seed, args))
            ]
            name = f"{experiment}-{seed}"
            server.runs["bench", name] = RunRecord(
                entity=server.entity,
                project="bench",
                id=name,
                raw_config={"experiment": {"value": experiment}, "seed": {"value": seed}},
                streams={HISTORY: lines},
                exit_code=0,
            )
        counted = []
        for _ in range(2):
            before = len(server.requests)
            seconds = run_step("server", folder, args, **server.env)["seconds"]
            asked = server.requests[before:]
            counted.append((seconds, len(asked), sum("History" in name for name in asked)))
        if server.unknown:
            raise SystemExit(f"the stand-in has no answer to {server.unknown}")
    first, second = counted
    return [
        Claim(f"reading {args.runs} runs of {args.steps} rows from a server", first[0], "s"),
        Claim("   requests a run", first[1] / args.runs),
        Claim("reading them again", second[0], "s"),
        Claim("   requests, of all runs together", second[1], "", 4),
        Claim("   of which for rows", second[2], "", 1),
    ]


if __name__ == "__main__":
    sys.exit(main())
