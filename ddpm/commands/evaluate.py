"""`ddpm evaluate`: scores of checkpoints, by several samplers at several NFE."""

import argparse
from pathlib import Path

from ddpm.arguments import names, not_negative, path, positive, positives
from ddpm.files.disk import require_folder
from ddpm.names import LIMITS, SAMPLERS, SCORES, SPACINGS, WEIGHTS
from ddpm.runtime.memory import keep_freed_memory

HELP = "score checkpoints with several samplers and NFE: a table, and FID against NFE"
DESCRIPTION = (
    "Score checkpoints. Options override each run's config. An interrupted command resumes. "
    "docs/evaluation.md explains the numbers."
)


def arguments(verb: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    verb.add_argument(
        "sources", type=path, nargs="+", metavar="RUN|CHECKPOINT", help="run folders, or files of their checkpoints/"
    )
    verb.add_argument("--out", type=path, default=Path("out/evaluate"), metavar="DIR", help="default: %(default)s")
    verb.add_argument(
        "--sampler",
        dest="samplers",
        type=names(SAMPLERS),
        default=("ddim",),
        metavar="NAME,...",
        help="of " + ", ".join(SAMPLERS),
    )
    verb.add_argument("--nfe", dest="nfes", type=positives, default=(50,), metavar="N,...", help="default: 50")
    verb.add_argument("--n", type=positive, default=5000, help="images for each score; default: %(default)s")
    verb.add_argument(
        "--metrics", type=names(SCORES), default=("fid",), metavar="NAME,...", help="of " + ", ".join(SCORES)
    )
    verb.add_argument("--features", metavar="NAME|FILE", help="as eval.features; default: the run's own")
    verb.add_argument("--data", type=path, metavar="PATH", help="the real images; default: the run's data.root")
    verb.add_argument("--weights", choices=WEIGHTS, default="ema", help="default: %(default)s")
    verb.add_argument("--spacing", choices=SPACINGS, default="linspace")
    verb.add_argument(
        "--t-start", type=not_negative, metavar="T", help="timestep at which the chain begins; default: the last"
    )
    verb.add_argument("--x0-limit", choices=LIMITS, help="default: the run's eval.x0_limit")
    verb.add_argument("--seed", type=not_negative, default=0, help="of the noise; default: %(default)s")
    verb.add_argument("--batch-size", type=positive, metavar="N", help="default: the run's, or the device's")
    verb.add_argument("--device", default="auto", help="default: %(default)s")
    verb.add_argument(
        "--influence",
        action="store_true",
        help="record each sample's influence on FID in evaluations.jsonl, for intervals of differences",
    )


def run(args: argparse.Namespace) -> None:
    """Score, and print where the table is."""
    keep_freed_memory()
    require_folder(args.out)
    from ddpm.commands.score_checkpoints import Request, evaluate

    print(evaluate(Request(**{key: value for key, value in vars(args).items() if key not in ("run", "verb")})))
