"""The arguments of a call to an export, checked against its signature."""

from __future__ import annotations

import operator
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from wasi_nn.errors import UsageError
from wasi_nn.wasm.module import Signature

__all__ = [
    "BITS",
    "F32",
    "F64",
    "FORMATS",
    "I32",
    "I64",
    "KINDS",
    "check_call",
    "check_count",
    "check_results",
    "to_number",
]

#: The kinds of numbers, with wasm.h's numbering.
I32, I64, F32, F64 = range(4)
#: The ``struct`` format of a number in eight bytes, and the bits of an integer, by kind.
FORMATS = {I32: "<i4x", I64: "<q", F32: "<f4x", F64: "<d"}
BITS = {I32: 32, I64: 64}
_NAMES = {I32: "i32", I64: "i64", F32: "f32", F64: "f64"}
#: The kinds by name (``i32``).
KINDS = {name: kind for kind, name in _NAMES.items()}


def to_number(kind: int, given: Any) -> int | float:
    """The number to pass to the guest: an int, signed or unsigned, for i32 and i64, and a float for
    f32 and f64. Raises ``UsageError`` if ``given`` is not such a number or does not fit."""
    name = _NAMES.get(kind)
    if name is None:
        raise UsageError("the function takes a value that is not a number")
    try:
        if kind in BITS:
            number = operator.index(given)
            if not -(1 << (BITS[kind] - 1)) <= number < 1 << BITS[kind]:
                raise OverflowError
            return number
        real = float(given)
        struct.pack(FORMATS[kind], real)
        return real
    except OverflowError:
        raise UsageError(f"an argument does not fit an {name}") from None
    except (TypeError, ValueError):
        raise UsageError(f"{given!r} is not of type {name}") from None


def check_call(signature: Signature | None, arguments: Sequence[float]) -> tuple[int | float, ...]:
    """The arguments of a call, converted with ``to_number``. A ``signature`` of None could not be
    read. Raises ``UsageError`` if the arguments do not fit, and for a function with a parameter or
    result that is not a number, because some engines end the process for one."""
    if signature is None:
        raise UsageError("the function's signature could not be read")
    kinds, results = _kinds(signature)
    check_count(kinds, arguments)
    check_results(results)
    return tuple(map(to_number, kinds, arguments))


@lru_cache(maxsize=256)
def _kinds(signature: Signature) -> tuple[Sequence[int], Sequence[int]]:
    parameters, results = ([KINDS.get(name, -1) for name in names] for names in signature)
    return parameters, results


def check_results(kinds: Sequence[int]) -> None:
    """Raise ``UsageError`` unless all results are numbers."""
    if not FORMATS.keys() >= set(kinds):
        raise UsageError("the function returns a value that is not a number")


def check_count(kinds: Sequence[int], arguments: Sequence[float]) -> None:
    """Raise ``UsageError`` unless there is one argument for each parameter."""
    if len(kinds) != len(arguments):
        raise UsageError(f"the function takes {len(kinds)} arguments, not {len(arguments)}")
