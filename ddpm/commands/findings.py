"""`ddpm findings`: docs/findings.md and docs/gallery.md, from the records of the study's rerun."""

import argparse
from pathlib import Path

from ddpm.arguments import path
from ddpm.errors import UserError
from ddpm.files.disk import require_folder

HELP = "write docs/findings.md, its table and figures, and docs/gallery.md"
DESCRIPTION = (
    "Write the findings of the study's rerun from the records in DOCS/findings/runs. "
    "With --keep, only bring these records up to date."
)


def arguments(verb: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    verb.add_argument("--docs", type=path, default=Path("docs"), metavar="DIR", help="default: %(default)s")
    verb.add_argument(
        "--original",
        type=path,
        default=Path("docs/findings/study_logs"),
        metavar="DIR",
        help="the study's logs; default: %(default)s",
    )
    verb.add_argument("--no-figures", action="store_true", help="write only the text and the table")
    verb.add_argument(
        "--keep", type=path, nargs="+", metavar="RUNS", help="record these runs, without weights; folders of runs, too"
    )
    verb.add_argument(
        "--to",
        type=path,
        metavar="DIR",
        help="where --keep writes; default: DOCS/findings/runs (a sweep: DOCS/findings/sweep)",
    )


def run(args: argparse.Namespace) -> None:
    """Write the pages, or the records."""
    if args.keep:
        from reports.studies.min_snr.records import keep

        print("\n".join(keep(args.keep, require_folder(args.to or args.docs / "findings" / "runs", "--to"))))
        return
    if args.to:
        raise UserError("--to says where --keep writes: give --keep RUNS too.")
    require_folder(args.docs, "--docs")
    from reports.studies.min_snr.write import write_figures, write_text

    if not args.no_figures:
        for line in write_figures(args.docs, args.original):
            print(line)
    print(write_text(args.docs, args.original))
