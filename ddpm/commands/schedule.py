"""`ddpm schedule`: the curves of a config's schedule and weightings."""

import argparse
from pathlib import Path
from typing import Any

from ddpm.arguments import path
from ddpm.files.disk import FIGURES, require_file


def add(verbs: Any) -> argparse.ArgumentParser:
    """Declare the verb and its arguments."""
    verb = verbs.add_parser(
        "schedule",
        help="draw alpha_bar, SNR and the weighting curves of a config",
        usage="ddpm schedule [-h] [--out FILE] CONFIG [--key.sub=value ...]",
    )
    verb.add_argument("config", type=path, metavar="CONFIG")
    verb.add_argument("--out", type=path, default=Path("out/schedule.png"), metavar="FILE", help="%(default)s")
    verb.set_defaults(overrides=[])
    return verb


def run(args: argparse.Namespace) -> None:
    """Draw the curves, and print where they are."""
    require_file(args.out, FIGURES)
    from ddpm.config.files import load_config

    cfg = load_config(args.config, args.overrides)
    from ddpm.commands.plots import draw_schedule

    print(draw_schedule(cfg, args.out))
