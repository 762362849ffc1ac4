"""A wasi-nn plugin for PyTorch. Importing this does not import torch."""

from collections.abc import Iterable

from wasi_nn.backend import Backend
from wasi_nn.hookspecs import hookimpl
from wasi_nn_pytorch.backend import PytorchBackend


@hookimpl
def wasi_nn_backends() -> Iterable[Backend]:
    return [PytorchBackend()]
