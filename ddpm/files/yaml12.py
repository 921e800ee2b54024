"""YAML 1.2: reading files and single values, and writing.

`1e-4` is a number; `no`, `on`, `1:30`, `1_000` and `2026-05-01` are text. (PyYAML alone follows YAML 1.1.) A key that
occurs twice in a mapping is an error. There are no dates and no Python objects. Written YAML means the same in 1.1.
Source: https://yaml.org/spec/1.2.2/#103-core-schema
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode

from ddpm.errors import UserError, one_line

NULL, TEXT, MERGE, _BOOL, _WHOLE, _DECIMAL, _LIST, _MAP = (
    f"tag:yaml.org,2002:{name}" for name in ("null", "str", "merge", "bool", "int", "float", "seq", "map")
)
# Tag, pattern of its unquoted scalars, and their possible first characters.
_LOOKS = (
    (NULL, r"(~|null|Null|NULL|)\Z", [*"~nN", ""]),
    (_BOOL, r"(true|True|TRUE|false|False|FALSE)\Z", [*"tTfF"]),
    (_WHOLE, r"([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z", [*"-+0123456789"]),
    (_DECIMAL, r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z", [*"-+.0123456789"]),
    (_DECIMAL, r"([-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z", [*"-+."]),
    (MERGE, r"<<\Z", ["<"]),
)
_MOST_VALUES = 100_000  # a few anchors (&, *) can expand to more than the memory holds, or contain themselves


class _Loader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        node: MappingNode = super().compose_mapping_node(anchor)
        first: dict[tuple[str, str], Node] = {}
        for key, _ in node.value:
            before = first.setdefault((key.tag, str(key.value)), key)
            if before is not key:
                twice = f"the key {key.value} is there twice, first in line {before.start_mark.line + 1}"
                raise ComposerError(None, None, twice, key.start_mark)
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or 1.2 would read as something else."""


def _whole(_: Any, node: ScalarNode) -> int:
    return int(node.value, {"0o": 8, "0x": 16}.get(node.value[:2], 10))


def _decimal(loader: Any, node: ScalarNode) -> float:
    return float(loader.construct_yaml_float(node)) + 0.0  # -0.0 is 0.0


_PLAIN = (NULL, TEXT, _BOOL, _LIST, _MAP, None)  # None: the error for an unknown tag
_Loader.yaml_constructors = {tag: yaml.SafeLoader.yaml_constructors[tag] for tag in _PLAIN}
_Loader.yaml_implicit_resolvers = {}
_Loader.add_constructor(_WHOLE, _whole)
_Loader.add_constructor(_DECIMAL, _decimal)
for _tag, _look, _starts in _LOOKS:
    _Loader.add_implicit_resolver(_tag, re.compile(_look), _starts)
    _Dumper.add_implicit_resolver(_tag, re.compile(_look), _starts)


def read_yaml(text: str | bytes, name: str | Path, prepare: Callable[[Node], None] | None = None) -> Any:
    """The value of a YAML text, or of a file's bytes (UTF-8 or UTF-16); None if it is empty.

    prepare: may change the tags of the nodes before they become values. Raises UserError, which gives `name`.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node)
        if prepare:
            prepare(node)
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError, KeyError, RecursionError) as error:
        raise UserError(f"{name} is not valid YAML: {_reason(error)}.") from None


def read_value(raw: str, name: str, prepare: Callable[[Node], None] | None = None) -> Any:
    """The value of the text after `key=`: a list or mapping if it begins with [ or {, otherwise one scalar.

    prepare: as in `read_yaml`. Raises UserError, which gives `name`.
    """
    raw = raw.strip()
    if raw.startswith(("[", "{")):
        return read_yaml(raw, name, prepare)
    loader = _Loader("")
    try:
        return loader.construct_object(ScalarNode(loader.resolve(ScalarNode, raw, (True, False)), raw))
    except ValueError:
        raise UserError(f"{name} is not a value: its number has thousands of digits.") from None


def write_yaml(value: Any) -> str:
    """A value as YAML, with keys in their order."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False))


def _check_size(root: Node) -> None:
    left, count = [root], 0
    while left:
        node = left.pop()
        count += 1
        if count > _MOST_VALUES:
            raise ComposerError(None, None, f"it expands to more than {_MOST_VALUES:,} values", root.start_mark)
        if isinstance(node, MappingNode):
            left += [part for pair in node.value for part in pair]
        elif isinstance(node, CollectionNode):
            left += node.value


def _reason(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        return where + ", ".join(part for part in (error.context, error.problem) if part).rstrip(".")
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, yaml.YAMLError):
        return one_line(error)
    return "a value is not of the type that its tag (!!) names, or a number has thousands of digits"
