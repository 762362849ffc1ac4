"""A host for WebAssembly programs that do machine learning."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wasi_nn._abi.guard import CallStats, Failure
    from wasi_nn._host.asynchronous import AsyncRuns, Running
    from wasi_nn._host.guest import Guest
    from wasi_nn._host.host import Host
    from wasi_nn._host.many import Outcome, Runs
    from wasi_nn._host.memory import Memory, Region
    from wasi_nn._host.model import Context, Model
    from wasi_nn._host.options import Call, GuestOptions, RunInput, RunOptions
    from wasi_nn._host.program import Program
    from wasi_nn._host.result import RunResult, Timings
    from wasi_nn._host.statistics import ModelStatistics, Statistics
    from wasi_nn._session.session import GraphUse
    from wasi_nn.backend import Generation
    from wasi_nn.errors import DeadlineExceeded, GuestError, NnError, UsageError, WasiNnError
    from wasi_nn.hookspecs import hookimpl
    from wasi_nn.limits import Limits
    from wasi_nn.observer import Observer, Step
    from wasi_nn.policy import Policy
    from wasi_nn.runtime import Preopen
    from wasi_nn.types import ExecutionTarget, Tensor, TensorInfo, TensorType

__version__ = "0.1.0"


__all__ = [
    "AsyncRuns",
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
    "GuestOptions",
    "Host",
    "Limits",
    "Memory",
    "Model",
    "ModelStatistics",
    "NnError",
    "Observer",
    "Outcome",
    "Policy",
    "Preopen",
    "Program",
    "Region",
    "RunInput",
    "RunOptions",
    "RunResult",
    "Running",
    "Runs",
    "Statistics",
    "Step",
    "Tensor",
    "TensorInfo",
    "TensorType",
    "Timings",
    "UsageError",
    "WasiNnError",
    "hookimpl",
]

# A name's module is imported when the name is first used: a plugin that needs one contract, and
# a program that needs one name, do not wait for the whole host.
_MODULES = {
    "CallStats": "_abi.guard",
    "Failure": "_abi.guard",
    "AsyncRuns": "_host.asynchronous",
    "Running": "_host.asynchronous",
    "Guest": "_host.guest",
    "Host": "_host.host",
    "Outcome": "_host.many",
    "Runs": "_host.many",
    "Memory": "_host.memory",
    "Region": "_host.memory",
    "Context": "_host.model",
    "Model": "_host.model",
    "Call": "_host.options",
    "GuestOptions": "_host.options",
    "RunInput": "_host.options",
    "RunOptions": "_host.options",
    "Program": "_host.program",
    "RunResult": "_host.result",
    "Timings": "_host.result",
    "ModelStatistics": "_host.statistics",
    "Statistics": "_host.statistics",
    "GraphUse": "_session.session",
    "Generation": "backend",
    "DeadlineExceeded": "errors",
    "GuestError": "errors",
    "NnError": "errors",
    "UsageError": "errors",
    "WasiNnError": "errors",
    "hookimpl": "hookspecs",
    "Limits": "limits",
    "Observer": "observer",
    "Step": "observer",
    "Policy": "policy",
    "Preopen": "runtime",
    "ExecutionTarget": "types",
    "Tensor": "types",
    "TensorInfo": "types",
    "TensorType": "types",
}

_SUBMODULES = frozenset(
    "backend encodings errors escaping hookspecs limits observer opentelemetry plugins policy "
    "prometheus runtime tools types wasm".split()
)

if not TYPE_CHECKING:

    def __getattr__(name):
        if name in _SUBMODULES:
            return import_module(f"{__name__}.{name}")
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
