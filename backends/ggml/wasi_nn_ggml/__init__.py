"""GGUF models through llama.cpp, as a wasi-nn plugin. Importing this loads no library."""

from collections.abc import Iterable

from wasi_nn.backend import Backend
from wasi_nn.hookspecs import hookimpl
from wasi_nn_ggml.backend import GgmlBackend


@hookimpl
def wasi_nn_backends() -> Iterable[Backend]:
    return [GgmlBackend()]
