"""A host for WebAssembly programs that do machine learning."""

from wasi_nn._abi.guard import CallStats, Failure
from wasi_nn._host.guest import Guest
from wasi_nn._host.host import Host
from wasi_nn._host.model import Context, Model
from wasi_nn._host.options import RunOptions
from wasi_nn._host.program import Call, Program, RunResult, Timings
from wasi_nn._session.session import GraphUse
from wasi_nn.backend import Generation
from wasi_nn.errors import DeadlineExceeded, GuestError, NnError, UsageError, WasiNnError
from wasi_nn.hookspecs import hookimpl
from wasi_nn.limits import Limits
from wasi_nn.runtime import Preopen
from wasi_nn.types import ExecutionTarget, Tensor, TensorInfo, TensorType

__version__ = "0.1.0"

__all__ = [
    "Call",
    "CallStats",
    "Context",
    "DeadlineExceeded",
    "ExecutionTarget",
    "Failure",
    "Generation",
    "GraphUse",
    "Guest",
    "GuestError",
    "Host",
    "Limits",
    "Model",
    "NnError",
    "Preopen",
    "Program",
    "RunOptions",
    "RunResult",
    "Tensor",
    "TensorInfo",
    "TensorType",
    "Timings",
    "UsageError",
    "WasiNnError",
    "hookimpl",
]
