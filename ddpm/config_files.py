"""Reading a configuration: YAML files and overrides merged into one `Config`.

Later wins: the `extends` chain from its root, the file, then `--key.sub=value` from the command line. A variant file
holds only its difference. Every error names the key, where its value came from, and what is allowed.
"""

import difflib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from ddpm.config import Config
from ddpm.errors import UserError


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a YAML file and `--key.sub=value` overrides.

    Raises UserError on a missing or malformed file, a circular `extends`, an unknown key, a wrong type, a value out of
    range or an impossible combination.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for source, tree in _chain(path):
        _merge(values, tree, source, origins)
    for override in overrides:
        _merge(values, _parse_override(override), f"the command line ({override})", origins)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError(_explain(error, origins, path)) from None


def sweep_overrides() -> list[str]:
    """The overrides that a W&B sweep agent has set for this process; none outside an agent.

    A sweep whose command has `${args}` gives them on the command line too; one that has not gives them here alone.
    """
    path = os.environ.get("WANDB_SWEEP_PARAM_PATH")
    if not path:
        return []
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        return [f"--{key}={json.dumps(entry['value'])}" for key, entry in values.items() if key != "wandb_version"]
    except (OSError, yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"The sweep's parameters in {path} (WANDB_SWEEP_PARAM_PATH) cannot be read: {error}.") from None


def _chain(path: Path, above: tuple[Path, ...] = ()) -> list[tuple[str, dict[str, Any]]]:
    """(file, its own keys) from the root of the `extends` chain down to `path`."""
    resolved = path.resolve()
    if resolved in above:
        raise UserError(f"{path}: `extends` goes round in a circle: {' -> '.join(p.name for p in (*above, resolved))}.")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        below = f", which {above[-1]} extends" if above else ""
        raise UserError(f"There is no config file {path}{below}. The study's are under configs/.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The config file {path} cannot be read: {error}.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from None
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise UserError(f"{path} must hold keys and values, such as `seed: 1077`; it holds a {type(tree).__name__}.")
    parent = tree.pop("extends", None)
    if parent is None:
        return [(str(path), tree)]
    if not isinstance(parent, str):
        raise UserError(f"{path}: `extends` must be the path of one file, relative to this one; it is {parent!r}.")
    return [*_chain(path.parent / parent, (*above, resolved)), (str(path), tree)]


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, raw = text.removeprefix("--").partition("=")
    if not text.startswith("--") or not equals or not all(key.split(".")):
        raise UserError(f"{text!r} is not an override. Write --key.sub=value, such as --train.total_steps=500.")
    try:
        value = yaml.safe_load(raw)
    except yaml.YAMLError:
        value = raw
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _merge(into: dict[str, Any], tree: dict[str, Any], source: str, origins: dict[str, str], prefix: str = "") -> None:
    for key, value in tree.items():
        dotted = f"{prefix}{key}"
        origins[dotted] = source
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value, source, origins, f"{dotted}.")
        elif isinstance(value, dict):
            into[key] = {}
            _merge(into[key], value, source, origins, f"{dotted}.")
        else:
            into[key] = value


def _known_keys(section: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    keys = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _known_keys(field.annotation, f"{prefix}{name}.")
    return keys


def _explain(error: ValidationError, origins: dict[str, str], path: Path) -> str:
    known = {*_known_keys(), *origins}
    by_key: dict[str, list[Any]] = {}
    for item in error.errors(include_url=False):
        # A union (bool | "bf16" | "fp16") reports each of its members, under key.member.
        parts = [str(p) for p in item["loc"]]
        while parts and ".".join(parts) not in known:
            parts.pop()
        by_key.setdefault(".".join(parts), []).append(item)
    return "; ".join(_explain_one(key, items, origins.get(key, str(path))) for key, items in by_key.items()) + "."


def _explain_one(key: str, items: list[Any], source: str) -> str:
    item = items[0]
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, _known_keys(), n=1, cutoff=0.5)
        leaf = [k for k in _known_keys() if k.split(".")[-1] == key.split(".")[-1]]
        hint = f" Did you mean {(leaf or near)[0]}?" if leaf or near else ""
        siblings = [k for k in _known_keys() if k.rpartition(".")[0] == key.rpartition(".")[0]]
        allowed = f" Allowed there: {', '.join(siblings)}." if siblings and not leaf else ""
        return f"unknown key {key} in {source}.{hint}{allowed}".rstrip(".")
    if item["type"] == "missing":
        return f"{key} is missing in {source}"
    if item["type"] == "value_error":
        return f"{item['msg'].removeprefix('Value error, ')} (in {source})"
    messages = " or ".join(i["msg"].removeprefix("Input ") for i in items)
    return f"{key} = {item['input']!r} in {source} {messages}"
