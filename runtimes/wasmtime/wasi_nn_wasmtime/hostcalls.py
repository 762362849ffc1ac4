"""Host functions that cost well under 2 µs per call, and nothing for a further guest.

wasmtime-py's ``Linker.define_func`` converts every value to a Python object through several ctypes
structures: about 10 µs per call. The C API's *unchecked* functions get the raw values instead: an
array of 16-byte slots with the parameters, where slot 0 takes the result. All values of wasi-nn are
i32, so the first 4 bytes of a slot, read as unsigned, are the whole value. Read as an array of u32,
parameter k is element 4·k.

All guests of a program share the callbacks. A callback finds its guest by the store of its caller.

This relies on these rules (wasmtime/crates/c-api/include/wasmtime/func.h, val.h):

- The callback returns a pointer to a trap, or NULL.
- wasmtime has checked the import against the function's type, so the slots match that type.
- The callback object, created by ctypes, must live as long as the linker and the stores that know
  its address.
- No exception may leave the callback. Its guest keeps it, and a trap ends the guest.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

from wasi_nn.runtime import BufferMemory, HostFunction
from wasi_nn.runtime.engine import HOST_TRAP
from wasi_nn.runtime.library import view_at
from wasi_nn.wasm.module import Signature
from wasi_nn.wasm.wasi_signatures import SIGNATURES
from wasi_nn_wasmtime.capi import POINTER, Extern, brief, lean
from wasi_nn_wasmtime.engine import Compiled
from wasi_nn_wasmtime.failures import new_trap
from wasi_nn_wasmtime.functions import export_of
from wasi_nn_wasmtime.linker import CALLBACK, Linker

_MEMORY = b"memory"

_caller_context = brief("wasmtime_caller_context", POINTER, POINTER)
_export_get = brief(
    "wasmtime_caller_export_get",
    ctypes.c_bool,
    POINTER,
    ctypes.c_char_p,
    ctypes.c_size_t,
    ctypes.POINTER(Extern),
)
_memory_data = brief("wasmtime_memory_data", POINTER, POINTER, POINTER)
_memory_size = brief("wasmtime_memory_data_size", ctypes.c_size_t, POINTER, POINTER)

#: The module, the name and the types of a function that guests import.
Imported = tuple[str, str, Signature]


class Imports:
    """The host functions of one guest, and its memory."""

    def __init__(self) -> None:
        self.signatures: list[Imported] = []
        #: Each gets the guest's memory and its parameters, unsigned.
        self.calls: list[Callable[..., Any]] = []
        self.memory = CallerMemory()

    def add(self, function: HostFunction) -> None:
        self.signatures.append((function.module, function.name, function.types))
        self.calls.append(function.call)

    def add_wasi(self, module: str, name: str, call: Callable[..., int]) -> None:
        """Add a function of WASI preview 1, which may have i64 parameters."""
        self.signatures.append((module, name, SIGNATURES[name]))
        self.calls.append(call)

    def find(self, module: str, name: str) -> int | None:
        """The number of a function; None if the guest imports it from wasmtime."""
        for number, signature in enumerate(self.signatures):
            if signature[:2] == (module, name):
                return number
        return None

    def close(self) -> None:
        """Let go of the functions, after the store is closed."""
        self.calls.clear()
        self.memory = CallerMemory()


_EMPTY = BufferMemory()


class CallerMemory:
    """The memory of a guest, found at its first host call or between its calls."""

    __slots__ = ("_at", "_memory", "context", "exported")

    def __init__(self) -> None:
        self._memory: BufferMemory = _EMPTY
        #: The exported memory, within a host call. None if the guest exports none.
        self.exported: Extern | None = None
        self._at = 0
        #: The store's context, within a host call of a guest that exports a memory.
        self.context = 0

    def refresh(self) -> None:
        """Update the memory that a host call was given, after the guest ran within that call."""
        if self._at:
            self.now(0)

    def now(self, caller: int) -> BufferMemory | None:
        """The guest's memory at its current size, without a copy. The engine is configured so that
        it never moves, but the view must follow its growth."""
        if not self._at and not self._find(caller):
            return None
        memory = self._memory
        size = _memory_size(self.context, self._at)
        if size != memory.size:
            memory.replace(view_at(_memory_data(self.context, self._at), size))
        return memory

    def of(self, context: int, instance: int) -> BufferMemory | None:
        """The memory of an instance between its calls, as ``now``. ``context`` is its store's."""
        if not self._at:
            extern = export_of(context, instance, _MEMORY, Extern.MEMORY)
            if extern is None:
                return None
            self._take(extern, context)
        return self.now(0)

    def _find(self, caller: int) -> bool:
        extern = Extern()
        if not _export_get(caller, _MEMORY, len(_MEMORY), extern) or extern.kind != Extern.MEMORY:
            return False
        self._take(extern, _caller_context(caller))
        return True

    def _take(self, extern: Extern, context: int) -> None:
        self.exported, self._memory = extern, BufferMemory()
        self._at = extern.of
        self.context = context


#: The guest in each store, by the store's context: a weak reference to an object with ``imports``
#: and ``raised``. A store is in it until it is closed.
guests: dict[int, Callable[[], Any]] = {}


class LinkedModule:
    """A module whose imports are met, for all guests that have functions of these signatures."""

    _delete = staticmethod(lean("wasmtime_instance_pre_delete", None, POINTER))

    def __init__(self, linker: Linker, module: Compiled, signatures: Sequence[Imported]) -> None:
        """``linker`` has WASI, which ``signatures`` may replace. Raises ``WasmtimeError`` for an
        import that nothing meets."""
        self._callbacks: list[Any] = []
        for index, (within, name, signature) in enumerate(signatures):
            plain = all(kind == "i32" for kind in signature.parameters)
            callback = CALLBACK((_plain if plain else _wide)(index, signature))
            self._callbacks.append(callback)
            linker.define(within, name, signature, callback)
        #: The address of a ``wasmtime_instance_pre_t``.
        self.pointer = linker.link(module)

    def __del__(self) -> None:
        if pointer := getattr(self, "pointer", 0):
            self._delete(pointer)


def _plain(index: int, signature: Signature) -> Callable[..., int | None]:
    """A callback for parameters that are all i32."""
    stop = 4 * len(signature.parameters)
    has_result = bool(signature.results)

    def trampoline(env: int, caller: int, slots: Any, count: int) -> int | None:
        try:
            imports = guests[_caller_context(caller)]().imports
            # (ctypes gives one element for the empty slice 0:0:4.)
            values = slots[0:stop:4] if stop else ()
            result = imports.calls[index](imports.memory.now(caller), *values)
            if has_result:
                slots[0] = result
            return None
        except BaseException as exception:
            return _fail(caller, exception)

    return trampoline


def _wide(index: int, signature: Signature) -> Callable[..., int | None]:
    """A callback for parameters of which some are i64."""

    def trampoline(env: int, caller: int, slots: Any, count: int) -> int | None:
        try:
            imports = guests[_caller_context(caller)]().imports
            values = [
                slots[4 * i] | (slots[4 * i + 1] << 32 if kind == "i64" else 0)
                for i, kind in enumerate(signature.parameters)
            ]
            slots[0] = imports.calls[index](imports.memory.now(caller), *values)
            return None
        except BaseException as exception:
            return _fail(caller, exception)

    return trampoline


def _fail(caller: int, exception: BaseException) -> int:
    """Keep the exception, which must not leave a callback, and end the guest."""
    guests[_caller_context(caller)]().raised = exception
    return new_trap(HOST_TRAP)
