"""The files of a guest, counted.

wasmtime's WASI opens as many files as a guest likes. So the functions that open and close them come
through Python. wasmtime's own functions use the memory that their caller exports. A call from
Python has no caller, so a small module of ours, the gate, imports the guest's memory, exports it
again, and calls them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import wasmtime

from wasi_nn.runtime import BufferMemory
from wasi_nn.runtime.open_files import OpenFiles
from wasi_nn.wasm.wasi_signatures import SIGNATURES
from wasi_nn_wasmtime.hostcalls import HostCalls

_FORWARDED = ("path_open", "fd_close", "fd_renumber", "fd_read")
_FAULT = 21
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
        self._instance: wasmtime.Instance | None = None

    def call(self, name: str, *arguments: int) -> int:
        """Call a function within a host call. Returns the errno."""
        memory = self._calls.guest_memory
        if memory is None:
            return _FAULT
        if self._instance is None:
            items = [*self._theirs, memory]
            self._instance = wasmtime.Instance(self._store, _gate_module(self._engine), items)
        function: Any = self._instance.exports(self._store)[name]
        errno: int = function(self._store, *arguments)
        return errno


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
