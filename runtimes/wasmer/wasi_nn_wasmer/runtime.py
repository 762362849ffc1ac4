"""The adapter for wasmer: by the PyPI package, or by libwasmer's C API."""

from __future__ import annotations

from wasi_nn.backend import Availability, missing_library
from wasi_nn.runtime import EngineLimits, Module, Runtime, RuntimeFeatures


class WasmerRuntime(Runtime):
    """Wasmer with Cranelift code."""

    name = "wasmer"
    features = RuntimeFeatures(threads=False)
    wasi_modules = frozenset({"wasi_snapshot_preview1", "wasi_unstable"})

    def availability(self) -> Availability:
        reason = missing_library("wasmer_compiler_cranelift", "wasmer")
        if reason is not None:
            return Availability(False, reason)
        return Availability(True, "wasmer 1.1.0", ("cpu",))

    def compile(self, wasm: bytes, limits: EngineLimits) -> Module:
        from wasi_nn_wasmer.package import PackageModule

        return PackageModule(wasm)
