"""The guests of a module that the engine cannot serve in this process."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from wasi_nn.runtime import EngineLimits, HostFunction, Instance, Module, Runtime, WasiConfig

__all__ = ["Isolated"]


class Isolated(Module):
    """A module for guests in processes of their own, compiled when the first of them comes."""

    def __init__(self, runtime: Runtime, wasm: bytes, limits: EngineLimits) -> None:
        """The parameters are those of ``Runtime.compile``."""
        self._runtime = runtime
        self._wasm = wasm
        self._limits = limits
        self._module: Module | None = None
        self._lock = threading.Lock()

    def prepare(
        self, functions: Sequence[HostFunction], wasi: WasiConfig, limits: EngineLimits
    ) -> Instance:
        with self._lock:
            if self._module is None:
                from wasi_nn.runtime.process.runtime import ProcessRuntime

                self._module = ProcessRuntime(self._runtime, "").compile(self._wasm, self._limits)
        return self._module.prepare(functions, wasi, limits)
