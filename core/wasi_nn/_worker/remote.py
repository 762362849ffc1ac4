"""Graphs that live in a worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wasi_nn._worker import description
from wasi_nn._worker.context import RemoteContext, RemoteStream, after, later
from wasi_nn._worker.description import Description, checked, generation
from wasi_nn._worker.messages import (
    OPEN,
    STATISTICS,
    as_json,
    from_json,
)
from wasi_nn._worker.process import GivenUp, Memory, Worker
from wasi_nn.backend import (
    Builder,
    ExecutionContext,
    Graph,
    LoadOptions,
    Reserve,
    Schedule,
)
from wasi_nn.backend.shared import Stopped, never
from wasi_nn.types import TensorInfo

# How long a worker may take to count, in seconds.
_STATISTICS_SECONDS = 2.0


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
        self, reserve: Reserve, stopped: Stopped = never, schedule: Schedule = Schedule()
    ) -> ExecutionContext:
        """Open a context. Once ``stopped`` says so, this and each ``set_input`` give up."""
        number = self.worker.number()
        steps = self.worker.steps
        step = 0 if steps is None else steps.take()
        wanted = {"graph": self.number, "schedule": schedule, "step": step, "alone": False}
        until = stopped if self.concurrent_contexts else later(stopped)
        try:
            answer = self.worker.call(OPEN, number, as_json(wanted), reserve=reserve, stopped=until)
        except BaseException as error:
            if isinstance(error, GivenUp) and not self.concurrent_contexts:
                # No other guest can use the graph meanwhile.
                self.worker.kill("a context of a graph that has one at a time took too long")
            if steps is not None:
                steps.give_back(step)
            raise

        def context() -> ExecutionContext:
            found = from_json(answer)
            kind = RemoteStream if checked(found["streams"], bool) else RemoteContext
            numbers = generation(found["generation"])
            return kind(self, number, step, reserve, numbers, stopped)

        opened: ExecutionContext = self.worker.parsed(context)
        return opened

    def statistics(self) -> Mapping[str, float]:
        answer = self.worker.call(STATISTICS, self.number, stopped=after(_STATISTICS_SECONDS))
        found: Mapping[str, float] = self.worker.parsed(lambda: description.statistics(answer))
        return found

    def close(self) -> None:
        self.worker.drop(self.number)


def load(
    worker: Worker, builders: Sequence[Builder], options: LoadOptions, stopped: Stopped = never
) -> RemoteGraph:
    """Load a graph in a worker. Raises what ``Backend.load`` raises, and ``RuntimeFailure`` if the
    worker ends."""
    number, described = worker.load(builders, options, stopped)
    return RemoteGraph(worker, number, described)
