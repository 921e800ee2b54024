"""`ddpm schedule`: the curves of a config's schedule and weightings."""

import argparse
from pathlib import Path

from ddpm.arguments import path
from ddpm.files.disk import FIGURES, require_file

HELP = "draw alpha_bar, SNR and the weighting curves of a config"
USAGE = "ddpm schedule [-h] [--out FILE] CONFIG [--key.sub=value ...]"


def arguments(verb: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    verb.add_argument("config", type=path, metavar="CONFIG")
    verb.add_argument("--out", type=path, default=Path("out/schedule.png"), metavar="FILE", help="%(default)s")
    verb.set_defaults(overrides=[])


def run(args: argparse.Namespace) -> None:
    """Draw the curves, and print where they are."""
    require_file(args.out, FIGURES)
    from ddpm.config.files import load_config

    cfg = load_config(args.config, args.overrides)
    from ddpm.commands.plots import draw_schedule

    print(draw_schedule(cfg, args.out))
