"""The wasmtime engine as a wasi-nn plugin. Importing this module imports no wasmtime."""

from collections.abc import Iterable

from wasi_nn.hookspecs import hookimpl
from wasi_nn.runtime import Runtime
from wasi_nn_wasmtime.runtime import WasmtimeRuntime


@hookimpl
def wasi_nn_runtimes() -> Iterable[Runtime]:
    return [WasmtimeRuntime()]
