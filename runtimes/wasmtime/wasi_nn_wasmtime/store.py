"""The part that modules and components share: a store with limits, WASI, and a way to stop it."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import wasmtime

from wasi_nn.errors import GuestError, GuestTrap, LimitExceeded, LinkError, OutOfFuel
from wasi_nn.runtime import EngineLimits
from wasi_nn.runtime.engine import EngineInstance, GuestExit
from wasi_nn_wasmtime.capi import POINTER, address, error_new, lean
from wasi_nn_wasmtime.hostcalls import Imports, guests

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

    def __init__(self, engine: wasmtime.Engine, limits: EngineLimits) -> None:
        super().__init__()
        self._engine = engine
        self._memory_limit = limits.memory
        self._store = wasmtime.Store(engine)
        self._context: int = address(self._store._context())
        #: What the guest imports from us.
        self.imports = Imports()
        guests[self._context] = weakref.ref(self)
        # A callback stops this store if it was interrupted. Other stores continue.
        _on_epoch(address(self._store.ptr()), _reached, None, None)
        self._store.set_epoch_deadline(1)
        if limits.fuel is not None:
            self._store.set_fuel(limits.fuel)

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

    @contextmanager
    def _starting(self) -> Iterator[None]:
        """Translate what wasmtime raises when it links and instantiates."""
        try:
            yield
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

    def close(self) -> None:
        if self._context:
            # (Its address may be another store's soon.)
            del guests[self._context]
            self._context = 0
        self._store.close()
        self.imports.close()

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


def _on_reached(context: int, data: Any, delta: Any, kind: Any) -> int:
    delta[0] = 1
    kind[0] = 0  # WASMTIME_UPDATE_DEADLINE_CONTINUE
    guest = guests[context]()
    if guest is None or not guest.stopped:
        return 0
    error: int = error_new(b"interrupted")
    return error


_reached = _EPOCH_CALLBACK(_on_reached)
