"""Reading a configuration: YAML files and overrides merged into one `Config`.

Later wins: the `extends` chain from its root, the file, a sweep's point, then `--key.sub=value` from the command line.
A variant file holds only its difference. Every error names the key, where its value came from, and what is allowed.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from ddpm.config import Config, is_bookkeeping
from ddpm.errors import UserError, did_you_mean

Chain = list[tuple[str, dict[str, Any]]]


def load_config(path: Path, overrides: Sequence[str] = (), point: Mapping[str, Any] | None = None) -> Config:
    """The configuration of a YAML file, a sweep's point and `--key.sub=value` overrides; later wins.

    point: values by dotted key, such as {"loss.weighting": "minsnr"}; the experiment and the tags then say which point
    it is. Raises UserError on a missing or malformed file, a circular `extends`, an unknown key, a wrong type, a value
    out of range or an impossible combination.
    """
    return resolve(read_chain(path), overrides, point)


def resolve(chain: Chain, overrides: Sequence[str] = (), point: Mapping[str, Any] | None = None) -> Config:
    """`load_config` of files that are read already."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for source, tree in chain:
        _merge(values, tree, source, origins)
    for key, value in (point or {}).items():
        _merge(values, _nested(key, value), f"the sweep ({key})", origins)
    for override in overrides:
        _merge(values, _parse_override(override), f"the command line ({override})", origins)
    if point:
        _check_point(values, point, origins)
        _merge(values, _point_names(values, point, origins), "the sweep", origins)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError(_explain(error, origins, Path(chain[-1][0]))) from None


def sweep_point() -> dict[str, Any]:
    """The values, by key, that a W&B sweep agent has set for this process; none outside an agent.

    A sweep whose command has `${args}` gives them on the command line too; one that has not gives them here alone.
    """
    path = os.environ.get("WANDB_SWEEP_PARAM_PATH")
    if not path:
        return {}
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        del values["wandb_version"]  # a file without it is not whole
        return {key: entry["value"] for key, entry in values.items()}
    except (OSError, ValueError, yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        said = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            f"The sweep's parameters in {path} (WANDB_SWEEP_PARAM_PATH) cannot be read: {said}. The agent writes that "
            "file: start the agent again."
        ) from None


# --- what a sweep's point is called ---


def _check_point(values: dict[str, Any], point: Mapping[str, Any], origins: dict[str, str]) -> None:
    """Raises UserError where something else than the point decides a swept key: the run would go by a wrong name."""
    decided = dict(_flat(values))
    for key, value in _flat(point):
        if not is_bookkeeping(key) and key in decided and _word(decided[key]) != _word(value):
            raise UserError(
                f"{key} is swept, and {origins.get(key)} sets it to {decided[key]} where the point has {value}. "
                "Change the sweep file instead."
            )


def _point_names(values: dict[str, Any], point: Mapping[str, Any], origins: dict[str, str]) -> dict[str, Any]:
    """The keys that name the point, nested: experiment and tags, and no display name that all points would share.

    The experiment has every swept key that changes a run but the seed: seeds of one point are runs of one experiment.
    """
    swept = {key: value for key, value in sorted(_flat(point)) if not is_bookkeeping(key) and key != "experiment"}
    given = {key for key, _ in _flat(point)} | {key for key, origin in origins.items() if "command line" in origin}
    tags = dict(_flat(values)).get("logging.wandb.tags") or ()
    found: dict[str, Any] = {}
    if "experiment" not in point and isinstance(values.get("experiment"), str):
        parts = [f"{_short(key)}_{_word(value)}" for key, value in swept.items() if key != "seed"]
        found["experiment"] = _limited("-".join([values["experiment"], *parts]), 80)
    wandb: dict[str, Any] = {}
    if "logging.wandb.tags" not in given and isinstance(tags, list | tuple):
        wandb["tags"] = [*tags, *(_limited(f"{_short(key)}={_word(value)}", 64) for key, value in swept.items())]
    if "logging.wandb.run_name" not in given:
        wandb["run_name"] = None
    return found | {"logging": {"wandb": wandb}}


def _flat(point: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in point.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _short(key: str) -> str:
    """The end of a dotted key that belongs to no other key: `weighting`, but `final.nfe`."""
    parts = key.split(".")
    ends = [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]
    known = _known_keys()
    return next((end for end in ends if sum(f".{k}".endswith(f".{end}") for k in known) == 1), key)


def _word(value: Any) -> str:
    """A value as part of a name. What a name cannot hold is replaced, and a digest keeps such values apart.

    A number has one form, however it was written: a server may hand out 5.0 as 5, and YAML reads 1e-4 as a text.
    """
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?([eE][-+]?\d+)?", value):
        value = yaml.safe_load(value) if value.lstrip("+-").isdigit() else float(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    text = value if isinstance(value, str) else json.dumps(value)
    if re.fullmatch(r"[A-Za-z0-9._]+", text) or (isinstance(value, int | float) and "+" not in text):
        return text
    return f"{re.sub(r'[^A-Za-z0-9._]+', '_', text)}.{_digest(text)}"


def _limited(name: str, most: int) -> str:
    """W&B takes tags of 64 characters, artifact names of 128."""
    return name if len(name) <= most else f"{name[: most - 7]}.{_digest(name)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


# --- reading and merging ---


def read_chain(path: Path, above: tuple[Path, ...] = ()) -> Chain:
    """(file, its own keys) from the root of the `extends` chain down to `path`, that of `above`. Raises UserError."""
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
    return [*read_chain(path.parent / parent, (*above, resolved)), (str(path), tree)]


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, raw = text.removeprefix("--").partition("=")
    if not text.startswith("--") or not equals or not all(key.split(".")):
        raise UserError(f"{text!r} is not an override. Write --key.sub=value, such as --train.total_steps=500.")
    if raw == "None":  # a sweep agent writes Python's null
        return _nested(key, None)
    try:
        return _nested(key, yaml.safe_load(raw))
    except yaml.YAMLError:
        return _nested(key, raw)


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return {**value}


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
    said = "; ".join(_explain_one(key, items, origins.get(key, str(path))) for key, items in by_key.items())
    return said if said.endswith("?") else said + "."


def _explain_one(key: str, items: list[Any], source: str) -> str:
    item = items[0]
    if item["type"] == "extra_forbidden":
        leaf = [k for k in _known_keys() if k.split(".")[-1] == key.split(".")[-1]]
        hint = f" Did you mean {leaf[0]}?" if leaf else did_you_mean(key, _known_keys(), cutoff=0.5)
        siblings = [k for k in _known_keys() if k.rpartition(".")[0] == key.rpartition(".")[0]]
        allowed = f" Allowed there: {', '.join(siblings)}." if siblings and not leaf else ""
        return f"unknown key {key} in {source}.{hint}{allowed}".rstrip(".")
    if item["type"] == "missing":
        return f"{key} is missing in {source}"
    if item["type"] == "value_error":
        return f"{item['msg'].removeprefix('Value error, ')} (in {source})"
    messages = " or ".join(i["msg"].removeprefix("Input ") for i in items)
    choices = [name for i in items if i["type"] == "literal_error" for name in re.findall("'([^']*)'", str(i["ctx"]))]
    hint = did_you_mean(str(item["input"]), choices)
    return f"{key} = {item['input']!r} in {source} {messages}" + (f".{hint}" if hint else "")
