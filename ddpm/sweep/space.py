"""Reads W&B's sweep files and enumerates their points in the order in which an agent gets them."""

import hashlib
import itertools
import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpm.errors import UserError, did_you_mean
from ddpm.files.yaml12 import read_yaml, write_yaml
from ddpm.sweep.distributions import Spec, complete, quantile

KEYS = (
    *("method", "parameters", "command", "program", "name", "description", "project", "entity", "run_cap", "metric"),
    *("early_terminate", "controller", "kind", "apiVersion", "job", "image_uri"),
)
Place = tuple[str, ...]  # a parameter's name, after those of the parameters around it


@dataclass(frozen=True)
class Sweep:
    """A sweep file. axes: each parameter's complete specification, in the order of W&B's server."""

    path: Path
    method: str
    axes: dict[Place, Spec]
    command: list[Any]
    program: str | None
    run_cap: int | None
    early_terminate: bool

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem


def read_sweep(path: Path) -> Sweep:
    """The sweep in a YAML file. Raises UserError if it is missing, malformed, or needs a server."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"The sweep file {path} cannot be read: {error}. This project's sweep files are in sweeps/."
        ) from None
    sweep = parse_sweep(read_yaml(text, path), path)
    if sweep.method not in ("grid", "random"):
        raise UserError(
            f"{path}: method {sweep.method} needs W&B's server, which chooses each point by the earlier scores: `wandb "
            f"login`, then `wandb sweep {path}`, then `wandb agent ID` with the printed id, on any number of machines. "
            "Without a server, use method grid or random."
        )
    return sweep


def parse_sweep(tree: Any, path: Path) -> Sweep:
    """The sweep in a parsed file, with any method. Raises UserError."""
    if not isinstance(tree, dict) or "method" not in tree:
        raise UserError(f"{path} is not a sweep: it needs `method: grid` (or random) and `parameters:`.")
    for key in tree.keys() - set(KEYS):
        raise UserError(f"{path}: unknown key {key}.{did_you_mean(str(key), KEYS)} W&B's keys: {', '.join(KEYS)}.")
    method, parameters, command, cap = (tree.get(k) for k in ("method", "parameters", "command", "run_cap"))
    if not isinstance(parameters, dict) or not parameters:
        raise UserError(f"{path}: `parameters` names no parameter, so there is no point to run.")
    if command is not None and not (isinstance(command, list) and command):
        raise UserError(f"{path}: `command` must be a list, such as [${{env}}, ${{program}}, train, FILE, ${{args}}].")
    if cap is not None and (not isinstance(cap, int) or isinstance(cap, bool) or cap < 1):
        raise UserError(f"{path}: run_cap = {cap!r} must be a whole number of at least 1.")
    try:
        axes = {place: complete(".".join(place), spec) for place, spec in _leaves(parameters)}
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    program = tree.get("program")
    early = "early_terminate" in tree
    return Sweep(path, str(method), axes, command or [], None if program is None else str(program), cap, early)


def _leaves(parameters: dict[str, Any], above: Place = ()) -> Iterator[tuple[Place, Spec]]:
    """Parameters that have values, sorted by name on each level, as on the server."""
    for name, spec in sorted(parameters.items(), key=lambda item: str(item[0])):
        place = (*above, str(name))
        if not isinstance(spec, dict):
            raise UserError(f"The parameter {'.'.join(place)} must hold `values:` or the like, not {spec!r}.")
        inner = spec.get("parameters")
        if isinstance(inner, dict) and inner:
            yield from _leaves(inner, place)
        else:
            yield place, spec


def count_points(sweep: Sweep, count: int | None = None) -> int:
    """The number of points to run. Raises UserError for a random sweep without a limit."""
    limits = [limit for limit in (count, sweep.run_cap) if limit is not None]
    if sweep.method == "grid":
        return min([math.prod(_grid_size(place, spec) for place, spec in sweep.axes.items()), *limits])
    if not limits:
        raise UserError(f"{sweep.path}: a random sweep needs a number of points: --count 20 or `run_cap: 20`.")
    return min(limits)


def points(sweep: Sweep, count: int | None = None) -> Iterator[dict[str, Any]]:
    """Each point's values by parameter, nested as declared: an agent's arguments.

    Point i of a random sweep depends only on the parameters and i, so that a second call draws the same points.
    """
    number = count_points(sweep, count)
    if sweep.method == "grid":
        axes = [_grid_values(place, spec) for place, spec in sweep.axes.items()]
        for values in itertools.islice(itertools.product(*axes), number):
            yield _nested(zip(sweep.axes, values, strict=True))
        return
    described = json.dumps([[list(place), spec] for place, spec in sweep.axes.items()], sort_keys=True, default=str)
    digest = hashlib.sha256(described.encode()).hexdigest()
    for i in range(number):
        rng = random.Random(f"{digest} {i}")
        # a normal distribution has no quantile at 0
        yield _nested((place, quantile(spec, rng.random() or 0.5)) for place, spec in sweep.axes.items())


def _grid_size(place: Place, spec: Spec) -> int:
    """The number of a parameter's values in a grid, without listing a range of whole numbers."""
    if spec["distribution"] == "int_uniform":
        return int(spec["max"]) - int(spec["min"]) + 1
    return len(_grid_values(place, spec))


def _grid_values(place: Place, spec: Spec) -> list[Any]:
    """A parameter's distinct values. Raises UserError if a grid cannot enumerate them."""
    match spec["distribution"]:
        case "constant":
            return [spec["value"]]
        case "categorical":
            return list({write_yaml(value): value for value in spec["values"]}.values())
        case "int_uniform":
            return list(range(spec["min"], spec["max"] + 1))
        case "q_uniform":
            steps = math.ceil((spec["max"] - spec["min"]) / spec["q"])
            return [spec["min"] + i * spec["q"] for i in range(steps)]
    raise UserError(
        f"A grid cannot enumerate the parameter {'.'.join(place)} with the distribution {spec['distribution']}. Give "
        "`values`, or use method random."
    )


def _nested(found: Any) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for place, value in found:
        at = tree
        for name in place[:-1]:
            at = at.setdefault(name, {})
        at[place[-1]] = value
    return tree
