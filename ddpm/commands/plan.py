"""`ddpm plan`: how many seeds an experiment needs, from the spread that its runs show."""

import argparse

from ddpm.arguments import at_least_two, positive_number, power, runs

HELP = "how many seeds an experiment needs"
DESCRIPTION = (
    "For each criterion of an experiment's report: how far seeds spread, how many seeds find a difference of a given "
    "size, and which difference a given number of seeds can find."
)


def arguments(verb: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    verb.add_argument("experiment", metavar="EXP", help="experiment name, such as e6; or a YAML file")
    runs(verb)
    verb.add_argument(
        "--effect",
        type=positive_number,
        metavar="X",
        help="the size to find, in the criterion's unit; default: the criterion's bound, or else the size seen",
    )
    verb.add_argument(
        "--power",
        type=power,
        default=0.8,
        metavar="P",
        help="the share of studies that should find it; default: %(default)s",
    )
    verb.add_argument(
        "--seeds", type=at_least_two, metavar="N", help="what N seeds per arm can find; default: those there are"
    )


def run(args: argparse.Namespace) -> None:
    """Print the plan."""
    from reports.text.plan import plan

    print("\n".join(plan(args.experiment, args.source, args.where, args.effect, args.power, args.seeds)))
