"""Guests that the engine cannot serve in this process, compiled when the first of them comes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from wasi_nn.runtime import EngineLimits, HostFunction, Instance, Module, Runtime, WasiConfig
from wasi_nn.runtime.component import Component, Interface

__all__ = ["Isolated", "IsolatedComponent"]

T = TypeVar("T")


class _Later(Generic[T]):
    def __init__(self, compile: Callable[[Runtime], T], runtime: Runtime) -> None:
        self._compile = compile
        self._runtime = runtime
        self._made: T | None = None
        self._lock = threading.Lock()

    def get(self) -> T:
        with self._lock:
            if self._made is None:
                from wasi_nn.runtime.process.runtime import ProcessRuntime

                self._made = self._compile(ProcessRuntime(self._runtime, ""))
        return self._made


class Isolated(Module):
    """A module for guests in processes of their own."""

    def __init__(self, runtime: Runtime, wasm: bytes, limits: EngineLimits) -> None:
        """The parameters are those of ``Runtime.compile``."""
        self._code = _Later(lambda process: process.compile(wasm, limits), runtime)

    def prepare(
        self, functions: Sequence[HostFunction], wasi: WasiConfig, limits: EngineLimits
    ) -> Instance:
        return self._code.get().prepare(functions, wasi, limits)


class IsolatedComponent(Component):
    """A component for guests in processes of their own."""

    def __init__(self, runtime: Runtime, wasm: bytes, limits: EngineLimits) -> None:
        """The parameters are those of ``Runtime.compile_component``."""
        self._code = _Later(lambda process: process.compile_component(wasm, limits), runtime)

    def check(self, interfaces: Sequence[Interface]) -> None:
        self._code.get().check(interfaces)

    def prepare(
        self, interfaces: Sequence[Interface], wasi: WasiConfig, limits: EngineLimits
    ) -> Instance:
        return self._code.get().prepare(interfaces, wasi, limits)
