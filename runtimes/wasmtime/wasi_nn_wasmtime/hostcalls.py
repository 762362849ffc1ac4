"""Host functions that cost well under 2 µs per call.

wasmtime-py's ``Linker.define_func`` converts every value to a Python object through several ctypes
structures: about 10 µs per call. The C API's *unchecked* functions get the raw values instead: an
array of 16-byte slots with the parameters, where slot 0 takes the result. All values of wasi-nn are
i32, so the first 4 bytes of a slot, read as unsigned, are the whole value. Read as an array of u32,
parameter k is element 4·k.

This relies on these rules (wasmtime/crates/c-api/include/wasmtime/func.h, val.h):

- The callback returns a pointer to a trap, or NULL.
- wasmtime has checked the import against the function's type, so the slots match that type.
- The callback object, created by ctypes, must live as long as the linker and the store that know
  its address.
- No exception may leave the callback. It is kept here, and a trap ends the guest.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import wasmtime
from wasmtime import _ffi as ffi

from wasi_nn.runtime import BufferMemory, HostFunction
from wasi_nn.runtime.engine import HOST_TRAP, EngineInstance
from wasi_nn.runtime.library import view_at
from wasi_nn.wasm.wasi_signatures import SIGNATURES
from wasi_nn_wasmtime.capi import POINTER, lean, raise_error

_CALLBACK: Any = ctypes.CFUNCTYPE(
    POINTER, POINTER, POINTER, ctypes.POINTER(ctypes.c_uint32), ctypes.c_size_t
)
_MEMORY = b"memory"
_TRAP_TEXT = HOST_TRAP.encode()

_define_func = lean(
    "wasmtime_linker_define_func_unchecked",
    POINTER,
    POINTER,
    ctypes.c_char_p,
    ctypes.c_size_t,
    ctypes.c_char_p,
    ctypes.c_size_t,
    POINTER,
    _CALLBACK,
    POINTER,
    POINTER,
)
_caller_context = lean("wasmtime_caller_context", POINTER, POINTER)
_export_get = lean(
    "wasmtime_caller_export_get",
    ctypes.c_bool,
    POINTER,
    ctypes.c_char_p,
    ctypes.c_size_t,
    ctypes.POINTER(ffi.wasmtime_extern_t),
)
_memory_data = lean("wasmtime_memory_data", POINTER, POINTER, POINTER)
_memory_size = lean("wasmtime_memory_data_size", ctypes.c_size_t, POINTER, POINTER)
_trap_new = lean("wasmtime_trap_new", POINTER, ctypes.c_char_p, ctypes.c_size_t)


class HostCalls:
    """The host functions of one store, and its guest's memory. An exception of a host function is
    kept in ``owner.raised``."""

    def __init__(self, linker: wasmtime.Linker, owner: EngineInstance) -> None:
        self._linker = linker
        self._owner = owner
        self._kept: list[Any] = []
        self._memory = BufferMemory()
        self._memory_extern: ffi.wasmtime_memory_t | None = None
        self._memory_at = 0
        self._context = 0

    def define(self, function: HostFunction) -> None:
        """Define a host function in the linker."""
        # A FuncType belongs to the first engine that uses it. A second engine would abort the
        # process, so every definition gets a new one.
        i32 = wasmtime.ValType.i32
        results = [i32()] if function.has_result else []
        kind = wasmtime.FuncType([i32() for _ in range(function.parameters)], results)
        self._define(function.module, function.name, kind, self._trampoline(function))

    def define_wasi(self, module: str, name: str, call: Callable[..., int]) -> None:
        """Define a function of WASI preview 1, which may have i64 parameters. ``call`` gets the
        guest's memory and the parameters, unsigned."""
        kinds = SIGNATURES[name].parameters
        types = {"i32": wasmtime.ValType.i32, "i64": wasmtime.ValType.i64}
        kind = wasmtime.FuncType([types[kind]() for kind in kinds], [wasmtime.ValType.i32()])
        memory_now = self._memory_now

        def trampoline(env: int, caller: int, slots: Any, count: int) -> int | None:
            try:
                values = [
                    slots[4 * i] | (slots[4 * i + 1] << 32 if kind == "i64" else 0)
                    for i, kind in enumerate(kinds)
                ]
                slots[0] = call(memory_now(caller), *values)
                return None
            except BaseException as exception:
                return self._fail(exception)

        self._define(module, name, kind, trampoline)

    @property
    def guest_memory(self) -> wasmtime.Memory | None:
        """The guest's memory as wasmtime's object, within a host call. None if it exports none."""
        extern = self._memory_extern
        return None if extern is None else wasmtime.Memory._from_raw(extern)

    @property
    def context(self) -> int:
        """The store's context, within a host call of a guest that exports a memory."""
        return self._context

    def _define(
        self,
        module_name: str,
        function_name: str,
        kind: wasmtime.FuncType,
        call: Callable[..., Any],
    ) -> None:
        callback = _CALLBACK(call)
        self._kept += (callback, kind)
        module, name = module_name.encode(), function_name.encode()
        error = _define_func(
            ctypes.cast(self._linker.ptr(), POINTER),
            module,
            len(module),
            name,
            len(name),
            ctypes.cast(kind.ptr(), POINTER),
            callback,
            None,
            None,
        )
        raise_error(error)

    def close(self) -> None:
        """Free the callbacks, after the store and the linker are closed."""
        self._kept.clear()
        self._memory.replace(memoryview(b""))
        self._memory_extern = None

    def follow_memory(self) -> None:
        """Update the memory that a host call was given, after the guest ran within that call."""
        if self._memory_at:
            self._memory_now(0)

    def _trampoline(self, function: HostFunction) -> Callable[..., int | None]:
        call = function.call
        stop = 4 * function.parameters
        has_result = function.has_result
        memory_now = self._memory_now

        def trampoline(env: int, caller: int, slots: Any, count: int) -> int | None:
            try:
                # (ctypes gives one element for the empty slice 0:0:4.)
                values = slots[0:stop:4] if stop else ()
                result = call(memory_now(caller), *values)
                if has_result:
                    slots[0] = result
                return None
            except BaseException as exception:
                return self._fail(exception)

        return trampoline

    def _fail(self, exception: BaseException) -> int:
        """Keep the exception, which must not leave a callback, and end the guest."""
        self._owner.raised = exception
        trap: int = _trap_new(_TRAP_TEXT, len(_TRAP_TEXT))
        return trap

    def _memory_now(self, caller: int) -> BufferMemory | None:
        """The guest's memory at its current size, without a copy. The engine is configured so that
        it never moves, but the view must follow its growth."""
        if not self._memory_at and not self._find_memory(caller):
            return None
        memory = self._memory
        size = _memory_size(self._context, self._memory_at)
        if size != memory.size:
            memory.replace(view_at(_memory_data(self._context, self._memory_at), size))
        return memory

    def _find_memory(self, caller: int) -> bool:
        extern = ffi.wasmtime_extern_t()
        if not _export_get(caller, _MEMORY, len(_MEMORY), ctypes.byref(extern)):
            return False
        kind: Any = extern.kind
        if kind != ffi.WASMTIME_EXTERN_MEMORY.value:
            return False
        self._memory_extern = extern.of.memory
        self._memory_at = ctypes.addressof(self._memory_extern)
        self._kept.append(extern)
        self._context = _caller_context(caller)
        return True
