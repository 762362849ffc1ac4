"""A host for WebAssembly programs that do machine learning through wasi-nn."""

from wasi_nn.errors import NnError, UsageError, WasiNnError
from wasi_nn.hookspecs import hookimpl
from wasi_nn.host import Host
from wasi_nn.limits import Limits
from wasi_nn.model import Context, Model
from wasi_nn.program import Program, RunResult
from wasi_nn.runtime import Preopen
from wasi_nn.types import ExecutionTarget, Tensor, TensorInfo, TensorType

__version__ = "0.1.0"

__all__ = [
    "Context",
    "ExecutionTarget",
    "Host",
    "Limits",
    "Model",
    "NnError",
    "Preopen",
    "Program",
    "RunResult",
    "Tensor",
    "TensorInfo",
    "TensorType",
    "UsageError",
    "WasiNnError",
    "hookimpl",
]
