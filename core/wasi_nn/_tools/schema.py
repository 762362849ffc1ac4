"""The JSON Schema of a tool's input: the part of it that is checked here.

A model writes the arguments of a call, so they are checked before a guest sees them. A keyword that
would not be checked is refused when the tool is made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from wasi_nn._suggestion import did_you_mean
from wasi_nn.errors import UsageError

# What says something to the model alone.
_NOTES = ("title", "description", "default", "examples", "format", "$schema")
_BOUNDS = ("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems")
_OTHERS = ("type", "enum", "properties", "required", "additionalProperties", "items")
_KEYWORDS = (*_OTHERS, *_BOUNDS, *_NOTES)
_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
    "null": (type(None),),
}
_ARTICLES = {"integer": "an integer", "object": "an object", "array": "an array", "null": "null"}
_MAX_DEPTH = 32


def check_schema(schema: object, where: str = "the schema", depth: int = 0) -> None:
    """Raise ``UsageError`` for a schema with a keyword that is not checked here, or a wrong one."""
    if not isinstance(schema, Mapping):
        raise UsageError(f"{where} is {schema!r}, and must be a table (an object of JSON Schema)")
    if depth > _MAX_DEPTH:
        raise UsageError(f"{where} is nested more than {_MAX_DEPTH} deep")
    for key, value in schema.items():
        if key not in _KEYWORDS:
            hint = did_you_mean(str(key), _KEYWORDS) or f"; known: {', '.join(_KEYWORDS)}"
            raise UsageError(f"{where} has the keyword {key!r}, which is not checked here{hint}")
        if key == "type":
            for kind in value if isinstance(value, list) else [value]:
                if kind not in _TYPES:
                    hint = did_you_mean(str(kind), _TYPES) or f"; known: {', '.join(_TYPES)}"
                    raise UsageError(f"{where} has the type {kind!r}{hint}")
        elif key in _BOUNDS:
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise UsageError(f"{where}: {key} is {value!r}, and must be a number")
        elif key in ("enum", "required"):
            if not isinstance(value, Sequence) or isinstance(value, str):
                raise UsageError(f"{where}: {key} is {value!r}, and must be a list")
        elif key == "properties":
            if not isinstance(value, Mapping):
                raise UsageError(f"{where}: properties is {value!r}, and must be a table")
            for name, inner in value.items():
                check_schema(inner, f"{where}, property {name!r}", depth + 1)
        elif key == "items" or (key == "additionalProperties" and not isinstance(value, bool)):
            check_schema(value, f"{where}, {key}", depth + 1)
    unknown = [each for each in schema.get("required", ()) if each not in properties_of(schema)]
    if unknown and "properties" in schema:
        raise UsageError(
            f"{where} requires {unknown[0]!r}, which is not one of its properties"
            + did_you_mean(str(unknown[0]), schema["properties"])
        )


def properties_of(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The properties of an object's schema, by name."""
    found: Mapping[str, Any] = schema.get("properties", {})
    return found


def mistake(schema: Mapping[str, Any], value: object, where: str = "the input") -> str:
    """What is wrong with a value, in one sentence; an empty text if nothing is."""
    kinds = schema.get("type", [])
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if kinds and not any(_is(kind, value) for kind in kinds):
        expected = " or ".join(_ARTICLES.get(kind, f"a {kind}") for kind in kinds)
        return f"{where} must be {expected}, not {_shown(value)}"
    if "enum" in schema and not any(_same(value, one) for one in schema["enum"]):
        listed = ", ".join(map(_shown, schema["enum"]))
        return f"{where} must be one of {listed}, not {_shown(value)}"
    wrong = _bounds(schema, value, where)
    if wrong:
        return wrong
    if isinstance(value, Mapping):
        return _object(schema, value, where)
    if isinstance(value, list) and "items" in schema:
        for number, each in enumerate(value):
            if wrong := mistake(schema["items"], each, f"item {number} of {where}"):
                return wrong
    return ""


def _object(schema: Mapping[str, Any], value: Mapping[str, Any], where: str) -> str:
    known = properties_of(schema)
    for name in schema.get("required", ()):
        if name not in value:
            return f"{where} lacks {name!r}, which is required"
    # Without properties, everything is allowed.
    others = schema.get("additionalProperties", "properties" not in schema)
    for name, each in value.items():
        inner = known.get(name, others)
        if inner is False:
            hint = did_you_mean(str(name), known) or f"; known: {', '.join(known) or 'nothing'}"
            return f"{where} has {_shown(name)}, which the tool does not take{hint}"
        wrong = "" if inner is True else mistake(inner, each, repr(name)[:100])
        if wrong:
            return wrong
    return ""


def _bounds(schema: Mapping[str, Any], value: object, where: str) -> str:
    measure: float
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        low, high, measure, unit = "minimum", "maximum", value, ""
    elif isinstance(value, str):
        low, high, measure, unit = "minLength", "maxLength", len(value), " characters"
    elif isinstance(value, list):
        low, high, measure, unit = "minItems", "maxItems", len(value), " items"
    else:
        return ""
    if low in schema and measure < schema[low]:
        return f"{where} must be at least {schema[low]}{unit}, not {_shown(measure)}"
    if high in schema and measure > schema[high]:
        return f"{where} must be at most {schema[high]}{unit}, not {_shown(measure)}"
    return ""


def _is(kind: str, value: object) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if isinstance(value, float):
        # (A number without a fraction is an integer in JSON Schema.)
        return math.isfinite(value) and (kind == "number" or (kind == "integer" and value % 1 == 0))
    return isinstance(value, _TYPES[kind])


def _same(one: object, other: object) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # (An integer of thousands of digits.)
        text = "a number of thousands of digits"
    return text if len(text) <= 100 else f"{text[:100]}…"
