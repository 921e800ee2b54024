"""`ddpm sweep`: the points of a sweep file, on this machine."""

import argparse

from ddpm.arguments import path, positive
from ddpm.errors import UserError

HELP = "run a W&B sweep file on this machine, without a server"
DESCRIPTION = (
    "Run every point of a grid or random sweep file, as `wandb agent` would. A second call resumes. "
    "With --requeue, continue the crashed runs of a sweep on W&B's server on this machine."
)
USAGE = "ddpm sweep [-h] [options] (FILE | --requeue ENTITY/PROJECT/ID) [-- --key.sub=value ...]"


def arguments(verb: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    verb.add_argument("file", type=path, nargs="?", metavar="FILE", help="a sweep file, such as sweeps/smoke.yaml")
    verb.add_argument("--requeue", metavar="ENTITY/PROJECT/ID", help="a sweep on W&B's server, instead of a file")
    verb.add_argument("--workers", type=positive, metavar="N", help="run N at a time; default: 1, or one for each GPU")
    verb.add_argument("--gpus", default="", metavar="0,1,...", help="GPUs to use, one run at a time on each")
    verb.add_argument("--count", type=positive, metavar="N", help="run at most N points; a random sweep needs it")
    verb.add_argument("--yes", action="store_true", help="also run more than 10,000 points")
    verb.set_defaults(overrides=[])


def run(args: argparse.Namespace) -> int:
    """Run the points; the exit code."""
    from ddpm.sweep.start import requeue_sweep, run_sweep

    if (args.file is None) == (args.requeue is None):
        raise UserError("Give either a sweep file, such as sweeps/smoke.yaml, or --requeue ENTITY/PROJECT/ID.")
    overrides = [word for word in args.overrides if word != "--"]
    gpus = [gpu for gpu in args.gpus.split(",") if gpu]
    if args.requeue:
        return requeue_sweep(args.requeue, args.workers, gpus, args.count, overrides)
    return run_sweep(args.file, args.workers, gpus, args.count, overrides, many=args.yes)
