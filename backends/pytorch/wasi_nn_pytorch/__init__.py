"""PyTorch models as a wasi-nn plugin. Importing this imports no torch."""

from collections.abc import Iterable

from wasi_nn.backend import Backend
from wasi_nn.hookspecs import hookimpl
from wasi_nn_pytorch.backend import PytorchBackend


@hookimpl
def wasi_nn_backends() -> Iterable[Backend]:
    return [PytorchBackend()]
