"""What a benchmark says: each claim with its measurement, its spread and its target."""

import argparse
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

REPOSITORY = Path(__file__).parents[1]
# Units of what another machine would measure otherwise; everything else is a ratio, or a count.
OF_THE_MACHINE = ("s", "ms", "/s", "MiB", "GFLOP/s")


@dataclass(frozen=True)
class Claim:
    """`measured` must not exceed `target`, or where `better` is more, must reach it. `low`, `high`: its quartiles over
    rounds; `neither`: a fact, of which less is no better than more."""

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
    """The median of several rounds' values, between their quartiles (of three or fewer: their extremes)."""
    if len(values) > 3:
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    else:
        low, high = min(values), max(values)
    return Claim(claim, statistics.median(values), unit, low=low, high=high, **how)


def quotient(claim: str, of: Sequence[float], over: Sequence[float], unit: str = "x", **how: Any) -> Claim:
    """The median over rounds of `of` over what was measured beside it in the same round."""
    return of_rounds(claim, [a / b for a, b in zip(of, over, strict=True)], unit, **how)


# --- a benchmark's command line ---


def arguments(description: str, rounds: int) -> argparse.ArgumentParser:
    """What every benchmark can be asked for."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--quick", action="store_true", help="a round of little: whether it works, no measurement")
    parser.add_argument("--json", type=Path, help="file for the claims, as `python -m benchmarks` gathers them")
    return parser


def say(claims: Iterable[Claim]) -> list[Claim]:
    """The claims, printed as they come: what takes long is not lost with what comes after it."""
    found = []
    for c in claims:
        holds = {None: "", True: "yes", False: "NO"}[c.holds]
        print(f"{c.claim:88} {c.shown:>36}  {c.target_shown:16} {holds}".rstrip(), flush=True)
        found.append(c)
    return found


def conclude(args: argparse.Namespace, claims: list[Claim], **setting: Any) -> int:
    """Print the claims and what they were measured on as one line of JSON, and write it where it was asked for."""
    record = {"setting": setting, "machine": machine(), "claims": [asdict(c) | {"holds": c.holds} for c in claims]}
    line = json.dumps(record)
    print(line)
    if args.json:
        args.json.write_text(line + "\n")
    return 0


def read_claims(record: dict[str, Any]) -> list[Claim]:
    """The claims of what `conclude` wrote."""
    return [Claim(**{key: value for key, value in claim.items() if key != "holds"}) for claim in record["claims"]]


def machine() -> dict[str, Any]:
    """What the numbers depend on besides the code."""
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
    """The processor's own name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def commit() -> str:
    """The commit that is measured, with `+` if files differ from it; empty without git or outside a checkout."""
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+"]
    try:
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""
