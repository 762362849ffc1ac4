"""A session: the graphs and execution contexts of one guest, under the handles that it was given.

A context keeps its graph alive. After ``unload`` the outputs of an open context can still be read
(WasmEdge's plugins/wasi_nn/DESIGN.md, "drain after unload"). ``init_execution_context``,
``set_input`` and ``compute`` on that graph are refused.

One thread at a time uses a session, the one that runs the guest. Every method raises ``NnError``,
and nothing else that a guest could have caused.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from wasi_nn._closing import Closing
from wasi_nn._models import loading
from wasi_nn._models.loading import LoadedGraph
from wasi_nn._models.registry import Registry, detect
from wasi_nn._session.cancellation import Cancellation
from wasi_nn._session.execution import Execution
from wasi_nn._session.ledger import Ledger
from wasi_nn._session.meter import Meter
from wasi_nn._session.workers import HostWorkers, Workers
from wasi_nn._worker.offences import Offences
from wasi_nn.backend import Builder, Generation, LoadOptions, Schedule, discard
from wasi_nn.encodings import AUTODETECT
from wasi_nn.errors import InvalidArgument, InvalidEncoding, QuotaExceeded
from wasi_nn.plugins import Plugins
from wasi_nn.policy import Policy
from wasi_nn.types import ExecutionTarget

T = TypeVar("T")
#: Chooses an encoding. It is given a function that tells the one that the model itself shows, or
#: None.
ChooseEncoding = Callable[[Callable[[], "str | None"]], str]


class GraphUse(NamedTuple):
    """A graph that a guest opened, and the seconds that this took: next to none for a graph that
    was loaded already."""

    backend: str
    encoding: str
    target: str
    seconds: float


class Handles(dict[int, T]):
    """What a guest has open, by handle. Handles start at 0, grow, and are never reused. An unknown
    one raises ``InvalidArgument``."""

    def __init__(self, what: str, rule: str, limit: int) -> None:
        super().__init__()
        self._what = what
        self._rule = rule
        self._next = 0
        self.limit = limit

    def __missing__(self, handle: int) -> T:
        raise InvalidArgument(f"there is no {self._what} with handle {handle}")

    def check(self) -> None:
        """Raise ``QuotaExceeded`` if one more is above the limit."""
        if len(self) >= self.limit:
            raise QuotaExceeded(
                self._rule,
                f"the guest already holds {self.limit} {self._what}s, the most that it may",
            )

    def add(self, item: T) -> int:
        """Give a handle to ``item``."""
        handle = self._next
        self._next += 1
        self[handle] = item
        return handle


class Session(Closing):
    """One guest's tables. ``close`` frees everything that the guest left behind."""

    def __init__(
        self,
        plugins: Plugins,
        registry: Registry,
        policy: Policy,
        allow_fallback: bool = False,
        tenant: str = "",
        workers: HostWorkers | None = None,
    ) -> None:
        """``workers`` are those of all guests of the host."""
        #: What the guest may do: its host's policy, with its own laid over it.
        self.policy = policy
        limits = policy.limits
        self._plugins = plugins
        self._registry = registry
        self._allow_fallback = allow_fallback
        self._cancellation = Cancellation()
        self._generated: Generation | None = None
        self._schedule = schedule_of(policy, tenant)
        self.ledger = Ledger(limits)
        self.meter = Meter(limits)
        #: Where contexts write that print for the guest. The host sets it before the guest runs.
        self.stdout: Callable[[bytes], object] = discard
        self._offences = Offences()
        self._workers = Workers(policy, self._cancellation, workers or HostWorkers())
        #: The graphs that were not unloaded.
        self.graphs: Handles[LoadedGraph] = Handles("graph", "graphs", limits.graphs)
        #: The open contexts: set inputs, compute and get outputs there.
        self.contexts: Handles[Execution] = Handles(
            "execution context", "contexts", limits.contexts
        )
        #: The handle of each context's graph.
        self._graph_of: dict[int, int] = {}
        #: The latest graphs that the guest opened.
        self.opened: deque[GraphUse] = deque(maxlen=100)

    def load(
        self,
        builders: Sequence[Builder],
        encoding: str | ChooseEncoding,
        target: ExecutionTarget,
        config: Mapping[str, Any] | None = None,
    ) -> int:
        """Load a graph from the guest's own bytes and give its handle. ``autodetect`` looks at
        the first builder."""
        self.policy.check_own_model()
        detected = lru_cache(1)(lambda: detect(self._plugins, builders))
        if not isinstance(encoding, str):
            encoding = encoding(detected)
        self.graphs.check()
        if encoding == AUTODETECT:
            encoding = _autodetected(builders, detected())
        self.policy.check_graph(encoding, target)
        options = LoadOptions(encoding, target, config or {}, self._allow_fallback)
        size = sum(builder.nbytes for builder in builders if isinstance(builder, memoryview))
        self._cancellation.check()
        self.ledger.check_brought(size)
        started = time.perf_counter()
        with loading.guest_facing_errors():
            backend = self._plugins.backend_for(encoding)
            loading.check_guest_config(backend, options.config)
            worker = self._workers.of_own_models(backend, encoding, builders)
            stopped = self._cancellation.is_requested
            loaded = loading.load(backend, builders, options, worker, stopped)
            return self._add(loaded, started, size)

    def load_by_name(self, name: str, config: Mapping[str, Any] | None = None) -> int:
        """Open a graph of the registry and give a new handle to it.

        A guest's own config can make another model of it, and so can files that replaced those of
        the name. The operator offered one model of each name. Every further one that the guest
        holds, and that shares no memory with it, counts."""
        self.policy.check_model(name)
        self.graphs.check()
        self._check(0)
        started = time.perf_counter()
        with loading.guest_facing_errors(), self._offences:
            self.policy.check_graph(*self._registry.kind(name))
            loaded = self._registry.graph(
                name,
                config,
                self._cancellation.is_requested,
                self.policy,
                self._workers.of_named_model,
            )
        further = self.ledger.is_further(loaded.memory, name)
        size = self._registry.size(name, config) if further else 0
        return self._add(loaded, started, size, name)

    def unload(self, graph: int) -> None:
        """Give a graph's handle back. Open contexts can still be drained."""
        loaded = self.graphs[graph]
        del self.graphs[graph]
        self.ledger.close_model(loaded.memory)
        for handle, owner in self._graph_of.items():
            if owner == graph:
                self.contexts[handle].retire(
                    f"the graph of execution context {handle} was unloaded: its outputs can be "
                    "read, and nothing else"
                )

    def init_execution_context(self, graph: int) -> int:
        """Open a context of a graph and give its handle."""
        loaded = self.graphs[graph]
        self.contexts.check()
        self._check(0)
        execution = Execution(
            loaded,
            self.ledger,
            self.meter,
            self._cancellation,
            self.stdout,
            self._schedule,
            self._offences,
        )
        handle = self.contexts.add(execution)
        self._graph_of[handle] = graph
        return handle

    def finalize_execution_context(self, context: int) -> None:
        """Close a context and give its handle back."""
        execution = self.contexts[context]
        del self.contexts[context], self._graph_of[context]
        try:
            self._generated = self._sum([execution])
        finally:
            execution.close()

    @property
    def generation(self) -> Generation | None:
        """What the guest's language models did until now; None for a guest without one."""
        return self._sum(self.contexts.values())

    def cancel(self) -> None:
        """Cancel what is under way, and refuse what would come next. Callable from any thread."""
        self._cancellation.requested = True
        self._workers.stop()
        for execution in list(self.contexts.values()):
            execution.cancel()

    def close(self) -> None:
        """Close every context and let go of every graph."""
        self.meter.close()
        # What is in a worker ends with it, and need not be closed first.
        self._workers.close()
        while self.contexts:
            self.contexts.popitem()[1].close()
        while self.graphs:
            self.ledger.close_model(self.graphs.popitem()[1].memory)

    def _sum(self, executions: Iterable[Execution]) -> Generation | None:
        total = self._generated
        for execution in executions:
            generation = execution.generation()
            if generation is not None:
                total = generation.plus(total) if total else generation
        return total

    def _check(self, size: int) -> None:
        self._cancellation.check()
        self.ledger.check(size)

    def _add(self, loaded: LoadedGraph, started: float, size: int, name: str | None = None) -> int:
        # Only now it is known whether the memory is another model's.
        self.ledger.open_model(loaded.memory, size, name)
        seconds = time.perf_counter() - started
        options = loaded.options
        self.opened.append(
            GraphUse(loaded.backend.name, options.encoding, options.target.value, seconds)
        )
        return self.graphs.add(loaded)


def schedule_of(policy: Policy, tenant: str) -> Schedule:
    """How the contexts of a guest are scheduled: as its policy says, for a tenant."""
    return Schedule(tenant, policy.priority or 0, policy.limits.tokens_per_second or 0.0)


def _autodetected(builders: Sequence[Builder], encoding: str | None) -> str:
    if not builders:
        raise InvalidArgument("autodetect needs a graph builder to look at")
    if encoding is None:
        from wasi_nn._models import recognition

        why = recognition.undetected(builders)
        raise InvalidEncoding(f"autodetect does not recognise the model: {why}")
    return encoding
