"""The runtime that drives wasmtime, through the library of the PyPI package `wasmtime`.

All stores share a few engines: with and without fuel, for modules in the slots of a pool, for other
modules, and for components. Every engine has epochs, so that a guest can always be stopped. An
epoch is incremented only to interrupt a guest, and each store's callback decides whether its own
guest must stop.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from wasi_nn.backend import installed_version, missing_library
from wasi_nn.errors import UsageError
from wasi_nn.runtime import (
    EngineLimits,
    Module,
    Runtime,
    RuntimeFeatures,
)
from wasi_nn.types import Availability
from wasi_nn_wasmtime.versions import refusal

if TYPE_CHECKING:
    from wasi_nn.runtime.component import Component
    from wasi_nn_wasmtime.engine import Config, Engine
    from wasi_nn_wasmtime.pool import Slots

# Code that counts fuel stops without any. This amount never runs out.
_ALL_FUEL = (1 << 64) - 1


class WasmtimeRuntime(Runtime):
    """wasmtime: Cranelift code, zero-copy memory, deadlines by epochs, its own cache on disk."""

    name = "wasmtime"
    features = RuntimeFeatures(
        components=True, interrupt=True, memory_limit=True, fuel=True, compile_cache=True
    )

    def __init__(self) -> None:
        self._engines: dict[tuple[bool, bool], Engine] = {}
        self._pools: dict[bool, tuple[Engine, Slots] | None] = {}
        self._lock = threading.Lock()

    def availability(self) -> Availability:
        reason = missing_library("wasmtime", "wasmtime")
        version = installed_version("wasmtime")
        if reason is None:
            reason = refusal(version)
        if reason is not None:
            return Availability(False, reason)
        return Availability(True, f"wasmtime {version}", ("cpu",))

    def compile(self, wasm: bytes, limits: EngineLimits) -> Module:
        from wasi_nn.wasm.module import parse
        from wasi_nn_wasmtime import pool
        from wasi_nn_wasmtime.engine import compiled
        from wasi_nn_wasmtime.failures import WasmtimeError
        from wasi_nn_wasmtime.modules import Code, WasmtimeModule

        counts_fuel = limits.fuel is not None
        unpooled = partial(self._engine, counts_fuel)
        file = parse(wasm)
        pooled = self._pooled(counts_fuel) if pool.fits(file) else None
        try:
            engine, slots = pooled or (unpooled(), None)
            code = Code(engine, compiled(engine, wasm), file, slots)
            return WasmtimeModule(code, unpooled, _ALL_FUEL if counts_fuel else None)
        except WasmtimeError as error:
            raise UsageError(f"wasmtime cannot compile the module: {error}") from error

    def compile_component(self, wasm: bytes, limits: EngineLimits) -> Component:
        import wasmtime

        from wasi_nn.runtime.process.isolated import IsolatedComponent
        from wasi_nn_wasmtime.components import WasmtimeComponent

        counts_fuel = limits.fuel is not None
        all_fuel = _ALL_FUEL if counts_fuel else None
        isolated = IsolatedComponent(self, wasm, limits)
        try:
            return WasmtimeComponent(partial(self._engine, counts_fuel), wasm, all_fuel, isolated)
        except wasmtime.WasmtimeError as error:
            raise UsageError(f"wasmtime cannot compile the component: {error}") from error

    def _pooled(self, fuel: bool) -> tuple[Engine, Slots] | None:
        """An engine for modules in slots; None if this process may not have so many addresses."""
        from wasi_nn_wasmtime.pool import Slots, has_addresses, reserve_slots

        with self._lock:
            if fuel not in self._pools:
                possible = has_addresses()
                made = (_make_engine(fuel, reserve_slots), Slots()) if possible else None
                self._pools[fuel] = made
            return self._pools[fuel]

    def _engine(self, fuel: bool, memories: bool = False) -> Engine:
        """An engine whose code counts fuel or not, and whose memories we allocate or not."""
        with self._lock:
            if (fuel, memories) not in self._engines:
                more = [_create_memories] if memories else []
                self._engines[fuel, memories] = _make_engine(fuel, *more)
            return self._engines[fuel, memories]


def _create_memories(config: Config) -> None:
    from wasi_nn_wasmtime.bytes_through_memory.memories import create_memories

    create_memories(config)


def _make_engine(fuel: bool, *more: Callable[[Config], None]) -> Engine:
    from wasi_nn_wasmtime.cache import enable_cache
    from wasi_nn_wasmtime.engine import Config, Engine

    config = Config()
    config.set(epoch_interruption=True, consume_fuel=fuel)
    # wasi-nn's pointers are 32 bits wide. So the whole 4 GiB of a memory are reserved, and it never
    # moves.
    config.set(memory_may_move=False)
    # Compiled code checks for every trap itself. The alternative, handlers of SIGSEGV and SIGFPE,
    # fails if other code in this process handles these signals too (faulthandler, a JVM): then a
    # guest's trap ends the process.
    config.set(signals_based_traps=False)
    for configure in more:
        configure(config)
    enable_cache(config)
    return Engine(config)
