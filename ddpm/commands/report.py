"""`ddpm report`: an experiment against its baseline, or curvature against FID over all runs."""

import argparse
from pathlib import Path

from ddpm.arguments import path, runs
from ddpm.errors import UserError
from ddpm.files.disk import require_folder

HELP = "compare an experiment with its baseline: figures, numbers, page"
DESCRIPTION = (
    "Write report.html, report.md, numbers.csv, data.parquet and figures for an experiment in "
    "reports/experiments/. `ddpm report library` plots curvature against FID over all runs."
)


def arguments(verb: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    verb.add_argument("experiment", metavar="EXP", help="experiment name, such as e6; or `library`")
    runs(verb)
    verb.add_argument("--out", type=path, metavar="DIR", help="where to write; default: out/EXP")
    verb.add_argument(
        "--allow-mixed-protocols",
        action="store_true",
        help="draw FIDs of different protocols on one axis; the figure says so",
    )
    verb.add_argument(
        "--offline-cache", action="store_true", help="with wandb:ENTITY/PROJECT: use what was read before, no network"
    )
    verb.add_argument(
        "--publish",
        nargs="?",
        const="",
        metavar="ENTITY/PROJECT",
        help="also publish it as a W&B Report in this project; default: the project of --from",
    )


def run(args: argparse.Namespace) -> None:
    """Write the report."""
    out = require_folder(args.out or Path("out") / Path(args.experiment).stem)  # EXP may be a YAML file
    if args.experiment == "library":
        if args.publish is not None:
            raise UserError(
                "The library cannot be published. Publish an experiment's report: `ddpm report e6 --publish`."
            )
        from reports.library import make_library

        print(make_library(args.source, out, args.where, args.offline_cache))
        return
    from reports.report import make_report

    mixed, project = args.allow_mixed_protocols, _project(args)
    print(make_report(args.experiment, args.source, out, args.where, mixed, args.offline_cache, project))


def _project(args: argparse.Namespace) -> str | None:
    """The ENTITY/PROJECT to publish in; None without --publish."""
    if args.publish is None or args.publish:
        return args.publish
    if not args.source.startswith("wandb:"):
        raise UserError(f"--publish needs a project with --from {args.source}: --publish ENTITY/PROJECT.")
    return str(args.source.removeprefix("wandb:"))
