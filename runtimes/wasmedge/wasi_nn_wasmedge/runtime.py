"""The runtime for WasmEdge, through libwasmedge's C API."""

from __future__ import annotations

from wasi_nn.runtime import EngineLimits, Module, Runtime, RuntimeFeatures
from wasi_nn.types import Availability


class WasmEdgeRuntime(Runtime):
    """WasmEdge: its interpreter, or the native code that its own compiler put into a module."""

    name = "wasmedge"
    features = RuntimeFeatures(interrupt=True, memory_limit=True, fuel=True)

    def availability(self) -> Availability:
        from wasi_nn_wasmedge.api import api

        return Availability(True, f"WasmEdge {api().version}", ("cpu",))

    def compile(self, wasm: bytes, limits: EngineLimits) -> Module:
        from wasi_nn.runtime.process.isolated import Isolated
        from wasi_nn_wasmedge.api import api
        from wasi_nn_wasmedge.module import WasmEdgeModule

        return WasmEdgeModule(api(), wasm, Isolated(self, wasm, limits))
