"""A parsed and validated module, which every thread can instantiate."""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from wasi_nn.errors import UsageError
from wasi_nn.runtime import EngineLimits, HostFunction, Instance, Module, WasiConfig
from wasi_nn.runtime.instance import WASI_MODULES
from wasi_nn.runtime.library import POINTER
from wasi_nn.wasm import module as wasm_module
from wasi_nn.wasm.memory_bound import bounded
from wasi_nn_wasmedge.api import Api, String
from wasi_nn_wasmedge.instance import WasmEdgeInstance

_ELEMENT = 16
_UNLIMITED = 1 << 32


class WasmEdgeModule(Module):
    """An AST module. Not a WasmEdge VM: that one registers mock modules of its own under the names
    of plugins, ``wasi_ephemeral_nn`` among them, and refuses ours for their sake."""

    def __init__(self, api: Api, wasm: bytes, apart: Callable[[], Module]) -> None:
        """``apart`` compiles the same module for processes of their own."""
        self._api = api
        self._apart: Module | None = None
        self._make_apart = apart
        self._making = threading.Lock()
        self._wasm = wasm
        file = wasm_module.parse(wasm)
        self.file = file
        #: Bytes that its tables may grow to, which WasmEdge does not limit.
        self._table_bytes = _ELEMENT * sum(
            _UNLIMITED if table.maximum is None else table.maximum for table in file.tables
        )
        self.imports_wasi = any(item.module in WASI_MODULES for item in file.imports)
        self.handle = self._parsed(wasm)
        finalizer = weakref.finalize(self, api.delete["ASTModule"], self.handle)
        # When the program ends, threads of it may be instantiating the module still.
        finalizer.atexit = False

    @contextmanager
    def within(self, limit: int | None) -> Iterator[int]:
        """The AST module of a guest with a limit on memory: its tables are bounded, where they
        could grow above it. Raises ``LimitExceeded``."""
        if limit is None or self._table_bytes <= limit:
            yield self.handle
            return
        handle = self._parsed(bounded(self._wasm, limit, _ELEMENT))
        try:
            yield handle
        finally:
            self._api.delete["ASTModule"](handle)

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
        if self.imports_wasi and not self._api.redirects and not _has_own_streams(wasi):
            with self._making:
                self._apart = self._apart or self._make_apart()
            return self._apart.prepare(functions, wasi, limits)
        return WasmEdgeInstance(self._api, self, functions, wasi, limits)


def _has_own_streams(wasi: WasiConfig) -> bool:
    """Whether the guest's streams are those of this process, and open: the number of a closed one
    may stand for any file by now."""
    if (wasi.stdin, wasi.stdout, wasi.stderr) != ("inherit",) * 3:
        return False
    try:
        for descriptor in range(3):
            os.fstat(descriptor)
    except OSError:
        return False
    return True
