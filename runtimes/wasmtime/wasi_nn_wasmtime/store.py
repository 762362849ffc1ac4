"""What every guest of wasmtime has: a store with its limits, WASI, and a way to be stopped."""

from __future__ import annotations

import ctypes
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import wasmtime
from wasmtime import _ffi as ffi

from wasi_nn.errors import GuestError, GuestTrap, Interrupted, OutOfFuel
from wasi_nn.runtime import EngineLimits, Instance, WasiConfig
from wasi_nn_wasmtime import wasi as wasi_setup
from wasi_nn_wasmtime.capi import POINTER, lean
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


class Exit(BaseException):
    """The guest called proc_exit."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class StoreInstance(Instance):
    """A store of its own, and the way into it."""

    def __init__(self, engine: wasmtime.Engine, limits: EngineLimits) -> None:
        self._engine = engine
        self._stop = False
        # What a callback for an output stream raised.
        self._output_failures: list[BaseException] = []
        self._streams: list[OutputStream] = []
        self._store = wasmtime.Store(engine)
        self._epoch_callback = self._watch_epoch()
        if limits.fuel is not None:
            self._store.set_fuel(limits.fuel)

    @abstractmethod
    def _take_exception(self) -> BaseException | None:
        """What a host function raised, once."""

    def _configure(self, wasi: WasiConfig) -> None:
        config, self._streams = wasi_setup.configure(wasi, self._output_failures)
        self._store.set_wasi(config)

    def interrupt(self) -> None:
        self._stop = True
        self._engine.increment_epoch()

    def _wait_for_streams(self) -> None:
        for stream in self._streams:
            stream.wait()

    def _enter(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Enter the guest; wasmtime's exceptions come out as ours, a host function's as it was."""
        if self._stop:
            raise Interrupted("the guest was interrupted before it ran")
        try:
            result = function(*arguments)
        except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
            raised = self._take_exception()
            if self._output_failures and (raised is None or isinstance(raised, Exit)):
                raised = self._output_failures.pop()
            if raised is not None:
                raise raised from None
            if isinstance(error, wasmtime.ExitTrap):
                raise Exit(error.code) from None
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
