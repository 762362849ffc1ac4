"""The runtime that drives wasmtime, through the PyPI package `wasmtime` (wasmtime-py).

All stores share a few engines: with and without fuel, for modules and for components. Every engine
has epochs, so that a guest can always be stopped. An epoch is incremented only to interrupt a
guest, and each store's callback decides whether its own guest must stop.
"""

from __future__ import annotations

import threading
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

if TYPE_CHECKING:
    import wasmtime

    from wasi_nn.runtime.component import Component

# Code that counts fuel stops without any. This amount never runs out.
_ALL_FUEL = (1 << 64) - 1


class WasmtimeRuntime(Runtime):
    """wasmtime: Cranelift code, zero-copy memory, deadlines by epochs, its own cache on disk."""

    name = "wasmtime"
    features = RuntimeFeatures(
        components=True, interrupt=True, memory_limit=True, fuel=True, compile_cache=True
    )

    def __init__(self) -> None:
        self._engines: dict[tuple[bool, bool], wasmtime.Engine] = {}
        self._lock = threading.Lock()

    def availability(self) -> Availability:
        reason = missing_library("wasmtime", "wasmtime")
        if reason is not None:
            return Availability(False, reason)
        return Availability(True, f"wasmtime {installed_version('wasmtime')}", ("cpu",))

    def compile(self, wasm: bytes, limits: EngineLimits) -> Module:
        import wasmtime

        from wasi_nn_wasmtime.modules import WasmtimeModule

        counts_fuel = limits.fuel is not None
        engine = self._engine(counts_fuel)
        try:
            module = wasmtime.Module(engine, wasm)
            return WasmtimeModule(engine, module, _ALL_FUEL if counts_fuel else None)
        except wasmtime.WasmtimeError as error:
            raise UsageError(f"wasmtime cannot compile the module: {error}") from error

    def compile_component(self, wasm: bytes, limits: EngineLimits) -> Component:
        import wasmtime

        from wasi_nn_wasmtime.components import WasmtimeComponent

        counts_fuel = limits.fuel is not None
        try:
            return WasmtimeComponent(
                partial(self._engine, counts_fuel), wasm, _ALL_FUEL if counts_fuel else None
            )
        except wasmtime.WasmtimeError as error:
            raise UsageError(f"wasmtime cannot compile the component: {error}") from error

    def _engine(self, fuel: bool, memories: bool = False) -> wasmtime.Engine:
        """An engine whose code counts fuel or not, and whose memories we allocate or not."""
        with self._lock:
            if (fuel, memories) not in self._engines:
                self._engines[fuel, memories] = _make_engine(fuel, memories)
            return self._engines[fuel, memories]


def _make_engine(fuel: bool, memories: bool) -> wasmtime.Engine:
    import wasmtime

    from wasi_nn_wasmtime.cache import enable_cache
    from wasi_nn_wasmtime.capi import trap_by_signals

    config = wasmtime.Config()
    config.epoch_interruption = True
    config.consume_fuel = fuel
    # wasi-nn's pointers are 32 bits wide. So the whole 4 GiB of a memory are reserved, and it never
    # moves.
    config.memory_may_move = False
    # Compiled code checks for every trap itself. The alternative, handlers of SIGSEGV and SIGFPE,
    # fails if other code in this process handles these signals too (faulthandler, a JVM): then a
    # guest's trap ends the process.
    trap_by_signals(config, False)
    if memories:
        from wasi_nn_wasmtime.bytes_through_memory.memories import create_memories

        create_memories(config)
    enable_cache(config)
    return wasmtime.Engine(config)
