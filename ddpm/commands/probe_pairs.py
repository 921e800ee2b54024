"""`ddpm probe-pairs`: two runs' curvature, compared draw by draw."""

import argparse

from ddpm.arguments import path

HELP = "compare the curvature of two runs, draw by draw"
DESCRIPTION = (
    "Compare files of `ddpm probe --out` that were measured on the same draws: the change of the "
    "Hessian trace from the baseline to the variant at each step, with its interval. One pair of files per seed."
)


def arguments(verb: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    verb.add_argument("--baseline", type=path, nargs="+", required=True, metavar="FILE", help="one file for each seed")
    verb.add_argument("--variant", type=path, nargs="+", required=True, metavar="FILE", help="in the same order")
    verb.add_argument("--out", type=path, required=True, metavar="STEM", help="writes STEM.csv, STEM.png and STEM.svg")


def run(args: argparse.Namespace) -> None:
    """Write the table and the figure, and print the rows over all steps."""
    from reports.studies.probe_pairs import compare

    print(compare(args.baseline, args.variant, args.out))
