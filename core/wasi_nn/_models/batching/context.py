"""A context whose computations are batched with those of others."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from threading import get_ident
from typing import TYPE_CHECKING

from wasi_nn._models.batching.request import Key, Outputs, Request
from wasi_nn._process.signals import shielded
from wasi_nn.backend import ExecutionContext, Reserve
from wasi_nn.errors import InvalidArgument, NnError, RuntimeFailure
from wasi_nn.types import Tensor

if TYPE_CHECKING:
    from wasi_nn._models.batching.graph import BatchingGraph

_UNKNOWN = object()


class BatchedContext(ExecutionContext):
    """It keeps its inputs and outputs itself, and counts its share of the batch's buffers: as many
    bytes again."""

    def __init__(self, graph: BatchingGraph, reserve: Reserve) -> None:
        self._graph = graph
        self._reserve = reserve
        self._inputs: dict[Key, Tensor] = {}
        #: None before a computation has succeeded.
        self._outputs: Outputs | None = None
        self._buffers: Outputs = {}
        self._counted = 0
        self._request: Request | None = None
        self._stopped = False
        #: The look of a request and its rows, or that they must be found.
        self._look: Hashable | None = _UNKNOWN
        self._rows = 0
        self._use()

    def set_input(self, key: int | str, tensor: Tensor) -> None:
        name, described = self._graph.input_key(key)
        kept = self._inputs.get(name)
        kind, dims, data = tensor
        if kept is None or kept.type is not kind or kept.dims != dims:
            self._graph.check(name, tensor)
            size = len(data)
            more = size - (0 if kept is None else len(kept.data))
            if more > 0:
                # Core counts the tensor itself only afterwards.
                self._reserve(2 * more)
            self._reserve(-abs(more))
            kept = self._inputs[name] = Tensor(kind, tuple(dims), memoryview(bytearray(data)))
            self._look = _UNKNOWN
        else:
            kept.data[:] = data
        if not described:
            # Two names may mean one input: what was set last counts.
            self._inputs[name] = self._inputs.pop(name)
            self._look = _UNKNOWN
        self._use()

    def compute(self) -> None:
        self._compute(())

    def _compute(self, wanted: Sequence[Key]) -> None:
        if self._look is _UNKNOWN:
            self._look, self._rows = self._graph.look(self._inputs)
        inputs, look, rows = self._inputs, self._look, self._rows
        request = Request(inputs, look, rows, self._thread, self._buffers, wanted)
        self._outputs = None
        self._request = request
        try:
            # (``cancel`` may have come before there was a request.)
            if self._stopped:
                raise _stopped()
            shielded(lambda: self._graph.queue.run(request), self.cancel)
        finally:
            self._request = None
        outputs = request.outputs
        size = sum(len(output.data) for output in outputs.values() if isinstance(output, Tensor))
        self._reserve(2 * (size - self._counted))
        self._counted = size
        self._outputs = self._buffers = outputs

    def get_output(self, key: int | str) -> Tensor:
        if self._outputs is None:
            raise InvalidArgument("there is no output before compute has succeeded")
        name = self._graph.output_key(key)
        if name not in self._outputs:
            # The graph does not describe it, so it was not read: the batch's context is in use.
            self._compute((name,))
            self._graph.want(name, self._outputs[name])
        output = self._outputs[name]
        if isinstance(output, NnError):
            raise output
        return output

    def cancel(self) -> None:
        self._stopped = True
        request = self._request
        if request is not None:
            self._graph.queue.cancel(request, _stopped())

    def close(self) -> None:
        self._graph.queue.leave(self._thread)
        self._inputs = {}
        self._outputs, self._buffers = None, {}

    def _use(self) -> None:
        # (A signal's handler may move the computation to another thread.)
        self._thread = get_ident()
        self._graph.queue.use(self._thread)


def _stopped() -> RuntimeFailure:
    return RuntimeFailure("the guest is being stopped")
