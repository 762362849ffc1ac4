"""One guest in one wasmtime store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import wasmtime

from wasi_nn.errors import UsageError
from wasi_nn.runtime import EngineLimits, HostFunction, WasiConfig
from wasi_nn.runtime.engine import WASI_MODULES, missing_export, proc_exit
from wasi_nn_wasmtime.hostcalls import HostCalls
from wasi_nn_wasmtime.store import StoreInstance

_MAX_TABLES = 4


class WasmtimeInstance(StoreInstance):
    """A store with one instance in it."""

    def __init__(
        self,
        engine: wasmtime.Engine,
        module: wasmtime.Module,
        functions: Sequence[HostFunction],
        wasi: WasiConfig,
        limits: EngineLimits,
    ) -> None:
        super().__init__(engine, limits, wasmtime.Linker(engine))
        self._module = module
        self._instance: wasmtime.Instance | None = None
        self._calls = HostCalls(self._linker, self)
        try:
            self._bound(_MAX_TABLES, memories=1, instances=1)
            self._configure(wasi)
            self._linker.define_wasi()
            self._define_exit(module)
            for function in functions:
                self._calls.define(function)
        except BaseException:
            self.close()
            raise

    def _define_exit(self, module: wasmtime.Module) -> None:
        """Define a proc_exit that accepts every exit code. wasmtime's own traps above 125."""
        self._linker.allow_shadowing = True
        for imported in module.imports:
            if imported.name == "proc_exit" and imported.module in WASI_MODULES:
                self._calls.define(proc_exit(imported.module))

    def refresh_memory(self) -> None:
        self._calls.follow_memory()

    def link(self) -> None:
        self._instance = self._instantiated(self._module)

    def invoke(self, export: str, arguments: tuple[int, ...]) -> tuple[Any, ...]:
        if self._instance is None:
            raise UsageError("the guest was not instantiated")
        function = self._instance.exports(self._store).get(export)
        if not isinstance(function, wasmtime.Func):
            raise missing_export(export)
        try:
            result = function(self._store, *arguments)
        except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
            raise self._translate(error) from None
        if result is None:
            return ()
        return tuple(result) if isinstance(result, list) else (result,)

    def free(self) -> None:
        self._calls.close()
