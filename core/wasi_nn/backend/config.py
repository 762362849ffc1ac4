"""Reads a backend's config, JSON of a guest or the operator, with the types that its keys need."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from wasi_nn.errors import InvalidArgument, InvalidEncoding

Config = Mapping[str, Any]
_Value = TypeVar("_Value")
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}
# llama.cpp and others take 32-bit floats.
_MAX_NUMBER = 1e30


def parse(text: str) -> dict[str, Any]:
    """A config from its JSON; an empty text is an empty config.

    Raises ``InvalidEncoding`` if the text is not JSON (as WasmEdge's ggml backend does) and
    ``InvalidArgument`` if it is not an object."""
    if not text.strip("\0 \t\r\n"):
        return {}
    # Listing the plugins imports this module, and must not import json.
    import json

    try:
        config = json.loads(text.rstrip("\0"))
    except (ValueError, RecursionError) as error:
        raise InvalidEncoding(f"the config is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise InvalidArgument("the config is not a JSON object")
    return config


def typed(config: Config, key: str, kind: type[_Value], default: _Value) -> _Value:
    """The value of ``key``, or ``default`` without it. ``kind`` is bool, int, float (a whole number
    is one too) or str (of valid Unicode without NUL). Raises ``InvalidArgument`` for any other."""
    value: Any = config.get(key, default)
    if type(value) is not kind and (kind is not float or type(value) is not int):
        raise _wrong(key, _KINDS[kind], value)
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            # JSON can contain half a character.
            raise InvalidArgument(f"config {key!r} is not text: {error.reason}") from error
        if "\0" in value:
            raise InvalidArgument(f"config {key!r} contains a NUL character")
    return cast("_Value", value)


def whole_number(config: Config, key: str, default: int, least: int = 0, most: int = 1024) -> int:
    """An integer from ``least`` to ``most``, or ``default``. Raises ``InvalidArgument``."""
    value = typed(config, key, int, default)
    if key in config and not least <= value <= most:
        raise _wrong(key, f"a whole number from {least} to {most}", value)
    return value


def threads(config: Config, key: str = "threads", default: int = 0) -> int:
    """A number of threads, at most four per core of this machine: a guest may ask too."""
    return whole_number(config, key, default, most=4 * (os.cpu_count() or 1))


def number(config: Config, key: str, default: float, least: float = -_MAX_NUMBER) -> float:
    """A finite number from ``least`` to 1e30, or ``default``. Raises ``InvalidArgument``."""
    value = typed(config, key, float, default)
    if not least <= value <= _MAX_NUMBER:
        raise _wrong(key, f"a number from {least:g} to {_MAX_NUMBER:g}", value)
    return float(value)


def flag(config: Config, key: str, default: bool) -> bool:
    """True or false, or ``default``. Raises ``InvalidArgument``."""
    return typed(config, key, bool, default)


def text(config: Config, key: str) -> str:
    """A string, empty by default. Raises ``InvalidArgument``."""
    return typed(config, key, str, "")


def choice(config: Config, key: str, choices: Sequence[_Value]) -> _Value:
    """One of ``choices``, the first by default. Raises ``InvalidArgument``."""
    value = config.get(key, choices[0])
    for each in choices:
        if value == each and type(value) is type(each):
            return each
    raise _wrong(key, f"one of {', '.join(map(str, choices))}", value)


def _wrong(key: str, expected: str, value: object) -> InvalidArgument:
    # A guest's value may be long.
    return InvalidArgument(f"config {key!r} must be {expected}, not {reprlib.repr(value)}")
