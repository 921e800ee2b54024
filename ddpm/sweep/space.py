"""A W&B sweep file, and the points that an agent would be given of it, in the same order."""

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
Place = tuple[str, ...]  # of a parameter: its name, and those of the parameters that it is nested in


@dataclass(frozen=True)
class Sweep:
    """axes: each parameter's complete specification, in the order in which W&B's server goes through them."""

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
    """The sweep of a YAML file. Raises UserError where it is missing, malformed, or not to be run without a server."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"The sweep file {path} cannot be read: {error}. Those of this project are in sweeps/."
        ) from None
    sweep = parse_sweep(read_yaml(text, path), path)
    if sweep.method not in ("grid", "random"):
        raise UserError(
            f"{path}: method {sweep.method} chooses each point by what the earlier ones scored, which W&B's server "
            f"does: `wandb login`, then `wandb sweep {path}`, then `wandb agent ID` with the id that it prints, on as "
            "many machines as you like. Without a server: method grid or random."
        )
    return sweep


def parse_sweep(tree: Any, path: Path) -> Sweep:
    """The sweep of a parsed file, whatever its method. Raises UserError."""
    if not isinstance(tree, dict) or "method" not in tree:
        raise UserError(f"{path} is not a sweep: it needs `method: grid` (or random) and `parameters:`.")
    for key in tree.keys() - set(KEYS):
        raise UserError(f"{path}: unknown key {key}.{did_you_mean(str(key), KEYS)} W&B's: {', '.join(KEYS)}.")
    method, parameters, command, cap = (tree.get(k) for k in ("method", "parameters", "command", "run_cap"))
    if not isinstance(parameters, dict) or not parameters:
        raise UserError(f"{path}: `parameters` names no parameter: there is no point to run.")
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
    """Parameters that have values, sorted by name on each level, as the server sorts them."""
    for name, spec in sorted(parameters.items(), key=lambda item: str(item[0])):
        place = (*above, str(name))
        if not isinstance(spec, dict):
            raise UserError(f"The parameter {'.'.join(place)} must hold `values:` or the like; it is {spec!r}.")
        inner = spec.get("parameters")
        if isinstance(inner, dict) and inner:
            yield from _leaves(inner, place)
        else:
            yield place, spec


def count_points(sweep: Sweep, count: int | None = None) -> int:
    """How many points there are to run. Raises UserError for a random sweep without an end."""
    limits = [limit for limit in (count, sweep.run_cap) if limit is not None]
    if sweep.method == "grid":
        return min([math.prod(_grid_size(place, spec) for place, spec in sweep.axes.items()), *limits])
    if not limits:
        raise UserError(f"{sweep.path}: a random sweep has no end: say how many points, --count 20 or `run_cap: 20`.")
    return min(limits)


def points(sweep: Sweep, count: int | None = None) -> Iterator[dict[str, Any]]:
    """The values of each point by parameter, nested as they were declared: what an agent gets as its arguments.

    Point i of a random sweep depends on the parameters and i alone, so that a second call draws the same ones.
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
        # 0 is no quantile of a normal distribution.
        yield _nested((place, quantile(spec, rng.random() or 0.5)) for place, spec in sweep.axes.items())


def _grid_size(place: Place, spec: Spec) -> int:
    """How many values a grid goes through; whole numbers between bounds are not written out for that."""
    if spec["distribution"] == "int_uniform":
        return int(spec["max"]) - int(spec["min"]) + 1
    return len(_grid_values(place, spec))


def _grid_values(place: Place, spec: Spec) -> list[Any]:
    """Every value of a parameter, each once. Raises UserError for one that a grid cannot go through."""
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
        f"A grid cannot go through the parameter {'.'.join(place)}, of distribution {spec['distribution']}: give "
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
