"""`ddpm train`: one run from a config file."""

import argparse

from ddpm.arguments import path
from ddpm.runtime.memory import keep_freed_memory

HELP = "train one run from a config file"
DESCRIPTION = "Train one run. Any key of the config can be set: --train.total_steps=500 --loss.weighting=minsnr"
USAGE = "ddpm train [-h] [--dry-run] CONFIG [--key.sub=value ...]"


def arguments(verb: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    verb.add_argument("config", type=path, metavar="CONFIG", help="YAML file, such as configs/smoke/e5.yaml")
    verb.add_argument("--dry-run", action="store_true", help="print the resolved config and stop")
    verb.set_defaults(overrides=[])


def run(args: argparse.Namespace) -> None:
    """Train, or print the config."""
    keep_freed_memory()
    from ddpm.config.files import load_config, sweep_point

    cfg = load_config(args.config, args.overrides, sweep_point())
    if args.dry_run:
        print(f"# run {cfg.run_id} in {cfg.run_dir}\n{cfg.to_yaml()}", end="")
        return
    from ddpm.runtime.distributed import from_main
    from ddpm.sweep.fetch import fetch_point
    from ddpm.training.loop import train
    from reports.experiments import seals

    from_main(lambda: fetch_point(cfg))
    print(f"run folder: {train(cfg, seals(cfg.experiment))}")
