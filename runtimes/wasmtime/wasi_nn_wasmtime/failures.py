"""What wasmtime reports: errors and traps."""

from __future__ import annotations

import ctypes

from wasi_nn_wasmtime.capi import POINTER, Vector, brief, lean

_VECTOR = ctypes.POINTER(Vector)
_error_new = brief("wasmtime_error_new", POINTER, ctypes.c_char_p)
_error_message = brief("wasmtime_error_message", None, POINTER, _VECTOR)
_error_delete = lean("wasmtime_error_delete", None, POINTER)
_exit_status = brief(
    "wasmtime_error_exit_status", ctypes.c_bool, POINTER, ctypes.POINTER(ctypes.c_int)
)
_trap_new = brief("wasmtime_trap_new", POINTER, ctypes.c_char_p, ctypes.c_size_t)
_trap_message = brief("wasm_trap_message", None, POINTER, _VECTOR)
_trap_code = brief("wasmtime_trap_code", ctypes.c_bool, POINTER, ctypes.POINTER(ctypes.c_uint8))
_trap_delete = lean("wasm_trap_delete", None, POINTER)
_bytes_delete = brief("wasm_byte_vec_delete", None, _VECTOR)


class WasmtimeError(Exception):
    """An error of wasmtime. ``exit_code`` is the guest's, if that is why it ended."""

    def __init__(self, text: str, exit_code: int | None = None) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class Trap(Exception):
    """A trap of a guest. ``code`` says of which kind, unless a host function made it."""

    OUT_OF_FUEL = 11

    def __init__(self, text: str, code: int | None = None) -> None:
        super().__init__(text)
        self.code = code


def raise_error(error: int | None) -> None:
    """Raise the ``WasmtimeError`` that a C function returned, if it returned one. Frees it."""
    if not error:
        return
    message, status = Vector(), ctypes.c_int()
    _error_message(error, message)
    exits = _exit_status(error, status)
    _error_delete(error)
    raise WasmtimeError(_text(message), status.value if exits else None)


def raise_trap(trap: int | None) -> None:
    """Raise the ``Trap`` that a C function returned, if it returned one. Frees it."""
    if not trap:
        return
    message, code = Vector(), ctypes.c_uint8()
    _trap_message(trap, message)
    coded = _trap_code(trap, code)
    _trap_delete(trap)
    # (Its text ends with a zero byte.)
    raise Trap(_text(message)[:-1], code.value if coded else None)


def new_error(text: str) -> int:
    """An error for a callback to return."""
    error: int = _error_new(text.encode())
    return error


def new_trap(text: str) -> int:
    """A trap for a callback to return."""
    data = text.encode()
    trap: int = _trap_new(data, len(data))
    return trap


def _text(message: Vector) -> str:
    text = ctypes.string_at(message.data, message.size) if message.data else b""
    _bytes_delete(message)
    return text.decode(errors="replace")
