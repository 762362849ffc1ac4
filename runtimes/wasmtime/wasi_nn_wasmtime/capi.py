"""Functions of wasmtime's C API that wasmtime-py does not offer, or only with slow types.

They come from the shared library that wasmtime-py has loaded, through our own handle, so that the
types here do not replace wasmtime-py's.
"""

from __future__ import annotations

import ctypes
from typing import Any

import wasmtime
from wasmtime import _ffi as ffi

from wasi_nn.runtime.library import holding_gil

POINTER = ctypes.c_void_p
_LIBRARY = ctypes.CDLL(str(ffi.filename))
_HOLDING = holding_gil(_LIBRARY)


def lean(name: str, result: Any, *arguments: Any) -> Any:
    """A C function with pointers as plain integers, because a typed pointer costs about 0.3 µs per
    call. None if the library lacks it."""
    return _typed(_LIBRARY, name, result, arguments)


def brief(name: str, result: Any, *arguments: Any) -> Any:
    """A ``lean`` function that returns at once, runs no guest and waits for no lock. It keeps the
    GIL: where many threads run guests, each one that lets go of it has to wait for it again."""
    return _typed(_HOLDING, name, result, arguments)


def _typed(library: ctypes.CDLL, name: str, result: Any, arguments: Any) -> Any:
    function = getattr(library, name, None)
    if function is not None:
        function.restype = result
        function.argtypes = arguments
    return function


_trap_by_signals = lean("wasmtime_config_signals_based_traps_set", None, POINTER, ctypes.c_bool)
error_new = lean("wasmtime_error_new", POINTER, ctypes.c_char_p)


def address(pointer: Any) -> int:
    """Where a typed pointer points. (``ctypes.cast`` leaves a cycle to Python's collector.)"""
    found: int = POINTER.from_buffer(pointer).value or 0
    return found


def typed(at: int, kind: Any) -> Any:
    """A pointer for wasmtime-py, of type ``kind``, to an address."""
    return kind.from_buffer(POINTER(at))


def raise_error(error: int | None) -> None:
    """Raise the ``WasmtimeError`` that a C function returned, if it returned one."""
    if error:
        raise wasmtime.WasmtimeError._from_ptr(
            ctypes.cast(error, ctypes.POINTER(ffi.wasmtime_error_t))
        )


def raise_trap(trap: int | None) -> None:
    """Raise the ``Trap`` that a C function returned, if it returned one."""
    if trap:
        raise wasmtime.Trap._from_ptr(ctypes.cast(trap, ctypes.POINTER(ffi.wasm_trap_t)))


def trap_by_signals(config: wasmtime.Config, enabled: bool) -> None:
    """Choose whether traps come through signal handlers of the process (wasmtime's default), or
    from checks in the compiled code."""
    _trap_by_signals(address(config.ptr()), enabled)
