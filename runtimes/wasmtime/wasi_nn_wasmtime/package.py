"""What passes between us and the package wasmtime, which runs components."""

from __future__ import annotations

import ctypes
from typing import Any

import wasmtime
from wasmtime import _ffi as ffi

from wasi_nn_wasmtime.capi import POINTER
from wasi_nn_wasmtime.engine import Engine
from wasi_nn_wasmtime.failures import Trap, WasmtimeError

_ENGINE: Any = ctypes.POINTER(ffi.wasm_engine_t)
_CONTEXT: Any = ctypes.POINTER(ffi.wasmtime_context_t)


def address(pointer: Any) -> int:
    """Where a typed pointer points. (``ctypes.cast`` leaves a cycle to Python's collector.)"""
    found: int = POINTER.from_buffer(pointer).value or 0
    return found


def engine_of(engine: Engine) -> wasmtime.Engine:
    """The same engine as the package's object, which has a reference of its own."""
    made: wasmtime.Engine = wasmtime.Engine.__new__(wasmtime.Engine)
    made._set_ptr(_ENGINE.from_buffer(POINTER(engine.clone())))
    return made


def store_of(context: int) -> wasmtime.StoreContext:
    """The open store with this context as the package's object. Raises ``ValueError`` for 0."""
    if not context:
        raise ValueError("the store is closed")
    return wasmtime.StoreContext(_CONTEXT.from_buffer(POINTER(context)))


def ours(error: wasmtime.Trap | wasmtime.WasmtimeError) -> Trap | WasmtimeError:
    """The package's exception as ours."""
    if isinstance(error, wasmtime.Trap):
        code = error.trap_code
        return Trap(str(error), None if code is None else code.value)
    return WasmtimeError(str(error), error.code if isinstance(error, wasmtime.ExitTrap) else None)
