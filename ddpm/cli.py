"""The `ddpm` command. torch, wandb and the reports are imported by the verb that needs them: `--help` stays quick."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ddpm import __version__
from ddpm.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code. Bad input prints one paragraph to stderr and gives 2."""
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    if rest and args.run is not _train:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    args.overrides = rest
    try:
        args.run(args)
    except UserError as error:
        print(f"ddpm: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ddpm: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ddpm", description="Controlled DDPM training studies.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    train = verbs.add_parser(
        "train",
        help="train one run from a config file",
        description="Train one run. Any key of the config can be set: --train.total_steps=500 --loss.weighting=minsnr",
        usage="ddpm train [-h] [--dry-run] CONFIG [--key.sub=value ...]",
        allow_abbrev=False,
    )
    train.add_argument("config", type=Path, metavar="CONFIG", help="YAML file, such as configs/smoke/e5.yaml")
    train.add_argument("--dry-run", action="store_true", help="print the resolved config and stop")
    train.set_defaults(run=_train)

    report = verbs.add_parser(
        "report",
        help="compare an experiment with its baseline: figures, numbers, page",
        description="Write report.html, report.md, numbers.csv and figures of an experiment in reports/experiments/.",
        allow_abbrev=False,
    )
    report.add_argument("experiment", metavar="EXP", help="experiment name, such as e6")
    report.add_argument(
        "--from",
        dest="source",
        default="wandb",
        metavar="SOURCE",
        help="folder of W&B run files (./wandb) or of run folders with loss.jsonl (./runs); default: %(default)s",
    )
    report.add_argument("--out", type=Path, metavar="DIR", help="where to write; default: out/EXP")
    report.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="only runs whose config says so; may be repeated",
    )
    report.add_argument(
        "--allow-mixed-protocols",
        action="store_true",
        help="draw FIDs of different protocols on one axis all the same; the figure says so",
    )
    report.set_defaults(run=_report)

    metrics = verbs.add_parser("metrics", help="print the table of every logged metric (docs/metrics.md)")
    metrics.set_defaults(run=_metrics)
    return parser


def _train(args: argparse.Namespace) -> None:
    from ddpm.config import load_config

    cfg = load_config(args.config, args.overrides)
    if args.dry_run:
        print(f"# run {cfg.run_id} in {cfg.run_dir}\n{cfg.to_yaml()}", end="")
        return
    from ddpm.train import train

    print(f"run folder: {train(cfg)}")


def _report(args: argparse.Namespace) -> None:
    from reports.report import make_report

    out = args.out or Path("out") / args.experiment
    print(make_report(args.experiment, args.source, out, args.where, args.allow_mixed_protocols))


def _metrics(args: argparse.Namespace) -> None:
    from ddpm.metrics import markdown_table

    print(markdown_table(), end="")


if __name__ == "__main__":
    sys.exit(main())
