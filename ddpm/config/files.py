"""Reads a configuration: YAML files and overrides, merged into one `Config`.

Later wins: the `extends` chain from its root, the file, a sweep's point, then `--key.sub=value` from the command line.
Every error names the key, where its value came from, and what is allowed.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from yaml.nodes import MappingNode, Node

from ddpm.config.keys import from_point, from_word, is_section, key_types, mark_text
from ddpm.config.run import Config, flatten, is_bookkeeping
from ddpm.errors import UserError, cut, did_you_mean
from ddpm.files.paths import home
from ddpm.files.yaml12 import read_yaml

Chain = list[tuple[str, dict[str, Any]]]


def load_config(path: Path, overrides: Sequence[str] = (), point: Mapping[str, Any] | None = None) -> Config:
    """The configuration from a YAML file, a sweep's point and `--key.sub=value` overrides; later wins.

    point: values by dotted key, such as {"loss.weighting": "minsnr"}; the experiment and the tags then name the point.
    Raises UserError on a missing or malformed file, a circular `extends`, an unknown key, a wrong type, a value out of
    range or an impossible combination.
    """
    return resolve(read_chain(path), overrides, point)


def resolve(chain: Chain, overrides: Sequence[str] = (), point: Mapping[str, Any] | None = None) -> Config:
    """`load_config`, for files that have been read."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for source, tree in chain:
        _merge(values, _filled(tree), source, origins)
    point = {key: from_point(key, value, f"the sweep's {key}") for key, value in flatten(point or {}).items()}
    for key, value in point.items():
        _merge(values, _nested(key, value), f"the sweep ({key})", origins)
    for override in overrides:
        _merge(values, _parse_override(override), f"the command line ({cut(override)})", origins)
    if point:
        _check_point(values, point, origins)
        _merge(values, _point_names(values, point, origins), "the sweep", origins)
    try:
        cfg = Config.model_validate(values)
    except ValidationError as error:
        raise UserError(_explain(error, origins, Path(chain[-1][0]))) from None
    _check_schedule(cfg, origins)
    _check_names(cfg, origins)
    return cfg


def sweep_point() -> dict[str, Any]:
    """The values by key that a W&B sweep agent has set for this process; empty without an agent.

    They are on the command line too if the sweep's command has `${args}`.
    """
    path = os.environ.get("WANDB_SWEEP_PARAM_PATH")
    if not path:
        return {}
    name = f"The file of the sweep's parameters {path} (WANDB_SWEEP_PARAM_PATH)"
    try:
        values = read_yaml(home(path).read_bytes(), name, _mark_point)
        del values["wandb_version"]  # a file without it is incomplete
        return {key: entry["value"] for key, entry in values.items()}
    except UserError as error:
        raise UserError(f"{error} Start the agent again.") from None
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error}. Start the agent again.") from None
    except (TypeError, KeyError, AttributeError):
        raise UserError(
            f"{name} cannot be read: it is incomplete, or not written by W&B's agent. Start the agent again."
        ) from None


def _mark_point(node: Node) -> None:
    for key, entry in node.value if isinstance(node, MappingNode) else ():
        for _, value in entry.value if isinstance(entry, MappingNode) else ():
            mark_text(value, str(key.value))


# --- what a sweep's point is called ---


def _check_point(values: dict[str, Any], point: Mapping[str, Any], origins: dict[str, str]) -> None:
    """Raises UserError if an override changes a swept key: the run would have the wrong name."""
    decided = flatten(values)
    for key, value in flatten(point).items():
        if not is_bookkeeping(key) and key in decided and _word(decided[key]) != _word(value):
            raise UserError(
                f"{key} is swept, and {origins.get(key)} sets it to {decided[key]}, but the point has {value}. "
                "Change the sweep file instead."
            )


def _point_names(values: dict[str, Any], point: Mapping[str, Any], origins: dict[str, str]) -> dict[str, Any]:
    """The keys that name the point, nested: experiment, tags, and a null display name, which all points would share.

    The experiment includes every swept key that changes a run, except the seed: seeds of a point share an experiment.
    """
    named = {key: value for key, value in sorted(flatten(point).items()) if not is_bookkeeping(key)}
    swept = {key: value for key, value in named.items() if key != "experiment"}
    given = flatten(point).keys() | {key for key, origin in origins.items() if "command line" in origin}
    tags = flatten(values).get("logging.wandb.tags") or ()
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


def _short(key: str) -> str:
    """The shortest end of a dotted key that no other key has: `weighting`, but `final.nfe`."""
    parts = key.split(".")
    ends = [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]
    known = key_types()
    return next((end for end in ends if sum(f".{k}".endswith(f".{end}") for k in known) == 1), key)


def _word(value: Any) -> str:
    """A value as part of a name. Replaces characters that names cannot have, and adds a digest to keep values apart.

    5.0 is written as 5, as a server may send either.
    """
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    text = value if isinstance(value, str) else json.dumps(value)
    if re.fullmatch(r"[A-Za-z0-9._]+", text) or (isinstance(value, int | float) and "+" not in text):
        return text
    return f"{re.sub(r'[^A-Za-z0-9._]+', '_', text)}.{_digest(text)}"


def _limited(name: str, most: int) -> str:
    """`name`, cut to `most` characters with a digest of the whole: W&B limits tags and artifact names."""
    return name if len(name) <= most else f"{name[: most - 7]}.{_digest(name)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


# --- reading and merging ---


def read_chain(path: Path, above: tuple[Path, ...] = ()) -> Chain:
    """(file, its own keys) from the root of the `extends` chain to `path`; `above` extend it. Raises UserError."""
    resolved = Path(os.path.realpath(path))  # unlike Path.resolve, works on circular links
    if resolved in above:
        raise UserError(f"{path}: `extends` runs in a circle: {' -> '.join(p.name for p in (*above, resolved))}.")
    try:
        tree = read_yaml(path.read_bytes(), path, mark_text)
    except FileNotFoundError:
        below = f", which {above[-1]} extends" if above else ""
        raise UserError(f"There is no config file {path}{below}. The study's configs are in configs/.") from None
    except OSError as error:
        raise UserError(f"The config file {path} cannot be read: {error}.") from None
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise UserError(f"{path} must hold keys and values, such as `seed: 1077`; it holds a {type(tree).__name__}.")
    parent = tree.pop("extends", None)
    if parent is None:
        return [(str(path), tree)]
    if not isinstance(parent, str) or not parent:
        raise UserError(f"{path}: `extends` must be the path of one file, relative to this one; it is {parent!r}.")
    return [*read_chain(path.parent / home(parent), (*above, resolved)), (str(path), tree)]


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, raw = text.removeprefix("--").partition("=")
    if not text.startswith("--") or not equals or not all(key.split(".")):
        raise UserError(f"{cut(text)!r} is not an override. Write --key.sub=value, such as --train.total_steps=500.")
    return _nested(key, from_word(key, raw, cut(text)))


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return {**value}


def _filled(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A file's keys without empty sections, such as one whose keys are all comments."""
    return {
        str(key): _filled(value, f"{prefix}{key}.") if isinstance(value, dict) else value
        for key, value in tree.items()
        if not (value is None and is_section(key_types().get(f"{prefix}{key}")))
    }


def _merge(into: dict[str, Any], tree: dict[str, Any], source: str, origins: dict[str, str], prefix: str = "") -> None:
    for key, value in tree.items():
        dotted = f"{prefix}{key}"
        origins[dotted] = source
        if isinstance(value, dict):
            if not isinstance(into.get(key), dict):
                into[key] = {}
            _merge(into[key], value, source, origins, f"{dotted}.")
        elif is_section(key_types().get(dotted)):
            keys = ", ".join(_keys_beside(f"{dotted}."))
            raise UserError(f"{dotted} = {cut(repr(value))} in {source}: {dotted} is a section. Its keys are {keys}.")
        else:
            into[key] = value


def _keys_beside(key: str) -> list[str]:
    """The keys in the section that a dotted key is in, by its name."""
    return [k for k in key_types() if k.rpartition(".")[0] == key.rpartition(".")[0]]


def _explain(error: ValidationError, origins: dict[str, str], path: Path) -> str:
    known = {*key_types(), *origins}
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
        if key in key_types():
            return f"unknown key {key} in {source}. In a file, write each part of the key below the one before it"
        leaf = [k for k in key_types() if k.split(".")[-1] == key.split(".")[-1]]
        hint = f" Did you mean {leaf[0]}?" if leaf else did_you_mean(key, key_types(), cutoff=0.5)
        siblings = _keys_beside(key)
        allowed = f" Allowed there: {', '.join(siblings)}." if siblings and not leaf else ""
        return f"unknown key {key} in {source}.{hint}{allowed}".rstrip(".")
    if item["type"] == "missing":
        return f"{key} is missing in {source}"
    if item["type"] == "value_error":
        return f"{item['msg'].removeprefix('Value error, ')} (in {source})"
    messages = " or ".join(i["msg"].removeprefix("Input ") for i in items)
    choices = [name for i in items if i["type"] == "literal_error" for name in re.findall("'([^']*)'", str(i["ctx"]))]
    hint = did_you_mean(str(item["input"]), choices)
    messages = messages.replace("a valid tuple", "a list, such as [a, b]")
    return f"{key} = {cut(repr(item['input']))} in {source} {messages}" + (f".{hint}" if hint else "")


# --- limits of the maths and of W&B ---


def _check_schedule(cfg: Config, origins: dict[str, str]) -> None:
    """Raises UserError if T is too small for the schedule: all are made for 1000 steps."""
    name, T = cfg.diffusion.beta_schedule, cfg.diffusion.T
    if T < 1000 and (least := _shortest_chain(name, T)) > T:
        source = origins.get("diffusion.T", origins.get("diffusion.beta_schedule"))
        raise UserError(
            f"diffusion.beta_schedule = {name} needs diffusion.T >= {least}, and diffusion.T = {T} (in {source}): a "
            "shorter chain would need betas of 1 or more."
        )


@cache
def _shortest_chain(name: str, T: int) -> int:
    from ddpm.diffusion.schedule import shortest_chain  # needs torch

    return shortest_chain(name, T)


ARTIFACT_LETTERS, TAG_LETTERS, PROJECT_LETTERS, NOT_IN_PROJECT = 128, 64, 128, r"/\#?%:"  # W&B's limits
_AROUND_ID = "-abcdef-samples"  # W&B adds a suffix to the run's id and to the artifact's name


def _check_names(cfg: Config, origins: dict[str, str]) -> None:
    """Raises UserError for names that W&B's client would refuse after the training has begun."""
    key, value = ("experiment", cfg.experiment) if cfg.id is None else ("id", cfg.id)
    beyond = len(cfg.run_id) + len(_AROUND_ID) - ARTIFACT_LETTERS
    if beyond > 0:
        raise UserError(
            f"{key} = {cut(value)!r} (in {origins.get(key)}) has {len(value)} characters and may have "
            f"{len(value) - beyond}: names of W&B's artifacts include it and have at most {ARTIFACT_LETTERS}."
        )
    for tag in cfg.logging.wandb.tags:
        if not 0 < len(tag) <= TAG_LETTERS:
            raise UserError(
                f"logging.wandb.tags has {cut(tag)!r} (in {origins.get('logging.wandb.tags')}) with {len(tag)} "
                f"characters. W&B takes tags of 1 to {TAG_LETTERS}."
            )
    project = cfg.logging.wandb.project
    if not 0 < len(project) <= PROJECT_LETTERS or set(project) & set(NOT_IN_PROJECT):
        raise UserError(
            f"logging.wandb.project = {cut(project)!r} (in {origins.get('logging.wandb.project')}) is not a name that "
            f"W&B takes: 1 to {PROJECT_LETTERS} characters, none of {NOT_IN_PROJECT}"
        )
