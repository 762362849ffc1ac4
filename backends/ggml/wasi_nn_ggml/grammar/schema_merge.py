"""Merges JSON schemas that apply together (``allOf`` and keywords beside it). Resolves ``$ref``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

from wasi_nn.errors import InvalidArgument

# Keywords that constrain a value. Every other key is an annotation.
_KEYWORDS = {
    "type", "enum", "const", "$ref", "allOf", "anyOf", "oneOf", "properties", "required",
    "additionalProperties", "items", "prefixItems", "pattern", "format", "minimum", "maximum",
    "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "minItems", "maxItems",
    "minProperties", "maxProperties", "multipleOf", "not", "if", "then", "else", "contains",
    "uniqueItems", "patternProperties", "propertyNames",
}  # fmt: skip
_TYPES = ("string", "number", "integer", "boolean", "object", "array", "null")
_LARGER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_SMALLER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_TIGHTER: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(_LARGER, max),
    **dict.fromkeys(_SMALLER, min),
}


def constrains(schema: Mapping[str, Any]) -> bool:
    """Whether a schema constrains values at all."""
    return not _KEYWORDS.isdisjoint(schema)


def merge(
    first: Mapping[str, Any], second: Mapping[str, Any], lost: Callable[[str], None]
) -> dict[str, Any]:
    """A schema for the values that satisfy both. Calls ``lost`` with each keyword that cannot be
    merged, and whose second value stays. Raises ``InvalidArgument`` if nothing satisfies both."""
    result = {**first, **second}
    for key in first.keys() & second.keys() & _KEYWORDS:
        old, new = first[key], second[key]
        if old == new:
            continue
        if key == "properties" and isinstance(old, Mapping) and isinstance(new, Mapping):
            shared = {name: {"allOf": [old[name], new[name]]} for name in old.keys() & new.keys()}
            result[key] = {**old, **new, **shared}
        elif key == "required" and isinstance(old, list) and isinstance(new, list):
            result[key] = old + new
        elif key == "enum" and isinstance(old, list) and isinstance(new, list):
            known = set(map(_text, new))
            result[key] = [value for value in old if _text(value) in known]
            if not result[key]:
                raise InvalidArgument("the json-schema's enums have no value in common")
        elif key == "type":
            result[key] = _types(old, new)
        elif key == "additionalProperties":
            result[key] = False if False in (old, new) else new
        elif key in _TIGHTER and all(type(value) in (int, float) for value in (old, new)):
            result[key] = _TIGHTER[key](old, new)
        else:
            lost(key)
    return result


def resolve(root: Any, reference: str) -> Any:
    """The schema that a reference like ``#/$defs/name`` or ``#/anyOf/1`` points to. Raises
    ``LookupError``, ``ValueError`` or ``TypeError`` if there is none."""
    target = root
    for part in unquote(reference[1:]).split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(target, list):
            if not key.isdecimal():
                raise KeyError(key)
            target = target[int(key)]
        else:
            target = target[key]
    return target


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _types(first: Any, second: Any) -> Any:
    names = [kind if isinstance(kind, list) else [kind] for kind in (first, second)]
    found = [kind for kind in _TYPES if all(kind in each for each in names)]
    whole = all("integer" in each or "number" in each for each in names)
    if whole and "number" not in found and "integer" not in found:
        found.append("integer")
    if not found:
        raise InvalidArgument("the json-schema's types leave no value")
    return found
