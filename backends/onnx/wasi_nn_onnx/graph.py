"""Loading ONNX models, and the graphs that come of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wasi_nn.backend import Builder, ExecutionContext, Graph, LoadOptions, Reserve
from wasi_nn.backend.buffers import DescribedGraph
from wasi_nn.backend.onnx_files import has_external_data
from wasi_nn.errors import RuntimeFailure, UnsupportedOperation
from wasi_nn.types import ExecutionTarget, TensorInfo, TensorType
from wasi_nn_onnx import extensions, providers
from wasi_nn_onnx.elements import input_type, is_optional, tensor_type

if TYPE_CHECKING:
    import onnxruntime


class OnnxGraph(DescribedGraph):
    """An onnxruntime session, which any number of threads may run at the same time."""

    stateless = True

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        super().__init__(
            [_describe(node, input_type(node.type)) for node in session.get_inputs()],
            [_describe(node, tensor_type(node.type)) for node in session.get_outputs()],
        )
        self.session = session
        #: Outputs whose declared dimensions are wrong: what one context learns holds for all.
        self.unfixed: set[str] = set()
        self.optional = frozenset(i for i, info in enumerate(self.inputs) if is_optional(info))
        # An output that is also an input is in the input's own buffer.
        self.input_names = frozenset(info.name for info in self.inputs)
        self.aliased_outputs = [
            i
            for i, info in enumerate(self.outputs)
            if info.type is not None and info.name in self.input_names
        ]

    def init_execution_context(self, reserve: Reserve) -> ExecutionContext:
        from wasi_nn_onnx.context import OnnxContext

        return OnnxContext(self)


def load(builder: Builder, options: LoadOptions) -> Graph:
    """Start a session on one model; see ``Backend.load`` for what it raises."""
    import onnxruntime

    available = onnxruntime.get_available_providers()
    wanted = providers.candidates(options.target, available, options.allow_fallback)
    settings = providers.session_options(options.config)
    if isinstance(builder, Path):
        source: str | bytes = str(builder)
    else:
        source = bytes(builder)
        if has_external_data(source):
            raise RuntimeFailure(
                "the model keeps weights in files, which a model of bytes cannot: register it "
                "by its path"
            )

    def start() -> onnxruntime.InferenceSession:
        try:
            return onnxruntime.InferenceSession(source, settings, providers=wanted)
        except Exception as error:
            raise RuntimeFailure(f"onnxruntime rejects the model: {error}") from error

    try:
        session = start()
    except RuntimeFailure as error:
        if not extensions.add(str(error), settings, trusted=isinstance(source, str)):
            raise
        session = start()
    _check_provider(session, wanted, options)
    return OnnxGraph(session)


def _check_provider(
    session: onnxruntime.InferenceSession, wanted: Sequence[str], options: LoadOptions
) -> None:
    # onnxruntime itself falls back to the CPU when a provider cannot start (no driver, no
    # device), and says so in a log line alone.
    active = session.get_providers()
    chosen = options.allow_fallback or options.target is ExecutionTarget.AUTO
    if not chosen and active[:1] != list(wanted[:1]):
        raise UnsupportedOperation(
            f"the execution target {options.target} could not be started: onnxruntime "
            f"fell back to {', '.join(active)}"
        )


def _describe(node: onnxruntime.NodeArg, kind: TensorType | None) -> TensorInfo:
    # onnxruntime gives no dimensions both for a scalar and for a tensor of unknown rank, and
    # itself takes any tensor for either.
    dims = tuple(d if isinstance(d, int) and d >= 0 else -1 for d in node.shape) or None
    return TensorInfo(node.name, kind, dims, node.type)
