"""WAMR, the WebAssembly Micro Runtime, as a wasi-nn plugin. Importing this module loads nothing."""

from collections.abc import Iterable

from wasi_nn.hookspecs import hookimpl
from wasi_nn.runtime import Runtime
from wasi_nn_wamr.runtime import WamrRuntime


@hookimpl
def wasi_nn_runtimes() -> Iterable[Runtime]:
    return [WamrRuntime()]
