"""Writes JSON schemas in llguidance's Lark, and rejects those that it would not finish."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from wasi_nn.errors import InvalidArgument

_MAX_SIZE = 256 << 10
_MAX_DEPTH = 100
# llguidance reads a schema within a schema, and one that it refers to, on the stack.
_MAX_LEVELS = 1000
# Work that grows with the square of the number of entries.
_MAX_ENTRIES = {
    **dict.fromkeys(("properties", "required", "anyOf", "oneOf", "allOf"), 1000),
    "patternProperties": 100,
}
# llguidance prepares a state for each of a number.
_LENGTHS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_MAX_NUMBERS = {**dict.fromkeys(_LENGTHS, 100_000), "multipleOf": 1000}
_MERGING = ("$ref", "allOf", "anyOf", "oneOf")
_VALUES = ("const", "enum", "default", "examples")
# They change what a reference means.
_BASES = ("$id", "id", "$schema", "$anchor", "$dynamicAnchor")
_OPTIONS = {
    # A keyword that cannot be enforced is a warning.
    "lenient": True,
    "coerce_one_of": True,
    # Otherwise a model may write white space without end.
    "whitespace_pattern": r" |\n[ \t]{0,20}",
}


def convert(text: str) -> str:
    """The Lark text of a JSON schema given as JSON. Raises ``InvalidArgument`` with the reason if
    it is not JSON, or too large; llguidance judges the rest."""
    if len(text) > _MAX_SIZE:
        raise InvalidArgument(
            f"the json-schema has {len(text)} characters: at most {_MAX_SIZE} are allowed"
        )
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"the json-schema is not JSON: {error}") from error
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise InvalidArgument(f"a json-schema must be an object, not {reprlib.repr(schema)}")
    _Check(schema).run()
    _close(schema)
    schema["x-guidance"] = _OPTIONS
    return f"start: %json {json.dumps(schema)}"


def _close(root: dict[str, Any]) -> None:
    """Allow only the properties that an object lists, unless it says otherwise. (llama.cpp's
    converter does so too. A small model would add properties without end.)"""
    parts = [part for part in _parts(root) if isinstance(part, dict)]
    # Schemas that are merged with others, which may have more properties.
    merged: dict[int, Any] = {}
    pending: list[Any] = []
    for part in parts:
        both = "properties" in part or len(_entries(part, "allOf")) > 1
        if both and any(key in part for key in _MERGING):
            pending.append(part)
    while pending:
        part = pending.pop()
        if isinstance(part, dict) and id(part) not in merged:
            merged[id(part)] = part
            pending += (each for key in _MERGING[1:] for each in _entries(part, key))
            if isinstance(part.get("$ref"), str):
                pending.append(_target(root, part["$ref"]))
    for part in parts:
        properties = part.get("properties")
        closed = isinstance(properties, dict) and properties and id(part) not in merged
        if closed and "patternProperties" not in part:
            part.setdefault("additionalProperties", False)


def _parts(part: Any) -> Iterator[Any]:
    """A schema and everything in it that can be one."""
    yield part
    if isinstance(part, dict):
        for key, value in part.items():
            if key not in _VALUES:
                yield from _parts(value)
    elif isinstance(part, list):
        for value in part:
            yield from _parts(value)


def _entries(part: dict[str, Any], key: str) -> list[Any]:
    value = part.get(key)
    return value if isinstance(value, list) else []


def _target(root: Any, reference: str) -> Any:
    """What a reference points to. Raises ``InvalidArgument``."""
    if not f"{reference}/".startswith("#/"):
        raise InvalidArgument(
            f"the json-schema refers to {reprlib.repr(reference)}: only #/… is supported"
        )
    target = root
    try:
        for name in unquote(reference[1:]).split("/")[1:]:
            key = name.replace("~1", "/").replace("~0", "~")
            target = target[int(key) if isinstance(target, list) else key]
    except (LookupError, ValueError, TypeError):
        raise InvalidArgument(f"the json-schema has nothing at {reprlib.repr(reference)}") from None
    return target


class _Check:
    def __init__(self, schema: dict[str, Any]) -> None:
        self._root = schema
        self._references: set[str] = set()
        #: The levels of each part.
        self._levels: dict[int, int] = {}

    def run(self) -> None:
        levels = self._visit(self._root, 0)
        targets = [_target(self._root, reference) for reference in self._references]
        # No way through the schema takes a reference twice.
        levels += sum(self._levels.get(id(target), 0) for target in targets)
        if levels > _MAX_LEVELS:
            raise InvalidArgument(
                f"the json-schema's references lead {levels} levels deep: at most {_MAX_LEVELS} "
                "are allowed"
            )

    def _visit(self, part: Any, depth: int) -> int:
        if depth > _MAX_DEPTH:
            raise InvalidArgument(f"the json-schema nests deeper than {_MAX_DEPTH} levels")
        if isinstance(part, dict):
            for key in _BASES:
                if isinstance(part.get(key), str):
                    del part[key]
            self._check_keywords(part)
            inner = [value for key, value in part.items() if key not in _VALUES]
        elif isinstance(part, list):
            inner = part
        else:
            return 0
        levels = 1 + max((self._visit(each, depth + 1) for each in inner), default=0)
        self._levels[id(part)] = levels
        return levels

    def _check_keywords(self, part: dict[str, Any]) -> None:
        for key, most in _MAX_ENTRIES.items():
            if isinstance(part.get(key), (dict, list)) and len(part[key]) > most:
                raise InvalidArgument(
                    f"the json-schema's {key} has {len(part[key])} entries: at most {most} are "
                    "allowed"
                )
        for key, number in _MAX_NUMBERS.items():
            if isinstance(part.get(key), (int, float)) and part[key] > number:
                raise InvalidArgument(
                    f"the json-schema's {key} is {reprlib.repr(part[key])}: at most {number} is "
                    "allowed"
                )
        if isinstance(part.get("$ref"), str):
            self._references.add(part["$ref"])
