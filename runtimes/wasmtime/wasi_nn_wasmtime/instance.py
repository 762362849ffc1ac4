"""One guest in one wasmtime store."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from wasi_nn.errors import UsageError
from wasi_nn.runtime import BufferMemory, EngineLimits, HostFunction, WasiConfig
from wasi_nn.runtime.engine import WASI_MODULES, before, missing_export
from wasi_nn.runtime.open_files import OpenFiles
from wasi_nn.runtime.wasi_streams import Preview1, may_wait
from wasi_nn_wasmtime.capi import POINTER, Extern, lean
from wasi_nn_wasmtime.capi import Instance as CInstance
from wasi_nn_wasmtime.failures import Trap, WasmtimeError, raise_error, raise_trap
from wasi_nn_wasmtime.files import FORWARDED, OF_DESCRIPTORS, Descriptors, Gate
from wasi_nn_wasmtime.functions import call, export_of, kinds_of
from wasi_nn_wasmtime.modules import Code
from wasi_nn_wasmtime.store import StoreInstance
from wasi_nn_wasmtime.wasi import configured

_MAX_TABLES = 4

_instantiate = lean(
    "wasmtime_instance_pre_instantiate", POINTER, POINTER, POINTER, POINTER, POINTER
)


class WasmtimeInstance(StoreInstance):
    """A store with one instance in it."""

    def __init__(
        self,
        code: Code,
        functions: Sequence[HostFunction],
        wasi: WasiConfig,
        limits: EngineLimits,
    ) -> None:
        self._code = code
        self._slots = code.slots
        self._clock_start = 0
        super().__init__(code.engine, limits)
        # Its address is 0 until it is there.
        self._instance, self._instance_at = CInstance(), 0
        try:
            self._bound(_MAX_TABLES, memories=1, instances=2)
            # (wasmtime would read a descriptor ahead of our reads.)
            theirs = wasi._replace(stdin=None) if isinstance(wasi.stdin, int) else wasi
            self._store.give_wasi(configured(theirs))
            first = [function for function in functions if function.module in WASI_MODULES]
            for module, names in code.wasi.items():
                self._replace_wasi(module, names, wasi, limits.files, first)
            for function in functions:
                if function.module not in WASI_MODULES:
                    self.imports.add(function)
        except BaseException:
            self.close()
            raise

    def _replace_wasi(
        self,
        module: str,
        names: frozenset[str],
        wasi: WasiConfig,
        files: int | None,
        first: Sequence[HostFunction],
    ) -> None:
        """Replace functions of wasmtime's WASI: those in which a guest could wait past its
        deadline, those that open files or write to a callable, and proc_exit, which traps for codes
        above 125. The host's come ``first``."""
        # The guest's monotonic clock has just started.
        self._clock_start = time.monotonic_ns()
        preview1 = Preview1(wasi, self.output_failures, self.pause, self._clock_start)
        forwarded = FORWARDED + OF_DESCRIPTORS if first else FORWARDED
        gate = Gate(self._engine, module, self.imports.memory, self.check_stopped, forwarded)
        if wasi.preopens:
            preview1.files["fd_read"] = partial(gate.call, "fd_read")
        ours = ["proc_exit", "poll_oneoff"]
        # wasmtime's own reads of files are faster.
        if may_wait(wasi.stdin):
            ours.append("fd_read")
        for name in ours:
            if name in names:
                self.imports.add(preview1.function(module, name))
        captures = callable(wasi.stdout) or callable(wasi.stderr)
        write = preview1.function(module, "fd_write").call if captures else None
        opens = wasi.preopens and "path_open" in names
        most = sys.maxsize if files is None else files
        counted = OpenFiles(most, self.refusals) if opens else None
        descriptors = Descriptors(gate, write, counted)
        for name, replaced in descriptors.functions().items():
            if name in names:
                self.imports.add_wasi(module, name, replaced)
        for function in first:
            if function.module == module:
                self._put_before(function, gate)

    def _put_before(self, function: HostFunction, gate: Gate) -> None:
        imports = self.imports
        number = imports.find(function.module, function.name)
        if number is None:
            imports.add(function)
            number = len(imports.calls) - 1
            name = function.name

            def own(memory: Any, *arguments: int) -> int:
                return gate.call(name, *arguments)

        else:
            own = imports.calls[number]

        imports.calls[number] = before(function, own).call

    @property
    def clock_start(self) -> int:
        return self._clock_start

    def close(self) -> None:
        slots, self._slots = self._slots, None
        try:
            super().close()
        finally:
            if slots is not None:
                slots.give_back()

    @property
    def memory(self) -> BufferMemory | None:
        if not self._instance_at:
            return None
        return self.imports.memory.of(self._store.context, self._instance_at)

    def refresh_memory(self) -> None:
        self.imports.memory.refresh()

    def link(self) -> None:
        at, trap = ctypes.addressof(self._instance), POINTER()
        try:
            # (Its callbacks must live as long as the store.)
            self._linked = self._code.linked(tuple(self.imports.signatures))
            made = _instantiate(
                self._linked.pointer, self._store.context, at, ctypes.addressof(trap)
            )
            raise_error(made)
            raise_trap(trap.value)
        except (Trap, WasmtimeError) as error:
            raise self._not_started(error) from None
        self._instance_at = at

    def invoke(self, export: str, arguments: tuple[int, ...]) -> tuple[Any, ...]:
        context = self._store.context
        if not self._instance_at or not context:
            raise UsageError("the guest was not instantiated, or it is closed")
        found = export_of(context, self._instance_at, export.encode(), Extern.FUNCTION)
        if found is None:
            raise missing_export(export)
        kinds = self._code.kinds.get(export)
        if kinds is None:
            kinds = self._code.kinds[export] = kinds_of(context, found.of)
        try:
            return call(context, found.of, kinds, arguments)
        except (Trap, WasmtimeError) as error:
            raise self._translate(error) from None
