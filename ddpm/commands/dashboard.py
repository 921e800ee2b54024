"""`ddpm dashboard`: runs in the browser, from a folder; or an experiment's workspace on W&B's server."""

import argparse
from pathlib import Path

from ddpm.arguments import path, port
from ddpm.errors import UserError

HELP = "show runs in the browser while they train, without W&B's server or an account"
DESCRIPTION = (
    "Open a page that shows the runs in a folder, and new rows as they come: curves by arm, FID, curvature "
    "against FID, samples, configs, a table. Nothing leaves this machine. With --publish ENTITY/PROJECT, "
    "create or renew the experiment's workspace on W&B's server instead."
)


def arguments(verb: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    verb.add_argument(
        "experiment",
        nargs="?",
        metavar="EXP",
        help="experiment name, such as e6: its arms first; default: all runs; with --publish also sweep:ID",
    )
    verb.add_argument(
        "--from",
        dest="source",
        metavar="DIR",
        help="folder of W&B run files (./wandb) or of run folders (./runs); default: wandb, or runs if there is none",
    )
    verb.add_argument(
        "--export", type=path, metavar="DIR", help="write the page as files, which need no server, and stop"
    )
    verb.add_argument("--no-browser", action="store_true", help="only print the address")
    verb.add_argument("--host", default="127.0.0.1", help="listen there; default: %(default)s, this machine alone")
    verb.add_argument("--port", type=port, default=0, help="listen on this port; default: a free one")
    verb.add_argument("--publish", metavar="ENTITY/PROJECT", help="make a workspace in this project of W&B's server")


def run(args: argparse.Namespace) -> None:
    """Show the page until Ctrl-C, write it, or set up the workspace."""
    if args.publish:
        if not args.experiment:
            raise UserError("A workspace is an experiment's: ddpm dashboard e6 --publish ENTITY/PROJECT.")
        from reports.dashboard import save_workspace

        print(save_workspace(args.experiment, args.publish))
        return
    source = args.source or ("wandb" if Path("wandb").is_dir() else "runs")
    if args.export:
        from reports.browser.export import export

        print(export(source, args.experiment, args.export))
    else:
        from reports.browser.server import show

        show(source, args.experiment, args.host, args.port, not args.no_browser)
