"""Reading a backend's config: JSON of a guest or a person, with the types that the keys ask for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from wasi_nn.errors import InvalidArgument

Config = Mapping[str, Any]


def whole_number(config: Config, key: str, default: int, least: int = 0, most: int = 1024) -> int:
    """An integer from ``least`` to ``most``. Raises ``InvalidArgument`` for anything else."""
    value = config.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InvalidArgument(
            f"config {key!r} is to be a whole number from {least} to {most}, not {value!r}"
        )
    return value


def threads(config: Config, key: str = "threads", default: int = 0) -> int:
    """A number of threads, four for each of this machine's cores at most: a guest may ask too."""
    return whole_number(config, key, default, most=4 * (os.cpu_count() or 1))


def flag(config: Config, key: str, default: bool) -> bool:
    """True or false. Raises ``InvalidArgument`` for anything else."""
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise InvalidArgument(f"config {key!r} is to be true or false, not {value!r}")
    return value


def choice(config: Config, key: str, choices: Sequence[str]) -> str:
    """One of ``choices``, the first by default. Raises ``InvalidArgument`` for anything else."""
    value = config.get(key, choices[0])
    if value not in choices:
        raise InvalidArgument(f"config {key!r} is to be one of {', '.join(choices)}, not {value!r}")
    return str(value)
