"""The files of a guest, counted.

wasmtime's WASI opens as many files as a guest likes. So the functions that open and close them come
through Python. wasmtime's own functions use the memory that their caller exports. A call from
Python has no caller, so a small module of ours, the gate, imports the guest's memory, exports it
again, and calls them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache, partial

import wasmtime
from wasmtime import _ffi as ffi

from wasi_nn.errors import GuestTrap
from wasi_nn.runtime import BufferMemory
from wasi_nn.runtime.open_files import OpenFiles
from wasi_nn.wasm.wasi_signatures import SIGNATURES
from wasi_nn_wasmtime.capi import POINTER, lean, raise_error
from wasi_nn_wasmtime.hostcalls import HostCalls

_FORWARDED = ("path_open", "fd_close", "fd_renumber", "fd_read")
_FAULT = 21
_TRAP = ctypes.POINTER(ffi.wasm_trap_t)
_call = lean(
    "wasmtime_func_call_unchecked", POINTER, POINTER, POINTER, POINTER, ctypes.c_size_t, POINTER
)
# The parameter of path_open that says where the guest wants the descriptor.
_OPENED_AT = 8


class Gate:
    """wasmtime's own functions, for a guest that imports WASI as ``module``. Make it before the
    linker's functions are replaced."""

    def __init__(
        self,
        engine: wasmtime.Engine,
        linker: wasmtime.Linker,
        store: wasmtime.Store,
        module: str,
        calls: HostCalls,
    ) -> None:
        self._engine = engine
        self._store = store
        self._calls = calls
        self._theirs = [linker.get(store, module, name) for name in _FORWARDED]
        # The gate's functions, once the guest's memory is known.
        self._gate: dict[str, int] = {}
        self._kept: list[wasmtime.Func] = []

    def call(self, name: str, *arguments: int) -> int:
        """Call a function within a host call. Returns the errno."""
        memory = self._calls.guest_memory
        if memory is None:
            return _FAULT
        if not self._gate:
            self._open(memory)
        # Slots of 16 bytes. The first one takes the result.
        slots = (ctypes.c_uint64 * (2 * len(arguments)))()
        slots[::2] = list(arguments)
        trap = POINTER()
        raise_error(
            _call(
                self._calls.context,
                self._gate[name],
                ctypes.addressof(slots),
                len(arguments),
                ctypes.addressof(trap),
            )
        )
        if trap.value:
            raise GuestTrap(str(wasmtime.Trap._from_ptr(ctypes.cast(trap, _TRAP))))
        return slots[0] & 0xFFFFFFFF

    def _open(self, memory: wasmtime.Memory) -> None:
        items = [*self._theirs, memory]
        gate = wasmtime.Instance(self._store, _gate_module(self._engine), items)
        exports = gate.exports(self._store)
        for name in _FORWARDED:
            function = exports[name]
            assert isinstance(function, wasmtime.Func)
            self._kept.append(function)
            self._gate[name] = ctypes.addressof(function._func)


def counted(gate: Gate, limit: int) -> dict[str, Callable[..., int]]:
    """The functions that open and close files, by name, for at most ``limit`` files at one time.
    Each gets the guest's memory and the parameters."""
    count = OpenFiles(limit)

    def path_open(memory: BufferMemory | None, *arguments: int) -> int:
        def opened() -> int:
            assert memory is not None
            return int.from_bytes(memory.read(arguments[_OPENED_AT], 4), "little")

        return count.path_open(partial(gate.call, "path_open", *arguments), opened)

    def fd_close(memory: BufferMemory | None, descriptor: int) -> int:
        return count.fd_close(partial(gate.call, "fd_close", descriptor), descriptor)

    def fd_renumber(memory: BufferMemory | None, source: int, target: int) -> int:
        call = partial(gate.call, "fd_renumber", source, target)
        return count.fd_renumber(call, source, target)

    return {"path_open": path_open, "fd_close": fd_close, "fd_renumber": fd_renumber}


@lru_cache(maxsize=4)
def _gate_module(engine: wasmtime.Engine) -> wasmtime.Module:
    imports = exports = ""
    for name in _FORWARDED:
        parameters = SIGNATURES[name].parameters
        kind = f"(param {' '.join(parameters)}) (result i32)"
        values = " ".join(f"(local.get {i})" for i in range(len(parameters)))
        imports += f'(import "wasi" "{name}" (func ${name} {kind}))\n'
        exports += f'(func (export "{name}") {kind} (call ${name} {values}))\n'
    memory = '(import "guest" "memory" (memory 0))'
    text = f'(module {imports}{memory}\n(export "memory" (memory 0))\n{exports})'
    return wasmtime.Module(engine, bytes(wasmtime.wat2wasm(text)))
