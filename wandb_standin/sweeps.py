"""The sweep controller: which point comes next, and what an agent is told at each of its heartbeats."""

import itertools
import json
import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from wandb_standin.records import now


@dataclass
class SweepRecord:
    """One sweep, its agents by id, and the runs that it gave out, as {"id": ..., "args": {...}, "agent": ...}."""

    entity: str
    project: str
    id: str
    config: dict[str, Any]
    text: str  # the config as the client sent it
    state: str = "PENDING"
    display_name: str | None = None
    runs: list[dict[str, Any]] = field(default_factory=list)
    agents: dict[str, dict[str, Any]] = field(default_factory=dict)
    created_at: str = field(default_factory=now)

    @property
    def expected(self) -> int | None:
        """The number of runs that end the sweep; None if it goes on for ever."""
        sizes = [math.prod(len(values) for values in axes(self.config).values())] if self._grid else []
        return min(sizes + ([self.config["run_cap"]] if "run_cap" in self.config else []), default=None)

    @property
    def _grid(self) -> bool:
        return self.config["method"] == "grid"

    def ready(self, running: dict[str, Any]) -> bool:
        """Whether this agent may get a run. `running` says which of its runs are active."""
        return self.state in ("PENDING", "RUNNING") and not any(running.values())

    def next_point(self) -> dict[str, Any] | None:
        """The next run's parameters, nested as they were declared; None if none is left."""
        number = len(self.runs)
        if self.expected is not None and number >= self.expected:
            return None
        point: Iterable[tuple[tuple[str, ...], Any]]
        if self._grid:
            found = axes(self.config)
            values = next(itertools.islice(itertools.product(*found.values()), number, None))
            point = zip(found, values, strict=True)
        else:
            rng = random.Random(f"{self.id} {number}")
            point = ((path, draw(spec, rng)) for path, spec in leaves(self.config["parameters"]).items())
        return nested(point)


def nested(point: Iterable[tuple[tuple[str, ...], Any]]) -> dict[str, Any]:
    """Values by path, as dicts in dicts."""
    found: dict[str, Any] = {}
    for path, value in point:
        at = found
        for key in path[:-1]:
            at = at.setdefault(key, {})
        at[path[-1]] = value
    return found


def leaves(parameters: dict[str, Any], above: tuple[str, ...] = ()) -> dict[tuple[str, ...], dict[str, Any]]:
    """The specifications that give a value, by their path, sorted by name. A parameter with `parameters` inside is a
    nest."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for name, spec in sorted(parameters.items()):
        inner = leaves(spec["parameters"], (*above, name)) if "parameters" in spec else {(*above, name): spec}
        found.update(inner)
    return found


def axes(config: dict[str, Any]) -> dict[tuple[str, ...], list[Any]]:
    """The values for each parameter of a grid. Raises ValueError for a parameter that cannot be enumerated."""
    found = {}
    for path, spec in leaves(config["parameters"]).items():
        if not {"value", "values"} & set(spec):
            raise ValueError(f"a grid cannot enumerate {'.'.join(path)}: {spec}")
        found[path] = spec["values"] if "values" in spec else [spec["value"]]
    return found


def draw(spec: dict[str, Any], rng: random.Random) -> Any:
    """A random value: from a list, or uniform (in the logarithm, for the `log_uniform_values` distribution)."""
    if "value" in spec or "values" in spec:
        return rng.choice(spec.get("values", [spec.get("value")]))
    if spec["distribution"] == "log_uniform_values":
        return math.exp(rng.uniform(math.log(spec["min"]), math.log(spec["max"])))
    if spec["distribution"] == "int_uniform":
        return rng.randint(spec["min"], spec["max"])
    if spec["distribution"] == "uniform":
        return rng.uniform(spec["min"], spec["max"])
    raise ValueError(f"the stand-in draws from no distribution {spec['distribution']!r}")


def heartbeat(
    sweep: SweepRecord,
    agent: str,
    running: dict[str, Any],
    stopped: set[str],
    new_id: str,
    again: str | None = None,
    others_going: bool = False,
) -> str:
    """The commands, as JSON, for an agent that says which of its runs are active.

    `stopped`: the runs that somebody asked to stop. `new_id`: the id for a new run. `again`: the id of a preempted run,
    which comes first. `others_going`: whether other agents still run points of the sweep.
    """
    alive = [run for run, going in running.items() if going]
    if sweep.state in ("FINISHED", "CANCELED", "STOPPED"):
        return json.dumps([{"type": "exit"}] if sweep.state == "CANCELED" or not alive else [])
    commands = [{"type": "stop", "run_id": run} for run in alive if run in stopped]
    if alive or sweep.state == "PAUSED":
        return json.dumps(commands)
    if again:
        point = next(run["args"] for run in sweep.runs if run["id"] == again)
        return json.dumps([_command("resume", sweep, again, point)])
    point = sweep.next_point()
    if point is None and others_going:
        return json.dumps([])  # an active run may still be preempted, and come back
    if point is None:
        sweep.state = "FINISHED"
        return json.dumps([{"type": "exit"}])
    sweep.state = "RUNNING"
    sweep.runs.append({"id": new_id, "args": point, "agent": agent})
    return json.dumps([_command("run", sweep, new_id, point)])


def _command(kind: str, sweep: SweepRecord, run: str, point: dict[str, Any]) -> dict[str, Any]:
    args = {name: {"value": value} for name, value in point.items()}
    program = sweep.config.get("program", "")
    return {"id": run, "type": kind, "run_id": run, "program": program, "args": args, "logs": []}
