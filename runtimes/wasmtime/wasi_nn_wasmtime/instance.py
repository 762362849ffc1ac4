"""One guest in one wasmtime store."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import wasmtime
from wasmtime import _ffi as ffi

from wasi_nn.adapter.instance import WASI_MODULES, AdapterInstance, proc_exit
from wasi_nn.errors import (
    GuestError,
    GuestTrap,
    LimitExceeded,
    LinkError,
    OutOfFuel,
    UsageError,
)
from wasi_nn.runtime import EngineLimits, HostFunction, WasiConfig
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


class WasmtimeInstance(AdapterInstance):
    """A store with one instance in it."""

    def __init__(
        self,
        engine: wasmtime.Engine,
        module: wasmtime.Module,
        functions: Sequence[HostFunction],
        wasi: WasiConfig,
        limits: EngineLimits,
    ) -> None:
        super().__init__()
        self._engine = engine
        self._module = module
        self._memory_limit = limits.memory
        self._instance: wasmtime.Instance | None = None
        self._streams: list[OutputStream] = []
        self._store = wasmtime.Store(engine)
        self._linker = wasmtime.Linker(engine)
        self._calls = HostCalls(self._linker, self)
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
            config, self._streams = wasi_setup.configure(wasi, self.output_failures)
            self._store.set_wasi(config)
            self._linker.define_wasi()
            self._define_exit(module)
            for function in functions:
                self._calls.define(function)
        except BaseException:
            self.close()
            raise

    def _define_exit(self, module: wasmtime.Module) -> None:
        """A proc_exit that takes every exit code: wasmtime's own traps above 125."""
        self._linker.allow_shadowing = True
        for imported in module.imports:
            if imported.name == "proc_exit" and imported.module in WASI_MODULES:
                self._calls.define(proc_exit(imported.module))

    def _link(self) -> None:
        limit = self._memory_limit
        try:
            self._instance = self._linker.instantiate(self._store, self._module)
        except wasmtime.Trap as error:
            raise _translate(error) from None
        except wasmtime.WasmtimeError as error:
            text = str(error)
            if "unknown import" in text or "incompatible import" in text:
                raise LinkError(f"the guest cannot start: {text}") from None
            if limit is not None and ("minimum size" in text or "limit" in text):
                raise LimitExceeded(
                    f"the guest needs more memory to start than its {limit} bytes: {text}"
                ) from None
            raise _translate(error) from None

    def _invoke(self, export: str, otherwise: str, arguments: tuple[int, ...]) -> tuple[Any, ...]:
        if self._instance is None:
            raise UsageError("the guest was not instantiated")
        function = self._instance.exports(self._store).get(export)
        if not isinstance(function, wasmtime.Func):
            raise UsageError(otherwise)
        given: list[int | float] = list(arguments)
        if given:
            # wasmtime-py converts no integer to a float.
            for at, kind in enumerate(function.type(self._store).params[: len(given)]):
                if str(kind) in ("f32", "f64"):
                    given[at] = float(given[at])
        try:
            result = function(self._store, *given)
        except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
            raise _translate(error) from None
        if result is None:
            return ()
        return tuple(result) if isinstance(result, list) else (result,)

    def _stop_guest(self) -> None:
        self._engine.increment_epoch()

    def close(self) -> None:
        self._store.close()
        self._linker.close()
        self._calls.close()
        for stream in self._streams:
            stream.wait()

    def _watch_epoch(self) -> Any:
        """An epoch stops only the store that was interrupted; the others go on."""

        def reached(context: Any, data: Any, delta: Any, kind: Any) -> int:
            delta[0] = 1
            kind[0] = 0  # WASMTIME_UPDATE_DEADLINE_CONTINUE
            if not self.stopped:
                return 0
            error = ffi.wasmtime_error_new(b"interrupted")
            return ctypes.cast(error, ctypes.c_void_p).value or 0

        callback = _EPOCH_CALLBACK(reached)
        _on_epoch(ctypes.cast(self._store.ptr(), POINTER), callback, None, None)
        self._store.set_epoch_deadline(1)
        return callback


def _translate(error: wasmtime.Trap | wasmtime.WasmtimeError) -> GuestError:
    if isinstance(error, wasmtime.Trap) and error.trap_code is wasmtime.TrapCode.OUT_OF_FUEL:
        return OutOfFuel("the guest used up its fuel")
    backtrace, _, cause = str(error).strip().partition("Caused by:")
    lines = [line.strip() for line in cause.splitlines() if line.strip()]
    return GuestTrap("\n".join([*lines, backtrace.rstrip()]))
