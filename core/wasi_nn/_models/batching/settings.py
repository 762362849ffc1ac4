"""The operator's settings, by the names of Triton's model configuration."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from wasi_nn.backend.config import number, whole_number
from wasi_nn.errors import InvalidArgument

#: The key of the config. It is core's, and no guest's config may have it.
KEY = "batching"
_MAX_ROWS = 65_536
_MAX_DELAY_MS = 10_000.0
_MAX_INSTANCES = 64


class Settings(NamedTuple):
    """What the operator asks for.

    - ``rows``: the most rows of one batch (``max_batch_size``).
    - ``delay``: the most seconds that a batch waits for more rows (``max_queue_delay_ms``).
    - ``instances``: the batches that may run at the same time."""

    rows: int
    delay: float = 0.002
    instances: int = 1


def settings_of(config: Mapping[str, Any]) -> Settings | None:
    """The settings in a model's config; None without the key. Raises ``InvalidArgument``."""
    if KEY not in config:
        return None
    given = config[KEY]
    if not isinstance(given, Mapping):
        raise InvalidArgument(
            f"config {KEY!r} must be an object, as in "
            f'{{"max_batch_size": 8, "max_queue_delay_ms": 2}}, not {reprlib.repr(given)}'
        )
    # With the names that the operator finds in the message.
    values = {f"{KEY}.{key}": value for key, value in given.items()}
    rows, delay, instances = (
        f"{KEY}.{key}" for key in ("max_batch_size", "max_queue_delay_ms", "instances")
    )
    unknown = sorted(values.keys() - {rows, delay, instances})
    if unknown:
        raise InvalidArgument(
            f"config {reprlib.repr(unknown[0])} is unknown; known: {rows}, {delay}, {instances}"
        )
    if rows not in values:
        raise InvalidArgument(f"config {rows!r} must be a whole number from 2, and is missing")
    milliseconds = number(values, delay, 1e3 * Settings._field_defaults["delay"], 0.0)
    if milliseconds > _MAX_DELAY_MS:
        raise InvalidArgument(
            f"config {delay!r} must be a number from 0 to {_MAX_DELAY_MS:g}, not {milliseconds:g}"
        )
    return Settings(
        whole_number(values, rows, 0, 2, _MAX_ROWS),
        milliseconds / 1e3,
        whole_number(values, instances, 1, 1, _MAX_INSTANCES),
    )


def without(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config that a backend gets."""
    return {key: value for key, value in config.items() if key != KEY}
