"""`ddpm sync`: uploads to W&B what its server lacks."""

import argparse
from pathlib import Path
from typing import Any

from ddpm.arguments import path


def add(verbs: Any) -> argparse.ArgumentParser:
    """Declare the verb and its arguments."""
    verb = verbs.add_parser(
        "sync",
        help="upload to W&B what the server lacks of this machine's runs",
        description="Upload offline runs and anything the server missed. Safe to run again.",
    )
    verb.add_argument(
        "root", type=path, nargs="?", default=Path("runs"), metavar="DIR", help="run folder(s); default: %(default)s"
    )
    return verb


def run(args: argparse.Namespace) -> None:
    """Upload, and print a line for each run."""
    from ddpm.tracking.sync import sync

    for line in sync(args.root):
        print(line, flush=True)
