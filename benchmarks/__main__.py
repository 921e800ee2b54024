"""`python -m benchmarks`: run every benchmark in its own process, and print one table of their claims.

Writes a JSON file (out/bench.json) for `python -m benchmarks.compare OLD NEW`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.claims import REPOSITORY, read_claims
from ddpm.errors import UserError
from ddpm.files.disk import require_file, write_whole

# The quick ones first. `python -m benchmarks.NAME` runs one.
NAMES = (
    "start",
    "training_step",
    "sampling",
    "distributed",
    "evaluation",
    "curvature",
    "sweep",
    "dashboard",
    "report_reading",
)


def main() -> int:
    parser = argparse.ArgumentParser(description="Run all benchmarks, on an otherwise idle machine.")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="one small round each: do they work?")
    parser.add_argument("--table", type=Path, metavar="FILE", help="measure nothing; print the table of such a file")
    parser.add_argument("--out", type=Path, default=Path("out/bench.json"), help="other entries of the file stay")
    args = parser.parse_args()
    if args.table:
        print(table(json.loads(args.table.read_text())))
        return 0
    try:
        require_file(args.out)
    except UserError as error:
        parser.error(str(error))
    found = json.loads(args.out.read_text()) if args.out.exists() else {}
    failed = []
    for name in args.only:
        record = run(name, args.quick)
        if record is None:
            failed.append(name)
            continue
        found[name] = record
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(
            args.out, json.dumps(found, indent=1) + "\n"
        )  # after each benchmark, so a later failure does not lose an hour's work
    print("\n" + table(found) + f"\n\nAll numbers: {args.out}")
    if failed:
        print(f"Failed, see above: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run(name: str, quick: bool) -> dict[str, Any] | None:
    """The record of a benchmark; None if it failed."""
    print(f"\n--- {name} ---", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "claims.json"
        command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(path), *["--quick"] * quick]
        environment = os.environ | {"PYTHONWARNINGS": "ignore"}  # the peers' warnings
        subprocess.run(command, cwd=REPOSITORY, env=environment, stdin=subprocess.DEVNULL, check=False)
        return json.loads(path.read_text()) if path.exists() else None


def table(found: dict[str, Any]) -> str:
    """A row for each claim with a target, of all benchmarks."""
    lines = ["| benchmark, threads | claim | measured (quartiles) | target | holds |", "|---|---|---|---|---|"]
    for name, record in found.items():
        threads = record["machine"].get("threads")
        for c in read_claims(record):
            if c.target is not None:
                holds = "yes" if c.holds else "**no**"
                lines.append(f"| {name}, {threads} | {c.claim.strip()} | {c.shown} | {c.target_shown} | {holds} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
