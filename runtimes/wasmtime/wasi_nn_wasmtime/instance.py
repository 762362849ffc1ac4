"""One guest in one wasmtime store."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import wasmtime

from wasi_nn.errors import UsageError
from wasi_nn.runtime import EngineLimits, HostFunction, WasiConfig
from wasi_nn.runtime.engine import WASI_MODULES, missing_export, proc_exit
from wasi_nn.runtime.wasi_streams import Preview1, may_wait
from wasi_nn_wasmtime.files import Gate, counted
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
            self._bound(_MAX_TABLES, memories=1, instances=2)
            self._configure(wasi)
            self._linker.define_wasi()
            self._define_wasi(module, wasi, limits.files)
            for function in functions:
                self._calls.define(function)
        except BaseException:
            self.close()
            raise

    def _define_wasi(self, module: wasmtime.Module, wasi: WasiConfig, files: int | None) -> None:
        """Replace functions of wasmtime's WASI: those in which a guest could wait past its
        deadline, those that open files, and proc_exit, which traps for codes above 125."""
        imported = {(item.module, item.name) for item in module.imports}
        self._linker.allow_shadowing = True
        for name in {name for name, _ in imported} & set(WASI_MODULES):
            preview1 = Preview1(wasi, self.output_failures, self.pause, self._clock_start)
            ours = [proc_exit(name), *preview1.waiting_functions(name)]
            if wasi.preopens and (name, "path_open") in imported:
                gate = Gate(self._engine, self._linker, self._store, name, self._calls)
                preview1.files["fd_read"] = partial(gate.call, "fd_read")
                if files is not None:
                    for opening, call in counted(gate, files).items():
                        self._calls.define_wasi(name, opening, call)
            for function in ours:
                # wasmtime's own reads of files are faster.
                if function.name == "fd_read" and not may_wait(wasi.stdin):
                    continue
                if (name, function.name) in imported:
                    self._calls.define(function)

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
