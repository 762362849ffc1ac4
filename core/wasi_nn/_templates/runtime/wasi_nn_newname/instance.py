"""One guest. Put your engine in the place of wasmtime: all that touches it is in this file."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import wasmtime

from wasi_nn.errors import GuestTrap, LinkError, UsageError
from wasi_nn.runtime import BufferMemory, EngineLimits, HostFunction, WasiConfig
from wasi_nn.runtime.engine import (
    HOST_TRAP,
    EngineInstance,
    before,
    check_start_memory,
    missing_export,
)
from wasi_nn.runtime.wasi_streams import Preview1
from wasi_nn.wasm import module
from wasi_nn.wasm.wasi_signatures import SIGNATURES

_WASI = "wasi_snapshot_preview1"
_BAD_DESCRIPTOR, _NOT_SUPPORTED = 8, 52  # errnos of WASI
_TYPES = {
    "i32": wasmtime.ValType.i32,
    "i64": wasmtime.ValType.i64,
    "f32": wasmtime.ValType.f32,
    "f64": wasmtime.ValType.f64,
}
_ELEMENT_BYTES = 8  # of a table


def _engine() -> wasmtime.Engine:
    config = wasmtime.Config()
    config.epoch_interruption = True
    return wasmtime.Engine(config)


def compiled(wasm: bytes) -> bytes:
    """The code of a module. Raises ``UsageError`` for a module that the engine refuses."""
    try:
        return bytes(wasmtime.Module(_engine(), wasm).serialize())
    except wasmtime.WasmtimeError as error:
        raise UsageError(f"newname cannot compile the module: {error}") from None


class Newinstance(EngineInstance):
    """A guest in a store of its own."""

    def __init__(
        self,
        wasm: bytes,
        code: bytes,
        functions: Sequence[HostFunction],
        wasi: WasiConfig,
        limits: EngineLimits,
    ) -> None:
        super().__init__()
        if wasi.preopens:
            # Never give a guest more than it was allowed. Without files, there is nothing to give.
            raise UsageError("newname cannot give a directory to a guest")
        self._file = module.parse(wasm)
        self._limit = limits.memory
        # An engine of its own: wasmtime stops all guests of an engine at once.
        self._engine = _engine()
        self._module = wasmtime.Module.deserialize(self._engine, code)
        self._store: Any = wasmtime.Store(self._engine)
        self._store.set_epoch_deadline(1)
        if limits.memory is not None:
            elements = limits.memory // _ELEMENT_BYTES
            self._store.set_limits(memory_size=limits.memory, table_elements=elements)
        self._instance: Any = None
        self._view = BufferMemory()
        # Standard streams, arguments, variables, waiting and exit codes, in Python.
        streams = Preview1(wasi, self.output_failures, self.pause).functions(_WASI)
        self._functions = {(f.module, f.name): f for f in streams}
        for function in functions:
            key = (function.module, function.name)
            if function.module == _WASI:
                # The host's own functions of WASI come first, and pass on what they leave to ours.
                ours = self._functions.get(key)
                own = _absent(function.name) if ours is None else ours.call
                function = before(function, own)
            self._functions[key] = function

    def link(self) -> None:
        """Instantiate the module, which also runs its start function."""
        tables = sum(table.minimum for table in self._file.tables) * _ELEMENT_BYTES
        check_start_memory(self._file, self._limit, tables)
        imports = [self._import(item) for item in self._module.imports]
        self._instance = self._run(wasmtime.Instance, self._store, self._module, imports)

    def invoke(self, export: str, arguments: tuple[int, ...]) -> tuple[Any, ...]:
        """Call an export. The host has checked the arguments."""
        function = self._instance.exports(self._store).get(export)
        if not isinstance(function, wasmtime.Func):
            raise missing_export(export)
        result = self._run(function, self._store, *arguments)
        if result is None:
            return ()
        return tuple(result) if isinstance(result, list) else (result,)

    def stop_guest(self) -> None:
        """Called from any thread. The guest looks at the epoch in every loop and call."""
        self._engine.increment_epoch()

    def close(self) -> None:
        """Free the store, with all that belongs to it."""
        self._view.replace(memoryview(b""))
        self._instance = None
        store, self._store = self._store, None
        if store is not None:
            store.close()

    @property
    def memory(self) -> BufferMemory | None:
        """The memory that the guest exports, for the embedder between two calls."""
        if self._instance is None:
            return None
        return self._memory(self._instance.exports(self._store).get("memory"), self._store)

    def refresh_memory(self) -> None:
        """A host function has called the guest, whose memory may have grown."""
        _ = self.memory

    def _memory(self, exported: Any, store: Any) -> BufferMemory | None:
        if not isinstance(exported, wasmtime.Memory):
            return None
        size = exported.data_len(store)
        view = memoryview(b"")
        if size:  # (A memory of no pages has no address.)
            at = ctypes.addressof(exported.data_ptr(store).contents)
            view = memoryview((ctypes.c_ubyte * size).from_address(at)).cast("B")
        self._view.replace(view)
        return self._view

    def _run(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Let the engine run the guest. A trap becomes a ``GuestTrap`` that says what happened."""
        try:
            return work(*arguments)
        except wasmtime.Trap as trap:
            raise GuestTrap(trap.message) from None
        except wasmtime.WasmtimeError as error:
            raise GuestTrap(str(error)) from None

    def _import(self, item: Any) -> wasmtime.Func:
        """What the module imports: a function of wasi-nn, of the embedder, or of WASI."""
        function = self._functions.get((item.module, item.name))
        if function is None and item.module == _WASI and item.name in SIGNATURES:
            return wasmtime.Func(self._store, item.type, _absent(item.name))
        if function is None:
            raise LinkError(f"the guest cannot start: nothing provides {item.module}.{item.name}")
        kinds = ([_TYPES[one]() for one in each] for each in function.types)
        call = self._host_call(function)
        return wasmtime.Func(self._store, wasmtime.FuncType(*kinds), call, access_caller=True)

    def _host_call(self, function: HostFunction) -> Callable[..., int | None]:
        def call(caller: wasmtime.Caller, *arguments: int) -> int | None:
            try:
                self.check_stopped()
                # Looked up anew: it may have grown since the last call.
                memory = self._memory(caller.get("memory"), caller)
                # (A function that only ends the guest takes none of its numbers.)
                numbers = [number & 0xFFFFFFFF for number in arguments[: function.parameters]]
                result = function.call(memory, *numbers)
                return _signed(result) if function.has_result else None
            except BaseException as error:
                self.raised = error  # start and call raise it in place of the trap
                raise GuestTrap(HOST_TRAP) from None

        return call


def _absent(name: str) -> Callable[..., int]:
    """A function of WASI that there is not: no files, so no descriptors besides the streams."""
    errno = _BAD_DESCRIPTOR if name.startswith("fd_") else _NOT_SUPPORTED
    return lambda *_: errno


def _signed(number: int) -> int:
    return number if number < 1 << 31 else number - (1 << 32)
