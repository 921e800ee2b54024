"""`api.runs(filters=..., order=...)`: MongoDB's operators over a run's columns, config and summary."""

import re
from collections.abc import Callable
from typing import Any

from wandb_standin.graphql import GraphQLError
from wandb_standin.records import RunRecord

COLUMNS: dict[str, Callable[[RunRecord], Any]] = {
    "name": lambda r: r.id,
    "display_name": lambda r: r.name,
    "displayName": lambda r: r.name,
    "state": lambda r: r.state,
    "group": lambda r: r.group,
    "jobType": lambda r: r.job_type,
    "tags": lambda r: r.tags,
    "sweep": lambda r: r.sweep,
    "created_at": lambda r: r.created_at,
    "createdAt": lambda r: r.created_at,
    "heartbeat_at": lambda r: r.heartbeat_at,
}
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": lambda value, wanted: value == wanted,
    "$ne": lambda value, wanted: value != wanted,
    "$in": lambda value, wanted: bool(set(_many(value)) & set(wanted)),
    "$nin": lambda value, wanted: not set(_many(value)) & set(wanted),
    "$gt": lambda value, wanted: value is not None and value > wanted,
    "$gte": lambda value, wanted: value is not None and value >= wanted,
    "$lt": lambda value, wanted: value is not None and value < wanted,
    "$lte": lambda value, wanted: value is not None and value <= wanted,
    "$exists": lambda value, wanted: (value is not None) == wanted,
    "$regex": lambda value, wanted: value is not None and re.search(wanted, str(value)) is not None,
}


def _many(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def value_of(run: RunRecord, path: str) -> Any:
    """`config.loss.gamma.value` or `config.loss.gamma`, `summary_metrics.val/fid`, or a column of the run."""
    section, _, rest = path.partition(".")
    if section == "config":
        return _dig(run.config, rest.removesuffix(".value"))
    if section == "summary_metrics":
        return _dig(run.summary, rest)
    if path not in COLUMNS:
        raise GraphQLError(f"no column {path!r} to filter or order runs by")
    return COLUMNS[path](run)


def _dig(values: dict[str, Any], path: str) -> Any:
    """The value at a dotted path. A key may itself hold dots, and `value` may stand where the config nests it."""
    if path in values:
        return values[path]
    head, _, rest = path.partition(".")
    rest = rest.removeprefix("value.")
    inner = values.get(head)
    return _dig(inner, rest) if isinstance(inner, dict) and rest else None


def matches(run: RunRecord, filters: dict[str, Any]) -> bool:
    """Whether a run passes a MongoDB filter. Raises GraphQLError for an operator that the stand-in does not have."""
    for path, wanted in filters.items():
        if path in ("$and", "$or"):
            if wanted and not (all if path == "$and" else any)(matches(run, f) for f in wanted):
                return False
        elif path == "$not":
            if matches(run, wanted):
                return False
        else:
            value = value_of(run, path)
            tests = wanted if isinstance(wanted, dict) else {"$in": [wanted]} if path == "tags" else {"$eq": wanted}
            if unknown := set(tests) - set(OPERATORS):
                raise GraphQLError(f"no filter operator {sorted(unknown)}")
            if not all(OPERATORS[name](value, operand) for name, operand in tests.items()):
                return False
    return True


def ordered(runs: list[RunRecord], order: str | None) -> list[RunRecord]:
    """Sort runs by one column, `+` upwards and `-` downwards. Runs without a value come last."""
    if not order:
        return list(runs)
    path, down = order.lstrip("+-"), order.startswith("-")
    having = [r for r in runs if value_of(r, path) is not None]
    rest = [r for r in runs if value_of(r, path) is None]
    return sorted(having, key=lambda r: value_of(r, path), reverse=down) + rest
