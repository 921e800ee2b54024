"""`ddpm dashboard`: an experiment's workspace on W&B's server."""

import argparse

HELP = "browse an experiment's runs; on W&B's server, set up their workspace"
DESCRIPTION = (
    "Say how to browse the runs. With --from wandb:ENTITY/PROJECT, create or renew the experiment's "
    "workspace there: loss, gradient, traces, FID with its floor, sample grids, coloured by experiment."
)


def arguments(verb: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    verb.add_argument(
        "experiment", metavar="EXP", help="experiment name, such as e6; or sweep:ID, a sweep on W&B's server"
    )
    verb.add_argument(
        "--from",
        dest="source",
        default="wandb",
        metavar="SOURCE",
        help="folder of W&B run files, or wandb:ENTITY/PROJECT; default: %(default)s",
    )


def run(args: argparse.Namespace) -> None:
    """Set up the workspace, and print where it is."""
    from reports.dashboard import browse

    print(browse(args.experiment, args.source))
