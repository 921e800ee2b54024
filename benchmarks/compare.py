"""`python -m benchmarks.compare OLD.json NEW.json`: what became slower or faster between two runs of the benchmarks.

Only ratios, which depend little on the machine, are judged: one that is worse by 10 % (`--by`) or more is a regression,
and the exit code is 1. If the quartiles overlap, the line says so: measure again. `--all` also lists seconds, rates and
MiB, which vary more than that between days on one machine.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.claims import Claim, read_claims


@dataclass(frozen=True)
class Change:
    """A claim in both files. worse_pct: by how many percent it became worse (negative: better); None for facts."""

    benchmark: str
    old: Claim
    new: Claim

    @property
    def worse_pct(self) -> float | None:
        if self.old.better == "neither" or self.old.measured <= 0 or self.new.measured <= 0:
            return None
        of = self.new.measured / self.old.measured
        return 100 * ((1 / of if self.old.better == "more" else of) - 1)

    @property
    def overlaps(self) -> bool:
        a, b = self.old, self.new
        if a.low is None or a.high is None or b.low is None or b.high is None:
            return False
        return a.low <= b.high and b.low <= a.high


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    """Claims that are in both files, the worst first."""
    found = []
    for name in old.keys() & new.keys():
        here = {c.claim: c for c in read_claims(new[name])}
        for c in read_claims(old[name]):
            if c.claim in here:
                found.append(Change(name, c, here[c.claim]))
    return sorted(found, key=lambda c: (-(c.worse_pct if c.worse_pct is not None else float("-inf")), c.old.claim))


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare two files of `python -m benchmarks`.")
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--by", type=float, default=10.0, metavar="PERCENT", help="what counts as a regression")
    parser.add_argument("--all", action="store_true", help="list every claim, not only ratios")
    args = parser.parse_args()
    try:
        old, new = (json.loads(path.read_text()) for path in (args.old, args.new))
    except (OSError, json.JSONDecodeError) as error:
        print(f"{args.old} and {args.new} must be files from `python -m benchmarks`: {error}", file=sys.stderr)
        return 2
    found = changes(old, new)
    regressions = [c for c in found if c.old.is_ratio and (c.worse_pct or 0) >= args.by]
    print(f"{'change':>9}  {'old':>34}  {'new':>34}  claim")
    for c in found:
        if args.all or c.old.is_ratio:
            pct = "" if c.worse_pct is None else f"{abs(c.worse_pct):.1f} % {'-' if c.worse_pct > 0 else '+'}"
            mark = ""
            if c in regressions:
                mark = "  REGRESSION" + (", within the spread: measure again" if c.overlaps else "")
            print(f"{pct:>9}  {c.old.shown:>34}  {c.new.shown:>34}  {c.benchmark}: {c.old.claim.strip()}{mark}")
    print(f"\n{len(regressions)} worse by {args.by:g} % or more (- is worse, + better)")
    gone = sum(len(record["claims"]) for record in old.values()) - len(found)
    if gone:
        print(f"{gone} claims of {args.old} are not in {args.new}")
    return 1 if regressions else 0


if __name__ == "__main__":
    sys.exit(main())
