"""One guest in one wasmtime store."""

from __future__ import annotations

from collections.abc import Sequence

import wasmtime

from wasi_nn.errors import GuestTrap, LimitExceeded, LinkError, UsageError
from wasi_nn.runtime import BufferMemory, EngineLimits, HostFunction, WasiConfig
from wasi_nn_wasmtime.hostcalls import HostCalls
from wasi_nn_wasmtime.store import Exit, StoreInstance

_MOST_TABLES = 4
_WASI = ("wasi_snapshot_preview1", "wasi_unstable")


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
        super().__init__(engine, limits)
        self._module = module
        self._memory_limit = limits.memory
        self._instance: wasmtime.Instance | None = None
        self._linker = wasmtime.Linker(engine)
        self._calls = HostCalls(self._linker)
        try:
            if limits.memory is not None:
                # A table's element takes 8 bytes.
                self._store.set_limits(
                    memory_size=limits.memory,
                    table_elements=limits.memory // (8 * _MOST_TABLES),
                    instances=1,
                    tables=_MOST_TABLES,
                    memories=1,
                )
            self._configure(wasi)
            self._linker.define_wasi()
            self._define_exit(module)
            for function in functions:
                self._calls.define(function)
        except BaseException:
            self.close()
            raise

    def instantiate(self) -> int | None:
        try:
            self._instance = self._enter(self._link)
        except Exit as exit:
            return exit.code
        return None

    def _define_exit(self, module: wasmtime.Module) -> None:
        """A proc_exit that takes every exit code: wasmtime's own traps above 125."""

        def proc_exit(memory: BufferMemory | None, code: int) -> None:
            raise Exit(code & 0xFF)

        self._linker.allow_shadowing = True
        for imported in module.imports:
            if imported.name == "proc_exit" and imported.module in _WASI:
                self._calls.define(HostFunction(imported.module, "proc_exit", 1, False, proc_exit))

    def _link(self) -> wasmtime.Instance:
        limit = self._memory_limit
        try:
            return self._linker.instantiate(self._store, self._module)
        except wasmtime.Trap:
            raise
        except wasmtime.WasmtimeError as error:
            text = str(error)
            if "unknown import" in text or "incompatible import" in text:
                raise LinkError(f"the guest cannot start: {text}") from None
            if limit is not None and ("minimum size" in text or "limit" in text):
                raise LimitExceeded(
                    f"the guest needs more memory to start than its {limit} bytes: {text}"
                ) from None
            raise

    def start(self) -> int:
        function = self._exported("_start", "this is no command: it exports no _start")
        try:
            self._enter(function, self._store)
        except Exit as exit:
            return exit.code
        return 0

    def call(self, export: str, *arguments: int) -> tuple[int | float, ...]:
        function = self._exported(export, f"the guest exports no function {export!r}")
        try:
            result = self._enter(function, self._store, *arguments)
        except Exit as exit:
            raise GuestTrap(f"the guest called proc_exit({exit.code})") from None
        if result is None:
            return ()
        return tuple(result) if isinstance(result, list) else (result,)

    def close(self) -> None:
        self._store.close()
        self._linker.close()
        self._calls.close()
        self._wait_for_streams()

    def _take_exception(self) -> BaseException | None:
        return self._calls.take_exception()

    def _exported(self, name: str, otherwise: str) -> wasmtime.Func:
        if self._instance is None:
            raise UsageError("the guest was not instantiated")
        export = self._instance.exports(self._store).get(name)
        if not isinstance(export, wasmtime.Func):
            raise UsageError(otherwise)
        return export
