"""`ddpm sync`: uploads to W&B what its server lacks."""

import argparse
from pathlib import Path

from ddpm.arguments import path

HELP = "upload to W&B what the server lacks of this machine's runs"
DESCRIPTION = "Upload offline runs and anything the server missed. Safe to run again."


def arguments(verb: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    verb.add_argument(
        "root", type=path, nargs="?", default=Path("runs"), metavar="DIR", help="run folder(s); default: %(default)s"
    )


def run(args: argparse.Namespace) -> None:
    """Upload, and print a line for each run."""
    from ddpm.tracking.sync import sync

    for line in sync(args.root):
        print(line, flush=True)
