"""Reading a backend's config: JSON of a guest or a person, with the types that the keys ask for."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from wasi_nn.errors import InvalidArgument, InvalidEncoding

Config = Mapping[str, Any]


def parse(text: str) -> dict[str, Any]:
    """A config from its JSON; an empty text is an empty config.

    Raises ``InvalidEncoding`` for what is not JSON (WasmEdge's ggml backend answers so) and
    ``InvalidArgument`` for JSON that is no object."""
    if not text.strip("\0 \t\r\n"):
        return {}
    try:
        config = json.loads(text.rstrip("\0"))
    except (ValueError, RecursionError) as error:
        raise InvalidEncoding(f"the config is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise InvalidArgument("the config is not a JSON object")
    return config


def whole_number(config: Config, key: str, default: int, least: int = 0, most: int = 1024) -> int:
    """An integer from ``least`` to ``most``. Raises ``InvalidArgument`` for anything else."""
    value = config.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InvalidArgument(
            f"config {key!r} must be a whole number from {least} to {most}, not {value!r}"
        )
    return value


def threads(config: Config, key: str = "threads", default: int = 0) -> int:
    """A number of threads, four for each of this machine's cores at most: a guest may ask too."""
    return whole_number(config, key, default, most=4 * (os.cpu_count() or 1))


def flag(config: Config, key: str, default: bool) -> bool:
    """True or false. Raises ``InvalidArgument`` for anything else."""
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise InvalidArgument(f"config {key!r} must be true or false, not {value!r}")
    return value


def choice(config: Config, key: str, choices: Sequence[str]) -> str:
    """One of ``choices``, the first by default. Raises ``InvalidArgument`` for anything else."""
    value = config.get(key, choices[0])
    if value not in choices:
        raise InvalidArgument(f"config {key!r} must be one of {', '.join(choices)}, not {value!r}")
    return str(value)
