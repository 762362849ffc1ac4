"""``wasm_val_t``: a kind and eight bytes, the same in wasm.h and in WAMR's own API."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from typing import Any

from wasi_nn.errors import UsageError

I32, I64, F32, F64 = range(4)
_FORMATS = {I32: "<i4x", I64: "<q", F32: "<f4x", F64: "<d"}
_BITS = {I32: 32, I64: 64}


class Value(ctypes.Structure):
    """16 bytes; ``raw`` holds a number of any kind."""

    _fields_ = [("kind", ctypes.c_uint8), ("padding", ctypes.c_uint8 * 7), ("raw", ctypes.c_uint64)]


def pack(kinds: Sequence[int], numbers: Sequence[float]) -> Any:
    """An array of values. Raises ``UsageError`` where they do not fit the kinds."""
    if len(kinds) != len(numbers):
        raise UsageError(f"the function takes {len(kinds)} arguments, not {len(numbers)}")
    values = (Value * len(kinds))()
    for value, kind, number in zip(values, kinds, numbers, strict=True):
        value.kind = kind
        value.raw = to_raw(kind, number)
    return values


def to_raw(kind: int, number: float) -> int:
    """The eight bytes of a number, as an unsigned integer."""
    if kind not in _FORMATS:
        raise UsageError("the function takes what is no number")
    if kind in _BITS:
        bits = _BITS[kind]
        if not -(1 << (bits - 1)) <= number < 1 << bits:
            raise UsageError(f"{number} does not fit an i{bits}")
        return int(number) & ((1 << bits) - 1)
    return int.from_bytes(struct.pack(_FORMATS[kind], number), "little")


def from_raw(kind: int, raw: int) -> int | float:
    """The number of eight bytes; integers are signed. Raises ``UsageError`` for a reference."""
    if kind not in _FORMATS:
        raise UsageError("the function gives what is no number")
    number: int | float = struct.unpack(_FORMATS[kind], raw.to_bytes(8, "little"))[0]
    return number
