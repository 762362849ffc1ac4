"""Reads a backend's config, JSON of a guest or the operator, with the types that its keys need."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from wasi_nn.errors import InvalidArgument, InvalidEncoding
from wasi_nn.escaping import logger, visible

if TYPE_CHECKING:
    from wasi_nn.backend import Backend

__all__ = [
    "Config",
    "check_host_only",
    "choice",
    "flag",
    "known_config",
    "number",
    "parse",
    "text",
    "threads",
    "typed",
    "whole_number",
]

log = logger("wasi_nn")

#: A config, as ``LoadOptions`` has it.
Config = Mapping[str, Any]
_Value = TypeVar("_Value")
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}
# llama.cpp and others take 32-bit floats.
_MAX_NUMBER = 1e30

# A backend's keys are listed in a warning up to this number; of more, only the similar ones.
_MAX_KNOWN = 16
# Unknown keys that are listed, and characters of each: a guest may send any number.
_MAX_UNKNOWN, _MAX_KEY = 8, 80


def parse(text: str) -> dict[str, Any]:
    """A config from its JSON; an empty text is an empty config.

    Raises ``InvalidEncoding`` if the text is not JSON (as WasmEdge's ggml backend does) and
    ``InvalidArgument`` if it is not an object."""
    if not text.strip("\0 \t\r\n"):
        return {}
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
    kinds = (int, float) if kind is float else kind
    # (True is an int for Python. A program's float may be numpy's, and its text an enum's.)
    if not isinstance(value, kinds) or isinstance(value, bool) is not (kind is bool):
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


def known_config(backend: Backend, config: Config) -> dict[str, Any]:
    """The part of a config that the backend knows; the rest is logged.

    Two configs that differ only in unknown keys are the same model."""
    keys = backend.config_keys
    if keys is None:
        return dict(config)
    unknown = sorted(config.keys() - keys)
    if unknown:
        from difflib import get_close_matches

        listed = unknown[:_MAX_UNKNOWN]
        near = {like for key in listed for like in get_close_matches(key[:_MAX_KEY], keys, 2)}
        known = sorted(near if len(keys) > _MAX_KNOWN else keys)
        log.warning(
            "backend %s does not know the config's %s%s%s",
            backend.name,
            ", ".join(visible(key, _MAX_KEY) for key in listed),
            f" and {len(unknown) - len(listed)} more" if len(unknown) > len(listed) else "",
            f"; it knows: {', '.join(known)}" if known else "",
        )
    return {key: value for key, value in config.items() if key in keys}


def check_host_only(config: Config, host_only: frozenset[str]) -> None:
    """Raise ``InvalidArgument`` for a guest's config with a key that only the operator may set."""
    refused = sorted(config.keys() & host_only)
    if refused:
        raise InvalidArgument(
            f"a guest's config may not set {', '.join(refused)}: "
            "give it with the model (--config NAME=JSON; from Python, config=…)"
        )


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
        if value == each and isinstance(value, type(each)) and not isinstance(value, bool):
            return each
    raise _wrong(key, f"one of {', '.join(map(str, choices))}", value)


def _wrong(key: str, expected: str, value: object) -> InvalidArgument:
    # A guest's value may be long.
    return InvalidArgument(f"config {key!r} must be {expected}, not {reprlib.repr(value)}")
