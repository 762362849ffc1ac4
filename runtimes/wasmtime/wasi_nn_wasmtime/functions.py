"""Exported functions: finding and calling them, with numbers."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

from wasi_nn.runtime.values import from_raw, to_raw
from wasi_nn.wasm.arguments import check_count, check_results
from wasi_nn_wasmtime.capi import POINTER, Extern, Vector, brief, lean
from wasi_nn_wasmtime.failures import raise_error, raise_trap

_VECTOR = ctypes.POINTER(Vector)
_export_get = brief(
    "wasmtime_instance_export_get",
    *(ctypes.c_bool, POINTER, POINTER, ctypes.c_char_p, ctypes.c_size_t, ctypes.POINTER(Extern)),
)
_call = lean(
    "wasmtime_func_call",
    *(POINTER, POINTER, POINTER, POINTER, ctypes.c_size_t, POINTER, ctypes.c_size_t, POINTER),
)
_type = brief("wasmtime_func_type", POINTER, POINTER, POINTER)
_type_delete = brief("wasm_functype_delete", None, POINTER)
_parameters = brief("wasm_functype_params", _VECTOR, POINTER)
_results = brief("wasm_functype_results", _VECTOR, POINTER)
_kind = brief("wasm_valtype_kind", ctypes.c_uint8, POINTER)


class Value(ctypes.Structure):
    """``wasmtime_val_t``: a kind, and a number of it in the first bytes of the rest."""

    _fields_ = (("kind", ctypes.c_uint8), ("raw", ctypes.c_uint64), ("rest", ctypes.c_uint64 * 2))


class Kinds(NamedTuple):
    """The kinds of a function's parameters and results, in wasm.h's numbering."""

    parameters: tuple[int, ...]
    results: tuple[int, ...]


def export_of(context: int, instance: int, name: bytes, kind: int) -> Extern | None:
    """An export of the instance at this address, if it is of this kind."""
    found = Extern()
    if _export_get(context, instance, name, len(name), found) and found.kind == kind:
        return found
    return None


def kinds_of(context: int, function: int) -> Kinds:
    """The kinds of the function at this address."""
    at = _type(context, function)
    try:
        return Kinds(_list(_parameters(at)), _list(_results(at)))
    finally:
        _type_delete(at)


def call(
    context: int, function: int, kinds: Kinds, arguments: Sequence[float]
) -> tuple[int | float, ...]:
    """Call the function at this address. Raises ``UsageError`` for arguments that are not of its
    kinds, ``WasmtimeError`` and ``Trap``."""
    trap = POINTER()
    if not kinds.parameters and not kinds.results and not arguments:
        raise_error(_call(context, function, None, 0, None, 0, ctypes.addressof(trap)))
        raise_trap(trap.value)
        return ()
    check_count(kinds.parameters, arguments)
    # (A reference would come back as a pointer that nobody owns.)
    check_results(kinds.results)
    given = (Value * len(arguments))()
    for value, kind, number in zip(given, kinds.parameters, arguments, strict=True):
        value.kind, value.raw = kind, to_raw(kind, number)
    results = (Value * len(kinds.results))()
    error = _call(
        context,
        function,
        *(ctypes.addressof(given), len(given)),
        *(ctypes.addressof(results), len(results)),
        ctypes.addressof(trap),
    )
    raise_error(error)
    raise_trap(trap.value)
    return tuple([from_raw(value.kind, value.raw) for value in results])


def _list(types: Any) -> tuple[int, ...]:
    vector = types.contents
    items = (POINTER * vector.size).from_address(vector.data) if vector.size else ()
    return tuple([_kind(item) for item in items])
