"""Execution targets as onnxruntime's execution providers, and session options from a config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from wasi_nn.backend import FALLBACK
from wasi_nn.backend.config import flag
from wasi_nn.backend.config import threads as number_of_threads
from wasi_nn.errors import UnsupportedOperation
from wasi_nn.types import ExecutionTarget

if TYPE_CHECKING:
    import onnxruntime

CPU = "CPUExecutionProvider"
#: Providers by target, the preferred ones first.
PROVIDERS: Mapping[ExecutionTarget, Sequence[str]] = {
    ExecutionTarget.CPU: (CPU,),
    ExecutionTarget.GPU: (
        "CUDAExecutionProvider",
        "ROCMExecutionProvider",
        "MIGraphXExecutionProvider",
        "DmlExecutionProvider",
        "WebGpuExecutionProvider",
    ),
    ExecutionTarget.TPU: (
        "QNNExecutionProvider",
        "VitisAIExecutionProvider",
        "CoreMLExecutionProvider",
    ),
}


def candidates(
    target: ExecutionTarget, available: Sequence[str], allow_fallback: bool
) -> list[str]:
    """The providers to try for a target, in their order.

    Raises ``UnsupportedOperation`` if the installed onnxruntime has none, unless
    ``allow_fallback``. ``auto`` means all GPU providers, and then the CPU."""
    if target is ExecutionTarget.AUTO:
        wanted = [*PROVIDERS[ExecutionTarget.GPU], CPU]
        return [provider for provider in wanted if provider in available]
    found = [provider for provider in PROVIDERS[target] if provider in available]
    if not found and not allow_fallback:
        raise UnsupportedOperation(
            f"the execution target {target} is not available: this onnxruntime has "
            f"{', '.join(available)}; install one with a provider for it (onnxruntime-gpu for "
            f"CUDA), or {FALLBACK}"
        )
    return found if not allow_fallback or CPU in found else [*found, CPU]


def session_options(config: Mapping[str, Any]) -> onnxruntime.SessionOptions:
    """onnxruntime's session options for a config (the keys are in the README).

    Raises ``InvalidArgument`` for a value of the wrong type; unknown keys are left alone."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = number_of_threads(config)
    options.inter_op_num_threads = number_of_threads(config, "inter-op-threads", 1)
    if options.inter_op_num_threads > 1:
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    # Spinning pools of several sessions collapse when they share the cores.
    spinning = flag(config, "allow-spinning", False)
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    if not flag(config, "optimize", True):
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options
