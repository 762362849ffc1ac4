"""Sizes and durations as users write them."""

from __future__ import annotations

import re

from wasi_nn.errors import UsageError

_BYTES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_SECONDS = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9, "m": 60.0}


def size(what: str, text: str) -> int:
    """The bytes of a text such as 64M or 2G. Raises ``UsageError``, which names ``what`` was
    given."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)i?b?", text.strip().lower())
    if found is None:
        raise UsageError(f"{what} takes a size such as 64M or 2G, not {text!r}")
    return int(float(found[1]) * _BYTES[found[2]])


def duration(what: str, text: str) -> float:
    """The seconds of a text such as 2, 0.5 or 500ms. Raises ``UsageError``, which names ``what``
    was given."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?(?:e\d+)?|\.\d+)(s|ms|us|µs|ns|m|)", text)
    if found is None or not float(found[1]):
        raise UsageError(f"{what} takes seconds, or a unit as in 500ms, not {text!r}")
    return float(found[1]) * _SECONDS[found[2]]


def shown_size(count: int) -> str:
    """Bytes as a user reads them: 12.3 MB, with the units that ``size`` takes."""
    number = float(count)
    for unit in ("bytes", "KB", "MB"):
        if number < 1024:
            return f"{count} bytes" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} GB"
