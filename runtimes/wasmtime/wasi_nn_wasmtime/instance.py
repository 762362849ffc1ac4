"""One guest in one wasmtime store."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import wasmtime
from wasmtime import _ffi as ffi

from wasi_nn.errors import (
    GuestError,
    GuestTrap,
    Interrupted,
    LimitExceeded,
    LinkError,
    OutOfFuel,
    UsageError,
)
from wasi_nn.runtime import BufferMemory, EngineLimits, HostFunction, Instance, WasiConfig
from wasi_nn_wasmtime import wasi as wasi_setup
from wasi_nn_wasmtime.capi import POINTER, lean
from wasi_nn_wasmtime.hostcalls import HostCalls
from wasi_nn_wasmtime.streams import OutputStream

_EPOCH_CALLBACK: Any = ctypes.CFUNCTYPE(
    ctypes.c_size_t,
    POINTER,
    POINTER,
    ctypes.POINTER(ctypes.c_uint64),
    ctypes.POINTER(ctypes.c_uint8),
)
_on_epoch = lean(
    "wasmtime_store_epoch_deadline_callback", None, POINTER, _EPOCH_CALLBACK, POINTER, POINTER
)

_MOST_TABLES = 4
_WASI = ("wasi_snapshot_preview1", "wasi_unstable")


class _Exit(BaseException):
    """The guest called proc_exit."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class WasmtimeInstance(Instance):
    """A store with one instance in it."""

    def __init__(
        self,
        engine: wasmtime.Engine,
        module: wasmtime.Module,
        functions: Sequence[HostFunction],
        wasi: WasiConfig,
        limits: EngineLimits,
    ) -> None:
        self._engine = engine
        self._module = module
        self._memory_limit = limits.memory
        self._instance: wasmtime.Instance | None = None
        self._stop = False
        # What a callback for an output stream raised.
        self._output_failures: list[BaseException] = []
        self._streams: list[OutputStream] = []
        self._store = wasmtime.Store(engine)
        self._linker = wasmtime.Linker(engine)
        self._calls = HostCalls(self._linker)
        self._epoch_callback = self._watch_epoch()
        try:
            if limits.memory is not None:
                # A table's element takes 8 bytes.
                self._store.set_limits(
                    memory_size=limits.memory,
                    table_elements=limits.memory // (8 * _MOST_TABLES),
                    instances=1,
                    tables=_MOST_TABLES,
                    memories=1,
                )
            if limits.fuel is not None:
                self._store.set_fuel(limits.fuel)
            config, self._streams = wasi_setup.configure(wasi, self._output_failures)
            self._store.set_wasi(config)
            self._linker.define_wasi()
            self._define_exit(module)
            for function in functions:
                self._calls.define(function)
        except BaseException:
            self.close()
            raise

    def instantiate(self) -> int | None:
        try:
            self._instance = self._run(self._link)
        except _Exit as exit:
            return exit.code
        return None

    def _define_exit(self, module: wasmtime.Module) -> None:
        """A proc_exit that takes every exit code: wasmtime's own traps above 125."""

        def proc_exit(memory: BufferMemory | None, code: int) -> None:
            raise _Exit(code & 0xFF)

        self._linker.allow_shadowing = True
        for imported in module.imports:
            if imported.name == "proc_exit" and imported.module in _WASI:
                self._calls.define(HostFunction(imported.module, "proc_exit", 1, False, proc_exit))

    def _link(self) -> wasmtime.Instance:
        limit = self._memory_limit
        try:
            return self._linker.instantiate(self._store, self._module)
        except wasmtime.Trap:
            raise
        except wasmtime.WasmtimeError as error:
            text = str(error)
            if "unknown import" in text or "incompatible import" in text:
                raise LinkError(f"the guest cannot start: {text}") from None
            if limit is not None and ("minimum size" in text or "limit" in text):
                raise LimitExceeded(
                    f"the guest needs more memory to start than its {limit} bytes: {text}"
                ) from None
            raise

    def start(self) -> int:
        function = self._exported("_start", "this is no command: it exports no _start")
        try:
            self._run(function, self._store)
        except _Exit as exit:
            return exit.code
        return 0

    def call(self, export: str, *arguments: int) -> tuple[int | float, ...]:
        function = self._exported(export, f"the guest exports no function {export!r}")
        try:
            result = self._run(function, self._store, *arguments)
        except _Exit as exit:
            raise GuestTrap(f"the guest called proc_exit({exit.code})") from None
        if result is None:
            return ()
        return tuple(result) if isinstance(result, list) else (result,)

    def interrupt(self) -> None:
        self._stop = True
        self._engine.increment_epoch()

    def close(self) -> None:
        self._store.close()
        self._linker.close()
        self._calls.close()
        for stream in self._streams:
            stream.wait()

    def _exported(self, name: str, otherwise: str) -> wasmtime.Func:
        if self._instance is None:
            raise UsageError("the guest was not instantiated")
        export = self._instance.exports(self._store).get(name)
        if not isinstance(export, wasmtime.Func):
            raise UsageError(otherwise)
        return export

    def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Enter the guest; wasmtime's exceptions come out as ours, a host function's as it was."""
        if self._stop:
            raise Interrupted("the guest was interrupted before it ran")
        try:
            result = function(*arguments)
        except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
            raised = self._calls.take_exception()
            if self._output_failures and (raised is None or isinstance(raised, _Exit)):
                raised = self._output_failures.pop()
            if raised is not None:
                raise raised from None
            raise self._translate(error) from None
        if self._output_failures:
            raise self._output_failures.pop()
        return result

    def _translate(self, error: wasmtime.Trap | wasmtime.WasmtimeError) -> GuestError:
        if self._stop:
            return Interrupted("the guest was interrupted")
        if isinstance(error, wasmtime.Trap):
            code = error.trap_code
            if code is wasmtime.TrapCode.OUT_OF_FUEL:
                return OutOfFuel("the guest used up its fuel")
        backtrace, _, cause = str(error).strip().partition("Caused by:")
        lines = [line.strip() for line in cause.splitlines() if line.strip()]
        return GuestTrap("\n".join([*lines, backtrace.rstrip()]))

    def _watch_epoch(self) -> Any:
        """An epoch stops only the store that was interrupted; the others go on."""

        def reached(context: Any, data: Any, delta: Any, kind: Any) -> int:
            delta[0] = 1
            kind[0] = 0  # WASMTIME_UPDATE_DEADLINE_CONTINUE
            if not self._stop:
                return 0
            error = ffi.wasmtime_error_new(b"interrupted")
            return ctypes.cast(error, ctypes.c_void_p).value or 0

        callback = _EPOCH_CALLBACK(reached)
        _on_epoch(ctypes.cast(self._store.ptr(), POINTER), callback, None, None)
        self._store.set_epoch_deadline(1)
        return callback
