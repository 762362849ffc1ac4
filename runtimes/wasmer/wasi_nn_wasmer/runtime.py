"""The runtime for wasmer: through its PyPI package if that can be imported, or libwasmer."""

from __future__ import annotations

import importlib.util
import os
import sys

from wasi_nn.backend import installed_version
from wasi_nn.errors import Unavailable
from wasi_nn.runtime import EngineLimits, Module, Runtime, RuntimeFeatures
from wasi_nn.types import Availability

#: Names the file of libwasmer.
VARIABLE = "WASI_NN_LIBWASMER"


class WasmerRuntime(Runtime):
    """Wasmer, with compiled code."""

    name = "wasmer"
    wasi_modules = frozenset({"wasi_snapshot_preview1", "wasi_unstable"})

    @property
    def features(self) -> RuntimeFeatures:
        """The package's guests hold the GIL, so guests of other threads wait."""
        return RuntimeFeatures(threads=not _package(), shared_memory=not _package())

    def availability(self) -> Availability:
        if _package():
            return Availability(
                True, f"wasmer {installed_version('wasmer')} (Python package)", ("cpu",)
            )
        from wasi_nn_wasmer.library import api

        try:
            return Availability(True, f"wasmer {api().version} (libwasmer)", ("cpu",))
        except Unavailable:
            if sys.version_info < (3, 11) and not os.environ.get(VARIABLE):
                return Availability(False, 'wasmer is not installed; pip install "wasi-nn[wasmer]"')
            raise

    def compile(self, wasm: bytes, limits: EngineLimits) -> Module:
        if _package():
            from wasi_nn_wasmer.package import PackageModule

            return PackageModule(wasm)
        from wasi_nn_wasmer.library import LibraryModule, api

        return LibraryModule(api(), wasm)


def _package() -> bool:
    """Whether to use the PyPI package. A named library has precedence. On newer Pythons an empty
    package ``wasmer`` can be installed, but not the compiler."""
    if os.environ.get(VARIABLE):
        return False
    return importlib.util.find_spec("wasmer_compiler_cranelift") is not None
