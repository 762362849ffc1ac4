"""A wasi-nn plugin for TensorFlow Lite. Importing this does not import an interpreter."""

from collections.abc import Iterable

from wasi_nn.backend import Backend
from wasi_nn.hookspecs import hookimpl
from wasi_nn_tflite.backend import TfliteBackend


@hookimpl
def wasi_nn_backends() -> Iterable[Backend]:
    return [TfliteBackend()]
