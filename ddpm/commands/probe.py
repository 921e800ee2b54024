"""`ddpm probe`: the curvature at a finished run's checkpoints."""

import argparse

from ddpm.arguments import names, path, positive
from ddpm.names import METHODS, WEIGHTS
from ddpm.runtime.memory import keep_freed_memory

HELP = "measure the curvature at a finished run's checkpoints"
DESCRIPTION = (
    "Measure the Hessian at one checkpoint, or at every checkpoint of a run folder. The numbers go "
    "into the run's history (folder and W&B), or into a file with --out. docs/curvature.md explains them."
)
USAGE = "ddpm probe [-h] [options] RUN|CHECKPOINT [--curvature.key=value ...]"


def arguments(verb: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    verb.add_argument("source", type=path, metavar="RUN|CHECKPOINT", help="run folder, or a file of its checkpoints/")
    verb.add_argument("--data", metavar="PATH", help="where the images are, or `embedded`; default: as trained")
    verb.add_argument(
        "--method",
        type=names(METHODS),
        metavar="A,B,...",
        help=f"of {', '.join(METHODS)}; default: as the config says",
    )
    verb.add_argument("--probes", type=positive, metavar="N", help="default: as the config says")
    verb.add_argument("--weights", choices=WEIGHTS, help="default: as the config says")
    verb.add_argument("--device", default="auto", help="default: %(default)s")
    verb.add_argument("--out", type=path, metavar="FILE", help="write JSON lines to FILE instead of the run's history")
    verb.set_defaults(overrides=[])


def run(args: argparse.Namespace) -> None:
    """Measure, and print a table of the numbers."""
    keep_freed_memory()
    from ddpm.commands.probe_checkpoints import probe

    given = {"probes": args.probes, "weights": args.weights, "method": args.method and f"[{','.join(args.method)}]"}
    overrides = [f"--curvature.{key}={value}" for key, value in given.items() if value is not None]
    print(probe(args.source, [*overrides, *args.overrides], args.data, args.device, args.out))
