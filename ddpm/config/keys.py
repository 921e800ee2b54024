"""The keys of a configuration and their types, which decide how the text of a value is read."""

from functools import cache, partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from yaml.nodes import MappingNode, Node, ScalarNode

from ddpm.config.run import Config
from ddpm.files.yaml12 import MERGE, NULL, TEXT, read_value

_NULLS = ("", "null", "Null", "NULL", "None")  # a sweep agent writes `None`. `~` is the home folder


@cache
def key_types(section: type[BaseModel] = Config, prefix: str = "") -> dict[str, Any]:
    """Every dotted key with its type, including sections, each before its own keys."""
    found: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        found[prefix + name] = field.annotation
        if is_section(field.annotation):
            found |= key_types(field.annotation, f"{prefix}{name}.")  # type: ignore[arg-type]
    return found


def is_section(annotation: Any) -> bool:
    """Whether a key of this type holds further keys."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def takes_text(annotation: Any) -> bool:
    """Whether a value of the type is text, or null; for a list, whether its members are."""
    members = get_args(annotation)
    origin = get_origin(annotation)
    if origin is Literal:
        return all(isinstance(member, str) for member in members)
    if origin in (Annotated, tuple):
        return takes_text(members[0])
    if origin in (Union, UnionType):
        return all(map(takes_text, members))
    return annotation in (str, Path, NoneType)


def mark_text(node: Node, key: str = "", *, python: bool = False) -> None:
    """Make values of keys that take text into text, even if they look like numbers. Null stays null unless quoted.

    key: the key whose value the node is; "" for a whole file. python: `None` is null too.
    """
    if isinstance(node, MappingNode):
        for name, value in node.value:
            below = key if name.tag == MERGE else f"{key}.{name.value}".removeprefix(".")
            mark_text(value, below, python=python)
    elif not isinstance(node, ScalarNode):
        for value in node.value:
            mark_text(value, key, python=python)
    elif python and node.value == "None" and not node.style:
        node.tag = NULL
    elif node.tag != NULL and takes_text(key_types().get(key)):
        node.tag = TEXT


def from_word(key: str, word: str, source: str) -> Any:
    """The value that `key=word` gives the key: the word itself if the key takes text. Raises UserError."""
    annotation = key_types().get(key)
    if word in _NULLS and (NoneType in get_args(annotation) or not takes_text(annotation)):
        return None
    is_list = get_origin(annotation) is tuple and word.lstrip().startswith("[")
    if takes_text(annotation) and not is_list:
        return word
    return read_value(word, source, partial(mark_text, key=key, python=True))


def from_point(key: str, value: Any, source: str) -> Any:
    """The value that a sweep's point gives the key, in the key's type: servers and sweep files may have changed it.

    Raises UserError.
    """
    if isinstance(value, list):
        return [from_point(key, member, source) for member in value]
    if takes_text(key_types().get(key)):
        return value if value is None else str(value)
    return from_word(key, value, source) if isinstance(value, str) else value
