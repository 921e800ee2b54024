"""A point's command line and environment, equal to those by W&B's agent."""

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

from ddpm.errors import UserError
from ddpm.files.paths import home
from ddpm.sweep.space import Sweep

DEFAULT = ["${env}", "${interpreter}", "${program}", "${args}"]
# Variables of an agent that may have started this process; a point's process is not that agent's.
_AGENTS = ("WANDB_SERVICE", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_RUN_ID")


def expand(sweep: Sweep, values: dict[str, Any]) -> list[str]:
    """The sweep's command for one point. Raises UserError for an unknown macro."""
    macros = {
        "env": ["/usr/bin/env"],
        "interpreter": ["python"],
        "args": [f"--{name}={value}" for name, value in values.items()],
    }
    if sweep.program is not None:
        macros["program"] = [sweep.program]
    found: list[str] = []
    for chunk in sweep.command or DEFAULT:
        word = re.sub(r"\$\{envvar:([A-Z0-9_]*)\}", lambda match: _variable(sweep, match[1]), str(chunk))
        name = word[2:-1] if word.startswith("${") and word.endswith("}") else None
        if name == "program" and sweep.program is None:
            raise UserError(
                f"{sweep.path}: its command has ${{program}}, but there is no `program:`. Use `program: ddpm`."
            )
        if "${" in word and name not in macros:
            known = ", ".join(f"${{{macro}}}" for macro in (*macros, "envvar:NAME"))
            raise UserError(f"{sweep.path}: {word} in its command is not known to `ddpm train`. Use {known}.")
        found += macros[name] if name else [word]
    return found


def _variable(sweep: Sweep, name: str) -> str:
    if name not in os.environ:
        raise UserError(f"{sweep.path}: its command has ${{envvar:{name}}}, but {name} is not set.")
    return os.environ[name]


def parse_train(sweep: Sweep, command: list[str]) -> tuple[Path, list[str]]:
    """(config file, overrides) from a command `ddpm train CONFIG --key=value ...`, however it starts `ddpm`. Raises
    UserError for another command, or if its program is missing."""
    rest = command[1:] if Path(command[0]).name == "env" else list(command)
    if rest and not shutil.which(rest[0], path=search_path()):
        raise UserError(f"{sweep.path}: the program {rest[0]} is not there: it is neither a file nor on PATH.")
    if rest[1:3] == ["-m", "ddpm"]:
        rest = ["ddpm", *rest[3:]]
    if len(rest) < 3 or Path(rest[0]).name != "ddpm" or rest[1] != "train" or rest[2].startswith("-"):
        raise UserError(
            f"{sweep.path}: its command is not `ddpm train CONFIG ...`: {' '.join(command)}. Write `program: ddpm` and "
            "`command: [${env}, ${program}, train, configs/..., ${args}]`."
        )
    return home(rest[2]), rest[3:]


def search_path() -> str:
    """PATH with this Python's programs first, so that `ddpm` and `python` come from this environment."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def environment() -> dict[str, str]:
    """The environment that every point's process inherits."""
    kept = {name: value for name, value in os.environ.items() if name not in _AGENTS}
    return kept | {"PATH": search_path()}


def parameter_file(values: dict[str, Any]) -> str:
    """The content of the file that WANDB_SWEEP_PARAM_PATH names: W&B's client and `ddpm train` read the point there."""
    entries = {name: {"value": value} for name, value in values.items()}
    return "wandb_version: 1\n\n" + yaml.safe_dump(entries, allow_unicode=True, sort_keys=False)
