"""The `ddpm` command: its verbs and its errors. A verb imports torch, wandb and the reports only when it runs.

argparse, because some verbs pass on unknown words (the `--key.sub=value` that `wandb agent` appends), and because
libraries that derive options from types start more slowly.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any

from ddpm import __version__
from ddpm.commands import (
    dashboard,
    doctor,
    evaluate,
    findings,
    metrics,
    plan,
    probe,
    probe_pairs,
    report,
    sample,
    schedule,
    sweep,
    sync,
    train,
)
from ddpm.errors import UserError, did_you_mean
from ddpm.runtime.signals import Interrupted

VERBS = (
    *(train, sweep, report, plan, sync, dashboard, sample, probe, evaluate, schedule, doctor, metrics),
    *(findings, probe_pairs),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code. Bad input prints one paragraph to stderr and gives 2."""
    try:
        return _main(argv)
    except UserError as error:
        print(f"ddpm: error: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0].replace("_", "-")
        if package not in ("wandb", "wandb-workspaces", "plotly"):
            raise
        print(f"ddpm: error: This needs {package}, which is not installed: pip install {package}", file=sys.stderr)
        return UserError.exit_code
    except Interrupted as stop:
        print(f"ddpm: {stop}", file=sys.stderr)
        return stop.exit_code
    except KeyboardInterrupt:
        print("ddpm: interrupted", file=sys.stderr)
        return 130


def _main(argv: Sequence[str] | None) -> int:
    args, rest = _parser().parse_known_args(argv)
    if "overrides" in args:
        args.overrides = rest
    elif rest:
        args.verb.error(f"unrecognized arguments: {' '.join(rest)}.{_meant(rest, args.verb)}")
    return args.run(args) or 0


def _meant(words: Sequence[str], verb: argparse.ArgumentParser) -> str:
    """A hint at the option that the first unknown option in `words` is most like; empty if there is none."""
    options = re.findall(r"--[a-z][a-z0-9-]*", verb.format_help())
    wrong = next((word.partition("=")[0] for word in words if word.startswith("--")), "")
    hint = did_you_mean(wrong.removeprefix("--"), [option.removeprefix("--") for option in options])
    return hint.replace("mean ", "mean --")  # compared without the dashes, which all options have in common


def _parser() -> argparse.ArgumentParser:
    """A parser for each verb. One that has a default for `overrides` takes unknown words too."""
    parser = argparse.ArgumentParser(prog="ddpm", description="Controlled DDPM training studies.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for module in VERBS:
        name = module.__name__.rpartition(".")[2].replace("_", "-")
        texts: dict[str, Any] = {word: getattr(module, word.upper(), None) for word in ("help", "description", "usage")}
        verb = verbs.add_parser(name, allow_abbrev=False, **texts)
        if hasattr(module, "arguments"):
            module.arguments(verb)
        verb.set_defaults(run=module.run, verb=verb)  # an error shows the verb's usage
    return parser
