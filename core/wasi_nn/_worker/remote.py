"""Graphs that live in a worker."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from wasi_nn._models.file_versions import FilesChanged
from wasi_nn._worker import description
from wasi_nn._worker.context import RemoteContext, RemoteStream
from wasi_nn._worker.endings import WorkerEnded, after
from wasi_nn._worker.messages import STATISTICS
from wasi_nn._worker.offences import Offences
from wasi_nn._worker.process import Worker
from wasi_nn._worker.seat import Seat
from wasi_nn.backend import (
    Builder,
    ExecutionContext,
    Graph,
    LoadOptions,
    Reserve,
    Schedule,
)
from wasi_nn.backend.shared import Stopped, acquire_unless_stopped, never
from wasi_nn.errors import RuntimeFailure
from wasi_nn.escaping import logger
from wasi_nn.types import TensorInfo

log = logger("wasi_nn")
#: Gives a worker for the graph, in place of one that has died. Raises ``FilesChanged`` if another
#: model is in its files now.
Restart = Callable[[Stopped], Worker]
# How often it is loaded again while the worker dies of that.
_MAX_LOADS = 2
# How long a worker may take to count, in seconds.
_STATISTICS_SECONDS = 2.0


class Memory:
    """What takes a graph's memory in a worker."""


class RemoteGraph(Graph):
    """A graph in a worker."""

    inputs: Sequence[TensorInfo]
    outputs: Sequence[TensorInfo]
    concurrent_contexts: bool
    untyped_bytes: bool
    stateless: bool
    choices: Mapping[str, Sequence[str]]
    shared_memory: object | None

    def __init__(
        self,
        worker: Worker,
        builders: Sequence[Builder],
        options: LoadOptions,
        stopped: Stopped,
        restart: Restart | None,
    ) -> None:
        number, described = worker.load(builders, options, stopped)
        self._builders, self._options = builders if restart is not None else (), options
        self._restart = restart
        self._lock = threading.Lock()
        #: Why it cannot be loaded again.
        self._gone = ""
        #: The worker that it is in now, and its number there.
        self.place = worker, number
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

    @property
    def worker(self) -> Worker:
        """The worker that it is in now."""
        return self.place[0]

    @property
    def revivable(self) -> bool:
        """Whether it is loaded again in another worker if this one dies."""
        return self._restart is not None

    @property
    def lost(self) -> bool:
        """Whether it has gone for good."""
        if self.revivable:
            return bool(self._gone) or self.worker.is_parents
        return bool(self.worker.lost)

    def renew(self, ended: Worker, stopped: Stopped) -> None:
        """Load the graph in another worker, unless that has happened since ``ended`` has. Raises
        ``RuntimeFailure``."""
        assert self._restart is not None
        acquire_unless_stopped(self._lock, stopped)
        try:
            loads = 0
            while self.worker is ended and not self._gone:
                loads += 1
                try:
                    worker = self._restart(stopped)
                    number, described = worker.load(self._builders, self._options, stopped)
                except (FilesChanged, WorkerEnded) as error:
                    if isinstance(error, FilesChanged) or loads == _MAX_LOADS:
                        self._gone = str(error)
                    continue
                if described.memory is not None and isinstance(self.shared_memory, Memory):
                    worker.memories.setdefault(described.memory, self.shared_memory)
                self.place = worker, number
                log.warning("%s goes on in another worker", worker.backend.title)
            if self._gone:
                raise RuntimeFailure(f"the model cannot be loaded again: {self._gone}")
        finally:
            self._lock.release()

    def init_execution_context(
        self,
        reserve: Reserve,
        stopped: Stopped = never,
        schedule: Schedule = Schedule(),
        offences: Offences | None = None,
    ) -> ExecutionContext:
        """Open a context. Once ``stopped`` says so, this and each ``set_input`` give up."""
        seat = Seat(self, reserve, stopped, schedule, offences or Offences())
        kind = RemoteStream if seat.streams else RemoteContext
        return kind(self, seat, reserve, stopped)

    def statistics(self) -> Mapping[str, float]:
        worker, number = self.place
        if worker.lost:
            # It counts from 0 when a guest uses it again.
            return {}
        answer = worker.call(STATISTICS, number, stopped=after(_STATISTICS_SECONDS))
        found: Mapping[str, float] = worker.parsed(lambda: description.statistics(answer))
        return found

    def close(self) -> None:
        worker, number = self.place
        worker.drop(number)
