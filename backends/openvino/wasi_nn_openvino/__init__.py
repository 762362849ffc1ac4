"""A wasi-nn plugin for OpenVINO. Importing this does not import openvino."""

from collections.abc import Iterable

from wasi_nn.backend import Backend
from wasi_nn.hookspecs import hookimpl
from wasi_nn_openvino.backend import OpenvinoBackend


@hookimpl
def wasi_nn_backends() -> Iterable[Backend]:
    return [OpenvinoBackend()]
