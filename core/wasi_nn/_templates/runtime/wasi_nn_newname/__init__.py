"""The engine newname, for wasi-nn."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from wasi_nn import hookimpl, runtime
from wasi_nn.types import Availability

# Of the promise that wasi-nn gives to plugins.
WASI_NN_API = 1


class Newname(runtime.Runtime):
    """Compiles modules. One object serves a host, and all of its threads."""

    name = "newname"  # as in --runtime newname
    # Declare only what your engine can do: wasi-nn relies on it, and does the rest itself.
    features = runtime.RuntimeFeatures(wasi=False, interrupt=True, memory_limit=True)

    def availability(self) -> Availability:
        # Hosts ask this before every run: look for your engine without importing it.
        try:
            return Availability(True, f"on wasmtime {version('wasmtime')}")
        except PackageNotFoundError:
            return Availability(False, 'wasmtime is not installed; run "pip install wasmtime"')

    def compile(self, wasm: bytes, limits: runtime.EngineLimits) -> runtime.Module:
        # Hosts import this module at every start, so import your engine here and not above.
        from wasi_nn_newname.instance import compiled

        return Newmodule(wasm, compiled(wasm))


class Newmodule(runtime.Module):
    """Compiled code, which guests in any number of threads share."""

    def __init__(self, wasm: bytes, code: bytes) -> None:
        self._wasm = wasm
        self._code = code

    def prepare(
        self,
        functions: Sequence[runtime.HostFunction],
        wasi: runtime.WasiConfig,
        limits: runtime.EngineLimits,
    ) -> runtime.Instance:
        from wasi_nn_newname.instance import Newinstance

        return Newinstance(self._wasm, self._code, functions, wasi, limits)


@hookimpl
def wasi_nn_runtimes() -> list[runtime.Runtime]:
    """The runtimes of this plugin."""
    return [Newname()]
