"""``wasm_val_t``: a kind and eight bytes, the same in wasm.h and in WAMR's own API."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from typing import Any

from wasi_nn.wasm.arguments import BITS, FORMATS, check_count, check_results, to_number

__all__ = ["Value", "from_raw", "pack", "to_raw"]


class Value(ctypes.Structure):
    """16 bytes; ``raw`` holds a number of any kind."""

    _fields_ = [("kind", ctypes.c_uint8), ("padding", ctypes.c_uint8 * 7), ("raw", ctypes.c_uint64)]


def pack(kinds: Sequence[int], numbers: Sequence[float]) -> Any:
    """An array of values. Raises ``UsageError`` where they do not fit the kinds."""
    check_count(kinds, numbers)
    values = (Value * len(kinds))()
    for value, kind, number in zip(values, kinds, numbers, strict=True):
        value.kind = kind
        value.raw = to_raw(kind, number)
    return values


def to_raw(kind: int, given: float) -> int:
    """The eight bytes of a number, as an unsigned integer. Raises ``UsageError`` for what is none,
    or does not fit."""
    number = to_number(kind, given)
    if kind in BITS:
        return int(number) & ((1 << BITS[kind]) - 1)
    return int.from_bytes(struct.pack(FORMATS[kind], number), "little")


def from_raw(kind: int, raw: int) -> int | float:
    """The number of eight bytes; integers are signed. Raises ``UsageError`` for a reference."""
    check_results((kind,))
    number: int | float = struct.unpack(FORMATS[kind], raw.to_bytes(8, "little"))[0]
    return number
