"""V8 (through Node.js) as a wasi-nn plugin. Importing this module starts nothing."""

from collections.abc import Iterable

from wasi_nn.hookspecs import hookimpl
from wasi_nn.runtime import Runtime
from wasi_nn_v8.runtime import V8Runtime


@hookimpl
def wasi_nn_runtimes() -> Iterable[Runtime]:
    return [V8Runtime()]
