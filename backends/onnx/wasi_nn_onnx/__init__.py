"""A wasi-nn plugin for ONNX models with onnxruntime. Importing this does not import onnxruntime."""

from collections.abc import Iterable

from wasi_nn.backend import Backend
from wasi_nn.hookspecs import hookimpl
from wasi_nn_onnx.backend import OnnxBackend


@hookimpl
def wasi_nn_backends() -> Iterable[Backend]:
    return [OnnxBackend()]
