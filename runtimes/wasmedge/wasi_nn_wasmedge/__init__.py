"""WasmEdge as a wasi-nn plugin. Importing this module loads nothing."""

from collections.abc import Iterable

from wasi_nn.hookspecs import hookimpl
from wasi_nn.runtime import Runtime
from wasi_nn_wasmedge.runtime import WasmEdgeRuntime


@hookimpl
def wasi_nn_runtimes() -> Iterable[Runtime]:
    return [WasmEdgeRuntime()]
