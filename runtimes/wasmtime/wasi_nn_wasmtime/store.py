"""The part that modules and components share: a store with limits, WASI, and a way to stop it."""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

import wasmtime
from wasmtime import _ffi as ffi

from wasi_nn.errors import GuestError, GuestTrap, LimitExceeded, LinkError, OutOfFuel
from wasi_nn.runtime import EngineLimits
from wasi_nn.runtime.engine import EngineInstance, GuestExit
from wasi_nn_wasmtime.capi import POINTER, address, brief, error_new, lean, raise_error, typed
from wasi_nn_wasmtime.hostcalls import Imports, guests

_EPOCH_CALLBACK: Any = ctypes.CFUNCTYPE(
    ctypes.c_size_t,
    POINTER,
    POINTER,
    ctypes.POINTER(ctypes.c_uint64),
    ctypes.POINTER(ctypes.c_uint8),
)
_STORE: Any = ctypes.POINTER(ffi.wasmtime_store_t)
_CONTEXT: Any = ctypes.POINTER(ffi.wasmtime_context_t)
_new = brief("wasmtime_store_new", POINTER, POINTER, POINTER, POINTER)
_delete = lean("wasmtime_store_delete", None, POINTER)
_context_of = brief("wasmtime_store_context", POINTER, POINTER)
_set_wasi = brief("wasmtime_context_set_wasi", POINTER, POINTER, POINTER)
_set_deadline = brief("wasmtime_context_set_epoch_deadline", None, POINTER, ctypes.c_uint64)
_on_epoch = brief(
    "wasmtime_store_epoch_deadline_callback", None, POINTER, _EPOCH_CALLBACK, POINTER, POINTER
)

# What wasmtime says of imports that do not fit, of a core module and of a component.
_LINKING = ("unknown import", "incompatible import", "matching implementation", "component imports")


class Store(wasmtime.Store):
    """wasmtime-py's store, which is made and freed at a tenth of the cost. Its pointers get a type
    when wasmtime-py asks for them."""

    #: The address of its context; 0 when it is closed.
    context = 0

    def __init__(self, engine: wasmtime.Engine) -> None:
        self.engine = engine
        self._at: int = _new(address(engine.ptr()), None, None)
        self.context = _context_of(self._at)
        # A callback stops this store if it was interrupted. Other stores continue.
        _on_epoch(self._at, _reached, None, None)
        _set_deadline(self.context, 1)

    def ptr(self) -> Any:
        return typed(self._open(self._at), _STORE)

    def _context(self) -> Any:
        return typed(self._open(self.context), _CONTEXT)

    def give_wasi(self, config: int) -> None:
        """Use the configuration at this address, and free it."""
        raise_error(_set_wasi(self.context, config))

    def close(self) -> None:
        if self.context:
            self.context = 0
            _delete(self._at)

    def _open(self, at: int) -> int:
        if not self.context:
            raise ValueError("the store is closed")
        return at


class StoreInstance(EngineInstance):
    """A guest in its own store. Translates wasmtime's errors to ours."""

    def __init__(self, engine: wasmtime.Engine, limits: EngineLimits) -> None:
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
            self._store.set_limits(
                memory_size=self._memory_limit,
                table_elements=self._memory_limit // (8 * tables),
                instances=instances,
                tables=tables,
                memories=memories,
            )

    def _not_started(self, error: wasmtime.Trap | wasmtime.WasmtimeError) -> BaseException:
        """What ``link`` raises for what wasmtime raised when it linked and instantiated."""
        if isinstance(error, wasmtime.Trap):
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
