"""The findings of the study's rerun, from the records of its runs.

python -m reports.studies.min_snr                      docs/findings.md, its table and figures, docs/gallery.md
python -m reports.studies.min_snr keep RUNS ...        bring the records in docs/findings/runs up to date
"""

import argparse
from pathlib import Path

from ddpm.arguments import path
from ddpm.errors import UserError
from ddpm.files.disk import require_folder
from reports.studies.min_snr.records import keep
from reports.studies.min_snr.write import write_figures, write_text

ORIGINAL = Path("tests/reports/data/min-snr-logs")


def main(words: list[str] | None = None) -> None:
    """Read the command line `words` (the process's own where None) and do what it says."""
    parser = argparse.ArgumentParser(
        prog="python -m reports.studies.min_snr",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--docs", type=path, default=Path("docs"), metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--original", type=path, default=ORIGINAL, metavar="DIR", help="the study's logs; default: %(default)s"
    )
    parser.add_argument("--no-figures", action="store_true", help="the text and the table alone")
    verbs = parser.add_subparsers(dest="verb", metavar="keep")
    keeping = verbs.add_parser(
        "keep", help="keep records of runs", description="Keep records of runs, without weights."
    )
    keeping.add_argument("runs", type=path, nargs="+", metavar="RUNS", help="run folders, or folders of them")
    keeping.add_argument(
        "--to", type=path, metavar="DIR", help="default: DOCS/findings/runs; a sweep: DOCS/findings/sweep"
    )
    args = parser.parse_args(words)
    try:
        if args.verb == "keep":
            print("\n".join(keep(args.runs, require_folder(args.to or args.docs / "findings" / "runs", "--to"))))
            return
        require_folder(args.docs, "--docs")
        if not args.no_figures:
            for line in write_figures(args.docs, args.original):
                print(line)
        print(write_text(args.docs, args.original))
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
