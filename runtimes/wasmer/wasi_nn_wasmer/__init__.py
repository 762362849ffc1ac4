"""Wasmer as a wasi-nn plugin. Importing this module loads nothing."""

from collections.abc import Iterable

from wasi_nn.hookspecs import hookimpl
from wasi_nn.runtime import Runtime
from wasi_nn_wasmer.runtime import WasmerRuntime


@hookimpl
def wasi_nn_runtimes() -> Iterable[Runtime]:
    return [WasmerRuntime()]
