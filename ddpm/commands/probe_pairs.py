"""`ddpm probe-pairs`: two runs' curvature, compared draw by draw."""

import argparse
from typing import Any

from ddpm.arguments import path


def add(verbs: Any) -> argparse.ArgumentParser:
    """Declare the verb and its arguments."""
    verb = verbs.add_parser(
        "probe-pairs",
        help="compare the curvature of two runs, draw by draw",
        description="Compare files of `ddpm probe --out` that were measured on the same draws: the change of the "
        "Hessian trace from the baseline to the variant at each step, with its interval. One pair of files per seed.",
    )
    verb.add_argument("--baseline", type=path, nargs="+", required=True, metavar="FILE", help="one file for each seed")
    verb.add_argument("--variant", type=path, nargs="+", required=True, metavar="FILE", help="in the same order")
    verb.add_argument("--out", type=path, required=True, metavar="STEM", help="writes STEM.csv, STEM.png and STEM.svg")
    return verb


def run(args: argparse.Namespace) -> None:
    """Write the table and the figure, and print the rows over all steps."""
    from reports.studies.probe_pairs import compare

    print(compare(args.baseline, args.variant, args.out))
