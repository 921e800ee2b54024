"""The output of a benchmark: claims, each with its measurement, spread and target."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

REPOSITORY = Path(__file__).parents[1]
# Units that depend on the machine. Everything else is a ratio or a count.
OF_THE_MACHINE = ("s", "ms", "/s", "MiB", "GFLOP/s")


@dataclass(frozen=True)
class Claim:
    """`measured` must not exceed `target`; if `better` is more, it must reach it. low, high: quartiles over rounds."""

    claim: str
    measured: float
    unit: str = ""
    target: float | None = None
    better: Literal["less", "more", "neither"] = "less"
    low: float | None = None
    high: float | None = None

    @property
    def holds(self) -> bool | None:
        if self.target is None:
            return None
        return self.measured >= self.target if self.better == "more" else self.measured <= self.target

    @property
    def is_ratio(self) -> bool:
        return self.unit not in OF_THE_MACHINE

    @property
    def shown(self) -> str:
        spread = "" if self.low is None or self.high is None else f" ({self.low:.4g} to {self.high:.4g})"
        return f"{self.measured:.4g}{spread} {self.unit}".rstrip()

    @property
    def target_shown(self) -> str:
        if self.target is None:
            return ""
        return f"{'at least' if self.better == 'more' else 'at most'} {self.target:.4g}"


def of_rounds(claim: str, values: Sequence[float], unit: str = "", **how: Any) -> Claim:
    """The median over rounds, with quartiles (for up to three rounds: the extremes)."""
    if len(values) > 3:
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    else:
        low, high = min(values), max(values)
    return Claim(claim, statistics.median(values), unit, low=low, high=high, **how)


def quotient(claim: str, of: Sequence[float], over: Sequence[float], unit: str = "x", **how: Any) -> Claim:
    """The median over rounds of `of` / `over`, both from the same round."""
    return of_rounds(claim, [a / b for a, b in zip(of, over, strict=True)], unit, **how)


# --- a benchmark's command line ---


def arguments(module_doc: str | None, rounds: int) -> argparse.ArgumentParser:
    """The options of every benchmark."""
    parser = argparse.ArgumentParser(description=str(module_doc).splitlines()[0])
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--quick", action="store_true", help="one small round: does it work? no measurement")
    parser.add_argument("--json", type=Path, help="file for the claims, read by `python -m benchmarks`")
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options given; --quick means one round."""
    args = parser.parse_args()
    if args.quick:
        args.rounds = 1
    return args


def in_process(module: str, *options: str, **env: str) -> Any:
    """The JSON in the last line that `python -m benchmarks.MODULE OPTIONS` prints, run as its own process."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *options]
    done = subprocess.run(command, cwd=REPOSITORY, env=os.environ | env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def say(claims: Iterable[Claim]) -> list[Claim]:
    """The claims as a list, each printed at once: a later failure does not lose it."""
    found = []
    for c in claims:
        holds = {None: "", True: "yes", False: "NO"}[c.holds]
        print(f"{c.claim:88} {c.shown:>36}  {c.target_shown:16} {holds}".rstrip(), flush=True)
        found.append(c)
    return found


def conclude(args: argparse.Namespace, claims: list[Claim], **setting: Any) -> int:
    """Print the claims, settings and machine as one line of JSON; write it to --json."""
    record = {"setting": setting, "machine": machine(), "claims": [asdict(c) | {"holds": c.holds} for c in claims]}
    line = json.dumps(record)
    print(line)
    if args.json:
        args.json.write_text(line + "\n")
    return 0


def read_claims(record: dict[str, Any]) -> list[Claim]:
    """The claims in a record that `conclude` wrote."""
    return [Claim(**{key: value for key, value in claim.items() if key != "holds"}) for claim in record["claims"]]


def machine() -> dict[str, Any]:
    """The machine and versions that the numbers depend on."""
    import torch

    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit(),
    }


def processor() -> str:
    """The processor's name, if the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def commit() -> str:
    """The measured commit, with `+` if files differ from it; empty without git or outside a checkout."""
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+"]
    try:
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""
