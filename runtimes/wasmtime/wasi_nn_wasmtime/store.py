"""The part that modules and components share: a store with limits, WASI, and a way to stop it."""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

from wasi_nn.errors import GuestError, GuestTrap, LimitExceeded, LinkError, OutOfFuel
from wasi_nn.runtime import EngineLimits
from wasi_nn.runtime.engine import EngineInstance, GuestExit
from wasi_nn_wasmtime.capi import POINTER, brief, lean
from wasi_nn_wasmtime.engine import Engine
from wasi_nn_wasmtime.failures import Trap, WasmtimeError, new_error, raise_error
from wasi_nn_wasmtime.hostcalls import Imports, guests

_EPOCH_CALLBACK: Any = ctypes.CFUNCTYPE(
    ctypes.c_size_t,
    POINTER,
    POINTER,
    ctypes.POINTER(ctypes.c_uint64),
    ctypes.POINTER(ctypes.c_uint8),
)
_new = brief("wasmtime_store_new", POINTER, POINTER, POINTER, POINTER)
_delete = lean("wasmtime_store_delete", None, POINTER)
_context_of = brief("wasmtime_store_context", POINTER, POINTER)
_set_wasi = brief("wasmtime_context_set_wasi", POINTER, POINTER, POINTER)
_set_deadline = brief("wasmtime_context_set_epoch_deadline", None, POINTER, ctypes.c_uint64)
_set_fuel = brief("wasmtime_context_set_fuel", POINTER, POINTER, ctypes.c_uint64)
_limit = brief("wasmtime_store_limiter", None, POINTER, *[ctypes.c_int64] * 5)
_on_epoch = brief(
    "wasmtime_store_epoch_deadline_callback", None, POINTER, _EPOCH_CALLBACK, POINTER, POINTER
)

# What wasmtime says of imports that do not fit, of a core module and of a component.
_LINKING = ("unknown import", "incompatible import", "matching implementation", "component imports")


class Store:
    """A store, which only one thread may use at a time."""

    #: The address of its ``wasmtime_context_t``; 0 when it is closed.
    context = 0

    def __init__(self, engine: Engine) -> None:
        self._at: int = _new(engine.at, None, None)
        self.context = _context_of(self._at)
        # A callback stops this store if it was interrupted. Other stores continue.
        _on_epoch(self._at, _reached, None, None)
        _set_deadline(self.context, 1)

    def give_wasi(self, config: int) -> None:
        """Use the configuration at this address, and free it."""
        raise_error(_set_wasi(self.context, config))

    def set_fuel(self, fuel: int) -> None:
        """Let the guest use so much. Raises ``WasmtimeError`` if the code does not count it."""
        raise_error(_set_fuel(self.context, fuel))

    def limit(
        self, memory_size: int, table_elements: int, instances: int, tables: int, memories: int
    ) -> None:
        """Bound the bytes of each memory, the elements of each table, and the number of each."""
        _limit(self._at, memory_size, table_elements, instances, tables, memories)

    def close(self) -> None:
        if self.context:
            self.context = 0
            _delete(self._at)


class StoreInstance(EngineInstance):
    """A guest in its own store. Translates wasmtime's errors to ours."""

    def __init__(self, engine: Engine, limits: EngineLimits) -> None:
        super().__init__()
        self._engine = engine
        self._memory_limit = limits.memory
        self._store = Store(engine)
        #: What the guest imports from us.
        self.imports = Imports()
        guests[self._store.context] = weakref.ref(self)
        if limits.fuel is not None:
            self._store.set_fuel(limits.fuel)

    def _bound(self, tables: int, memories: int, instances: int) -> None:
        """Hold the limit on memory, with at most so many of each."""
        if self._memory_limit is not None:
            # An element of a table takes 8 bytes.
            self._store.limit(
                self._memory_limit, self._memory_limit // (8 * tables), instances, tables, memories
            )

    def _not_started(self, error: Trap | WasmtimeError) -> BaseException:
        """What ``link`` raises for what wasmtime raised when it linked and instantiated."""
        if isinstance(error, Trap):
            return self._translate(error)
        text = str(error)
        if any(words in text for words in _LINKING):
            return LinkError(f"the guest cannot start: {text}")
        limit = self._memory_limit
        if limit is not None and ("minimum size" in text or "limit" in text):
            return LimitExceeded(
                f"the guest needs more memory to start than its {limit} bytes: {text}"
            )
        return self._translate(error)

    def close(self) -> None:
        context = self._store.context
        if context:
            # (Its address may be another store's soon.)
            del guests[context]
            self._store.close()
            self.imports.close()

    def stop_guest(self) -> None:
        self._engine.increment_epoch()
        # A store may continue at this moment, after the interrupt of another one. It then computes
        # its next deadline from the new epoch, and misses this interrupt.
        self.stop_guest_again()

    def _translate(self, error: Trap | WasmtimeError) -> GuestError | GuestExit:
        if isinstance(error, WasmtimeError) and error.exit_code is not None:
            return GuestExit(error.exit_code)
        if isinstance(error, Trap) and error.code == Trap.OUT_OF_FUEL:
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
    return new_error("interrupted")


_reached = _EPOCH_CALLBACK(_on_reached)
