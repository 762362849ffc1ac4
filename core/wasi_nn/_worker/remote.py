"""Graphs that live in a worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wasi_nn._worker.context import RemoteContext, RemoteStream, later
from wasi_nn._worker.description import Description, checked, generation
from wasi_nn._worker.messages import (
    OPEN,
    U32,
    from_json,
)
from wasi_nn._worker.process import GivenUp, Memory, Worker
from wasi_nn.backend import (
    Builder,
    ExecutionContext,
    Graph,
    LoadOptions,
    Reserve,
)
from wasi_nn.backend.shared import Stopped, never
from wasi_nn.types import TensorInfo


class RemoteGraph(Graph):
    """A graph in a worker."""

    inputs: Sequence[TensorInfo]
    outputs: Sequence[TensorInfo]
    concurrent_contexts: bool
    untyped_bytes: bool
    stateless: bool
    choices: Mapping[str, Sequence[str]]
    shared_memory: object | None

    def __init__(self, worker: Worker, number: int, described: Description) -> None:
        self.worker = worker
        self.number = number
        self.inputs = described.inputs
        self.outputs = described.outputs
        self.concurrent_contexts = described.concurrent_contexts
        self.untyped_bytes = described.untyped_bytes
        self.stateless = described.stateless
        self.choices = described.choices
        self.shared_memory = (
            None
            if described.memory is None
            else worker.memories.setdefault(described.memory, Memory())
        )

    def init_execution_context(
        self, reserve: Reserve, stopped: Stopped = never
    ) -> ExecutionContext:
        """Open a context. Once ``stopped`` says so, this and each ``set_input`` give up."""
        number = self.worker.number()
        body = U32.pack(self.number)
        until = stopped if self.concurrent_contexts else later(stopped)
        try:
            answer = self.worker.call(OPEN, number, body, reserve=reserve, stopped=until)
        except GivenUp:
            if not self.concurrent_contexts:
                # No other guest can use the graph meanwhile.
                self.worker.kill("a context of a graph that has one at a time took too long")
            raise

        def context() -> ExecutionContext:
            found = from_json(answer)
            kind = RemoteStream if checked(found["streams"], bool) else RemoteContext
            return kind(self, number, reserve, generation(found["generation"]), stopped)

        opened: ExecutionContext = self.worker.parsed(context)
        return opened

    def close(self) -> None:
        self.worker.drop(self.number)


def load(
    worker: Worker, builders: Sequence[Builder], options: LoadOptions, stopped: Stopped = never
) -> RemoteGraph:
    """Load a graph in a worker. Raises what ``Backend.load`` raises, and ``RuntimeFailure`` if the
    worker ends."""
    number, described = worker.load(builders, options, stopped)
    return RemoteGraph(worker, number, described)
