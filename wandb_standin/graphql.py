"""The part of GraphQL that the wandb client uses: a parser of query documents, and an executor over Python objects.

A field is a key of a dict, or an attribute or method of an object whose class has the GraphQL type's name; W&B's
`historyLineCount(minStep: 0)` is Python's `history_line_count(min_step=0)`. Any other field is an error, so that no
request of the client is silently left unanswered.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

TOKEN = re.compile(r'[\s,]+|\#[^\n]*|(\.\.\.|[{}()\[\]:!$=@]|"(?:\\.|[^"\\])*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|\w+)')
CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class GraphQLError(Exception):
    """A document that cannot be parsed, or that asks for something the stand-in does not have."""


@dataclass
class Selection:
    """A field, a fragment spread (`...Name`) or an inline fragment (`... on Type {}`) of a selection set."""

    kind: str  # "field", "spread" or "inline"
    name: str  # of the field or fragment; of the type for an inline fragment
    key: str = ""  # the field's alias or name
    args: dict[str, Any] = field(default_factory=dict)
    directives: dict[str, dict[str, Any]] = field(default_factory=dict)
    children: "list[Selection]" = field(default_factory=list)


@dataclass
class Variable:
    name: str


@dataclass
class Document:
    kind: str = ""  # "query" or "mutation"
    name: str = ""
    defaults: dict[str, Any] = field(default_factory=dict)
    selections: list[Selection] = field(default_factory=list)
    fragments: dict[str, Selection] = field(default_factory=dict)


def parse(text: str) -> Document:
    """Parse a document with one operation and its fragments."""
    return _Parser(text).document()


class _Parser:
    def __init__(self, text: str):
        self._tokens = [m.group(1) for m in TOKEN.finditer(text) if m.group(1)]

    def _at(self, token: str) -> bool:
        return bool(self._tokens) and self._tokens[0] == token

    def _take(self, expected: str | None = None) -> str:
        if not self._tokens or (expected and self._tokens[0] != expected):
            raise GraphQLError(f"expected {expected or 'more'}, found {self._tokens[:5]}")
        return self._tokens.pop(0)

    def _skip(self, token: str) -> bool:
        return self._at(token) and bool(self._take())

    def document(self) -> Document:
        document = Document()
        while self._tokens:
            if self._skip("fragment"):
                name = self._take()
                self._take("on")
                fragment = Selection("inline", self._take())
                fragment.children = self._selections()
                document.fragments[name] = fragment
            else:
                document.kind = "query" if self._at("{") else self._take()
                document.name = "" if self._at("{") or self._at("(") else self._take()
                document.defaults = self._variables()
                document.selections = self._selections()
        return document

    def _variables(self) -> dict[str, Any]:
        """The declared variables' default values."""
        defaults = {}
        if self._skip("("):
            while not self._skip(")"):
                self._take("$")
                name = self._take()
                self._take(":")
                while self._tokens[0] in "[]!" or re.match(r"\w", self._tokens[0]):
                    self._take()  # the type
                if self._skip("="):
                    defaults[name] = self._value()
        return defaults

    def _selections(self) -> list[Selection]:
        self._take("{")
        found = []
        while not self._skip("}"):
            found.append(self._fragment() if self._skip("...") else self._field())
        return found

    def _fragment(self) -> Selection:
        if not self._skip("on"):
            return Selection("spread", self._take(), directives=self._directives())
        return Selection("inline", self._take(), directives=self._directives(), children=self._selections())

    def _field(self) -> Selection:
        key = name = self._take()
        if self._skip(":"):
            name = self._take()
        args, directives = self._arguments(), self._directives()
        return Selection("field", name, key, args, directives, self._selections() if self._at("{") else [])

    def _arguments(self) -> dict[str, Any]:
        return self._entries(")") if self._skip("(") else {}

    def _directives(self) -> dict[str, dict[str, Any]]:
        found = {}
        while self._skip("@"):
            name = self._take()
            found[name] = self._arguments()
        return found

    def _value(self) -> Any:
        token = self._take()
        if token == "$":
            return Variable(self._take())
        if token == "[":
            items = []
            while not self._skip("]"):
                items.append(self._value())
            return items
        if token == "{":
            return self._entries("}")
        try:
            return json.loads(token)  # a number, a string, true, false or null
        except ValueError:
            return token  # an enum's value

    def _entries(self, end: str) -> dict[str, Any]:
        """`name: value` pairs up to the closing token: a list of arguments, or an input object."""
        found = {}
        while not self._skip(end):
            name = self._take()
            self._take(":")
            found[name] = self._value()
        return found


def execute(document: Document, variables: dict[str, Any], roots: dict[str, Any]) -> dict[str, Any]:
    """The `data` of the answer; `roots` holds the objects whose fields are the queries and the mutations."""
    return _Execution(document, {**document.defaults, **variables}).fields(roots[document.kind], document.selections)


@dataclass
class _Execution:
    document: Document
    variables: dict[str, Any]

    def fields(self, parent: Any, selections: list[Selection]) -> dict[str, Any]:
        answer: dict[str, Any] = {}
        for selection in self._flat(parent, selections):
            value = self._complete(resolve(parent, selection.name, self._filled(selection.args)), selection.children)
            both = isinstance(value, dict) and isinstance(answer.get(selection.key), dict)
            answer[selection.key] = {**answer[selection.key], **value} if both else value
        return answer

    def _complete(self, value: Any, children: list[Selection]) -> Any:
        if isinstance(value, list):
            return [self._complete(v, children) for v in value]
        return self.fields(value, children) if children and value is not None else value

    def _flat(self, parent: Any, selections: list[Selection]) -> Iterator[Selection]:
        """The selected fields, including those of fragments whose type is the parent's."""
        for s in selections:
            if not all(self._included(name, args) for name, args in s.directives.items()):
                continue
            if s.kind == "field":
                yield s
                continue
            fragment = self.document.fragments[s.name] if s.kind == "spread" else s
            if isinstance(parent, dict) or fragment.name in (c.__name__ for c in type(parent).__mro__):
                yield from self._flat(parent, fragment.children)

    def _included(self, directive: str, args: dict[str, Any]) -> bool:
        return bool(self._filled(args)["if"]) == (directive == "include")

    def _filled(self, value: Any) -> Any:
        """A value with its variables replaced. An argument whose variable was not given is left out."""
        if isinstance(value, Variable):
            return self.variables.get(value.name)
        if isinstance(value, list):
            return [self._filled(v) for v in value]
        if isinstance(value, dict):
            missing = [k for k, v in value.items() if isinstance(v, Variable) and v.name not in self.variables]
            return {k: self._filled(v) for k, v in value.items() if k not in missing}
        return value


def resolve(parent: Any, name: str, args: dict[str, Any]) -> Any:
    """The value of one field. Raises GraphQLError if there is no field with that name."""
    if isinstance(parent, dict):
        if name not in parent:
            raise GraphQLError(f"no field {name!r} in an answer of {sorted(parent)}")
        return parent[name]
    if name == "__typename":
        return type(parent).__name__
    value = getattr(parent, snake(name), None) if not name.startswith("_") else None
    if value is None and not hasattr(parent, snake(name)):
        raise GraphQLError(f"no field {name!r} in {type(parent).__name__}")
    if not callable(value):
        return value
    given = args.get("input", args)
    return value(**{snake(k): v for k, v in given.items()})


def snake(name: str) -> str:
    """W&B's name in Python's form: `artifactSequenceID` is `artifact_sequence_id`."""
    return CAMEL.sub("_", name).lower()
