"""A parsed and validated module, which any thread may instantiate."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from wasi_nn.errors import UsageError
from wasi_nn.runtime import EngineLimits, HostFunction, Instance, Module, WasiConfig
from wasi_nn.runtime.engine import BESIDE_SOCKETS, WASI_MODULES, socket_functions
from wasi_nn.runtime.library import POINTER
from wasi_nn.runtime.open_files import opens_files
from wasi_nn.runtime.process import in_own_process
from wasi_nn.wasm import module as wasm_module
from wasi_nn.wasm.deferred_start import defer_start
from wasi_nn.wasm.forwarding import forwarder
from wasi_nn.wasm.memory_bound import bounded
from wasi_nn.wasm.module import Import
from wasi_nn.wasm.renamed_imports import rename_modules
from wasi_nn.wasm.wasi_signatures import SIGNATURES
from wasi_nn_wasmedge.api import Api, String
from wasi_nn_wasmedge.instance import FIRST, WasmEdgeInstance

_ELEMENT = 16
_UNLIMITED = 1 << 32


class WasmEdgeModule(Module):
    """An AST module. A WasmEdge VM would not do: it registers mock modules under the names of
    plugins, ``wasi_ephemeral_nn`` among them, and then refuses ours."""

    def __init__(self, api: Api, wasm: bytes, isolated: Module) -> None:
        """``isolated`` is the same module for guests in their own processes."""
        self._api = api
        self._isolated = isolated
        file = wasm_module.parse(wasm)
        self.file = file
        self.deferred = False
        self._firsts = _firsts(file.imports)
        #: Functions of WASI that a guest with sockets gets from the host, before WasmEdge's own.
        self.passed_on = {name for _, name in self._firsts} & BESIDE_SOCKETS.keys()
        if self._firsts:
            # WasmEdge offers its WASI whole. What calls it is made once the guest has a memory.
            named = rename_modules(wasm, lambda i: (i.module, i.name) in self._firsts, FIRST)
            wasm = defer_start(named)
            self.deferred = wasm is not named
        self._wasm = wasm
        #: The size in bytes that its tables may grow to. WasmEdge does not limit them.
        self._table_bytes = _ELEMENT * sum(
            _UNLIMITED if table.maximum is None else table.maximum for table in file.tables
        )
        #: The WASI that it imports, if any. (No known guest imports both.)
        self.wasi = next((i.module for i in file.imports if i.module in WASI_MODULES), "")
        self.imports_wasi = bool(self.wasi)
        self.handle = self._parsed(wasm)
        finalizer = weakref.finalize(self, api.delete["ASTModule"], self.handle)
        # When the program ends, threads may still instantiate the module.
        finalizer.atexit = False

    @contextmanager
    def within(self, limit: int | None) -> Iterator[int]:
        """The AST module for a guest with a memory limit. If its tables could grow above the limit,
        they are bounded. Raises ``LimitExceeded``."""
        if limit is None or self._table_bytes <= limit:
            yield self.handle
            return
        handle = self._parsed(bounded(self._wasm, limit, _ELEMENT))
        try:
            yield handle
        finally:
            self._api.delete["ASTModule"](handle)

    def forwarder(self) -> int:
        """An AST module that calls WasmEdge's WASI, for its caller to free."""
        return self._parsed(forwarder(self.wasi, sorted(self.passed_on)))

    def _parsed(self, wasm: bytes) -> int:
        api = self._api
        loader, validator = api.loader(None), api.validator(None)
        found = POINTER()
        try:
            result = api.parse(loader, ctypes.byref(found), String(len(wasm), wasm))
            result = result or api.validate(validator, found)
        finally:
            api.delete["Loader"](loader)
            api.delete["Validator"](validator)
        if result:
            if found.value:
                api.delete["ASTModule"](found.value)
            reason = api.message(result).decode()
            raise UsageError(f"WasmEdge cannot load the module: {reason}")
        return found.value or 0

    def prepare(
        self, functions: Sequence[HostFunction], wasi: WasiConfig, limits: EngineLimits
    ) -> Instance:
        if self._needs_process(wasi):
            return self._isolated.prepare(functions, wasi, limits)
        return WasmEdgeInstance(self._api, self, functions, wasi, limits)

    def _needs_process(self, wasi: WasiConfig) -> bool:
        """Whether a process must hold what WasmEdge cannot: streams other than its process's, or a
        limit on files."""
        if in_own_process() or not self.imports_wasi:
            return False
        streams = self._api.redirects or _has_own_streams(wasi)
        return not streams or opens_files(self.file, wasi)


def _firsts(imports: Sequence[Import]) -> set[tuple[str, str]]:
    """The functions of WASI's modules that come from the host: those that WASI lacks, and what a
    guest with sockets needs."""
    lacking = {
        (item.module, item.name)
        for item in imports
        if item.module in WASI_MODULES and item.name not in SIGNATURES
    }
    return lacking | socket_functions(imports)


def _has_own_streams(wasi: WasiConfig) -> bool:
    """Whether the guest's streams are those of this process, and open. The number of a closed
    stream may belong to any other file."""
    if (wasi.stdin, wasi.stdout, wasi.stderr) != ("inherit",) * 3:
        return False
    try:
        for descriptor in range(3):
            os.fstat(descriptor)
    except OSError:
        return False
    return True
