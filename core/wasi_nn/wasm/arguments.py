"""What a call of an export may pass: the numbers that its signature takes."""

from __future__ import annotations

import operator
import struct
from collections.abc import Sequence

from wasi_nn.errors import UsageError
from wasi_nn.wasm.module import Signature

#: The kinds of numbers, as wasm.h counts them.
I32, I64, F32, F64 = range(4)
#: A number's eight bytes, and the bits of an integer, by kind.
FORMATS = {I32: "<i4x", I64: "<q", F32: "<f4x", F64: "<d"}
BITS = {I32: 32, I64: 64}
_NAMES = {I32: "i32", I64: "i64", F32: "f32", F64: "f64"}
_KINDS = {name: kind for kind, name in _NAMES.items()}


def to_number(kind: int, given: float) -> int | float:
    """What a guest is given for a Python number: an int for the integers, signed or unsigned, and a
    float for the others. Raises ``UsageError`` for what is none, or does not fit."""
    name = _NAMES.get(kind)
    if name is None:
        raise UsageError("the function takes a value that is not a number")
    try:
        if kind in BITS:
            number = operator.index(given)  # type: ignore[arg-type]
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
    """The arguments as ``to_number`` gives them, for an export of this signature (None for one that
    could not be read). Raises ``UsageError`` where they do not fit it, and for a function that
    takes or gives a value that is not a number: some engines end the process at that."""
    if signature is None:
        raise UsageError("the function's signature could not be read")
    kinds, results = ([_KINDS.get(name, -1) for name in names] for names in signature)
    check_count(kinds, arguments)
    check_results(results)
    return tuple(map(to_number, kinds, arguments))


def check_results(kinds: Sequence[int]) -> None:
    """Raise ``UsageError`` unless a function gives numbers alone."""
    if not FORMATS.keys() >= set(kinds):
        raise UsageError("the function gives a value that is not a number")


def check_count(kinds: Sequence[int], arguments: Sequence[float]) -> None:
    """Raise ``UsageError`` unless there is an argument for each parameter."""
    if len(kinds) != len(arguments):
        raise UsageError(f"the function takes {len(kinds)} arguments, not {len(arguments)}")
