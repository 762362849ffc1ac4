"""``runtime/wasm_c_api.py``, with the `wasm_*` functions that wasmtime's shared library has.

This is not a runtime for wasmtime. It tests what runtimes of other libraries share. wasm.h knows
no WASI, so guests get what Python provides of it. Guests that need files are not run.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache

import pytest

from wasi_nn import hookimpl
from wasi_nn.errors import LinkError
from wasi_nn.plugins import Plugins
from wasi_nn.runtime import Runtime, RuntimeFeatures
from wasi_nn.runtime.engine import WASI_MODULES
from wasi_nn.runtime.wasi_streams import Preview1
from wasi_nn.runtime.wasm_c_api import CApi, CApiInstance, CApiModule
from wasi_nn.types import Availability
from wasi_nn_conformance.engine_tests import EngineTests

ffi = pytest.importorskip("wasmtime._ffi")


@lru_cache(maxsize=1)
def api() -> CApi:
    return CApi(ctypes.CDLL(str(ffi.filename)))


class Instance(CApiInstance):
    def __init__(self, module, functions, wasi):
        super().__init__(module, functions)
        streams = Preview1(wasi, self.output_failures, self.pause)
        for name in WASI_MODULES:
            self._functions |= {(f.module, f.name): f for f in streams.functions(name)}


class Module(CApiModule):
    def prepare(self, functions, wasi, limits):
        return Instance(self, functions, wasi)


class WasmH(Runtime):
    name = "wasm.h"
    features = RuntimeFeatures(wasi=False)

    def availability(self):
        return Availability(True, "ready")

    def compile(self, wasm, limits):
        return Module(api(), wasm, "wasmtime")


class Plugin:
    @hookimpl
    def wasi_nn_runtimes(self):
        return [WasmH()]


class TestWasmCApi(EngineTests):
    runtime = "wasm.h"
    installed = False

    @pytest.fixture
    def plugins(self):
        plugins = Plugins.installed()
        plugins.register(Plugin(), "wasm.h")
        return plugins

    def test_a_guest_that_cannot_be_linked_leaves_nothing(self, host, wat, monkeypatch):
        """The copies of its imports belong to the list of all of them."""
        copied = []
        real = api().extern_copy
        monkeypatch.setattr(api(), "extern_copy", lambda extern: copied.append(1) or real(extern))
        imports = "".join(
            f'(import "wasi_snapshot_preview1" "{name}" (func (param {kinds}) (result i32)))'
            for name, kinds in (("fd_write", "i32 i32 i32 i32"), ("fd_seek", "i32 i64 i32 i32"))
        )
        wasm = wat(f'(module {imports} (memory (export "memory") 1) (func (export "_start")))')
        with pytest.raises(
            LinkError, match=r"nothing here provides wasi_snapshot_preview1\.fd_seek"
        ):
            host.run(wasm)
        assert copied == []
