"""The part that modules and components share: a store with limits, WASI, and a way to stop it."""

from __future__ import annotations

import ctypes
import time
from typing import Any

import wasmtime
from wasmtime import _ffi as ffi

from wasi_nn.errors import GuestError, GuestTrap, LimitExceeded, LinkError, OutOfFuel
from wasi_nn.runtime import EngineLimits, WasiConfig
from wasi_nn.runtime.engine import EngineInstance, GuestExit
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

# What wasmtime says of imports that do not fit, of a core module and of a component.
_LINKING = ("unknown import", "incompatible import", "matching implementation", "component imports")


class StoreInstance(EngineInstance):
    """A guest in its own store. Translates wasmtime's errors to ours."""

    def __init__(self, engine: wasmtime.Engine, limits: EngineLimits, linker: Any) -> None:
        super().__init__()
        self._engine = engine
        self._linker = linker
        self._memory_limit = limits.memory
        self._streams: list[OutputStream] = []
        self._store = wasmtime.Store(engine)
        self._epoch_callback = self._watch_epoch()
        if limits.fuel is not None:
            self._store.set_fuel(limits.fuel)

    def _configure(self, wasi: WasiConfig) -> None:
        config, self._streams = wasi_setup.configure(wasi, self.output_failures)
        self._store.set_wasi(config)
        # The guest's monotonic clock starts here.
        self._clock_start = time.monotonic_ns()

    def _bound(self, tables: int, memories: int, instances: int) -> None:
        """Hold the limit on memory, with at most so many of each."""
        if self._memory_limit is not None:
            # An element of a table takes 8 bytes.
            self._store.set_limits(
                memory_size=self._memory_limit,
                table_elements=self._memory_limit // (8 * tables),
                instances=instances,
                tables=tables,
                memories=memories,
            )

    def _instantiated(self, code: Any) -> Any:
        """A new instance of the code, in the store."""
        try:
            return self._linker.instantiate(self._store, code)
        except wasmtime.Trap as error:
            raise self._translate(error) from None
        except wasmtime.WasmtimeError as error:
            text = str(error)
            if any(words in text for words in _LINKING):
                raise LinkError(f"the guest cannot start: {text}") from None
            limit = self._memory_limit
            if limit is not None and ("minimum size" in text or "limit" in text):
                raise LimitExceeded(
                    f"the guest needs more memory to start than its {limit} bytes: {text}"
                ) from None
            raise self._translate(error) from None

    def free(self) -> None:
        """Free what the store and the linker used. They are closed already."""

    def close(self) -> None:
        self._store.close()
        self._linker.close()
        self.free()
        for stream in self._streams:
            stream.wait()

    def stop_guest(self) -> None:
        self._engine.increment_epoch()
        # A store may continue at this moment, after the interrupt of another one. It then computes
        # its next deadline from the new epoch, and misses this interrupt.
        self.stop_guest_again()

    def _translate(self, error: wasmtime.Trap | wasmtime.WasmtimeError) -> GuestError | GuestExit:
        if isinstance(error, wasmtime.ExitTrap):
            return GuestExit(error.code)
        if isinstance(error, wasmtime.Trap) and error.trap_code is wasmtime.TrapCode.OUT_OF_FUEL:
            return OutOfFuel("the guest used up its fuel")
        backtrace, _, cause = str(error).strip().partition("Caused by:")
        lines = [line.strip() for line in cause.splitlines() if line.strip()]
        return GuestTrap("\n".join([*lines, backtrace.rstrip()]))

    def _watch_epoch(self) -> Any:
        """Set a callback that stops this store if it was interrupted. Other stores continue."""

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
