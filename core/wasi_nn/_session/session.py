"""A session: the graphs and execution contexts of one guest, under the handles that it was given.

Handles start at 0, grow, and are never reused. A context keeps its graph alive: after ``unload``
the outputs of a live context can still be read (WasmEdge's plugins/wasi_nn/DESIGN.md, "drain after
unload"), while ``init_execution_context``, ``set_input`` and ``compute`` on that graph are refused.

A session is used by one thread at a time, as its guest is. Every method raises ``NnError`` and
nothing else that a guest could have caused.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from wasi_nn._models import loading
from wasi_nn._models.checks import checked_context
from wasi_nn._models.loading import LoadedGraph
from wasi_nn._models.registry import Registry, detect
from wasi_nn._session.context import ContextEntry
from wasi_nn._session.ledger import Ledger, Reservation
from wasi_nn.backend import (
    Builder,
    Generation,
    LoadOptions,
)
from wasi_nn.encodings import AUTODETECT
from wasi_nn.errors import (
    InvalidArgument,
    InvalidEncoding,
    RuntimeFailure,
)
from wasi_nn.escaping import logger, trace_of
from wasi_nn.limits import Limits
from wasi_nn.plugins import Plugins
from wasi_nn.types import ExecutionTarget, Tensor

log = logger("wasi_nn")


class GraphUse(NamedTuple):
    """A graph that a guest opened, and the seconds that this took: a graph that was loaded already
    costs next to none."""

    backend: str
    encoding: str
    target: str
    seconds: float


class Session:
    """One guest's tables. ``close`` frees everything that the guest left behind."""

    def __init__(
        self,
        plugins: Plugins,
        registry: Registry,
        limits: Limits = Limits(),
        allow_fallback: bool = False,
    ) -> None:
        self.plugins = plugins
        self._registry = registry
        self._limits = limits
        self._allow_fallback = allow_fallback
        self._graphs: dict[int, LoadedGraph] = {}
        self._cancelled = False
        self.ledger = Ledger(limits)
        self._contexts: dict[int, ContextEntry] = {}
        self._next_graph = 0
        self._next_context = 0
        #: The latest graphs that the guest opened.
        self.opened: deque[GraphUse] = deque(maxlen=100)
        self._generated: Generation | None = None

    # Graphs

    def load(
        self,
        builders: Sequence[Builder],
        encoding: str,
        target: ExecutionTarget,
        config: Mapping[str, Any] | None = None,
    ) -> int:
        """Load a graph from the guest's own bytes and give its handle. ``autodetect`` looks at
        the first builder."""
        self._check_room(self._graphs, self._limits.graphs, "graphs")
        if encoding == AUTODETECT:
            if not builders:
                raise InvalidArgument("autodetect needs a graph builder to look at")
            detected = detect(self.plugins, builders)
            if detected is None:
                from wasi_nn._models import recognition

                why = recognition.undetected(builders)
                raise InvalidEncoding(f"autodetect does not recognise the model: {why}")
            encoding = detected
        options = LoadOptions(encoding, target, config or {}, self._allow_fallback)
        size = sum(len(builder) for builder in builders if isinstance(builder, memoryview))
        self._check_held(size)
        started = time.perf_counter()
        with loading.guest_facing_errors():
            backend = self.plugins.backend_for(encoding)
            loading.check_guest_config(backend, options.config)
            return self._keep(loading.load(backend, builders, options), started, size)

    def load_by_name(self, name: str, config: Mapping[str, Any] | None = None) -> int:
        """Open a graph of the registry and give a new handle to it.

        A config of the guest's own can be a model of its own, and so can the files that replaced
        those of the name. The operator offered one of each name; every other that the guest holds
        and that shares no memory with it counts."""
        self._check_room(self._graphs, self._limits.graphs, "graphs")
        self._check_held(0)
        started = time.perf_counter()
        with loading.guest_facing_errors():
            loaded = self._registry.graph(name, config, self._is_cancelled)
        size = 0
        if self.ledger.is_further(loaded.memory, name):
            size = self._registry.size(name, config)
        return self._keep(loaded, started, size, name)

    def unload(self, graph: int) -> None:
        """Give a graph's handle back. Live contexts can still be drained."""
        loaded = self.graph(graph)
        del self._graphs[graph]
        self.ledger.close_model(loaded.memory)
        for entry in self._contexts.values():
            if entry.graph_handle == graph:
                entry.unloaded = True

    def graph(self, handle: int) -> LoadedGraph:
        """The graph under a handle."""
        try:
            return self._graphs[handle]
        except KeyError:
            raise InvalidArgument(f"there is no graph with handle {handle}") from None

    # Execution contexts

    def init_execution_context(self, graph: int) -> int:
        """Open a context of a graph and give its handle."""
        loaded = self.graph(graph)
        self._check_room(self._contexts, self._limits.contexts, "execution contexts")
        self._check_held(0)
        turn = loaded.turn(self._is_cancelled)
        reservation = Reservation(self.ledger)
        try:
            with turn:
                context = checked_context(loaded.graph.init_execution_context(reservation.reserve))
        except BaseException:
            reservation.release()
            raise
        handle = self._next_context
        self._next_context += 1
        self._contexts[handle] = ContextEntry(context, loaded, graph, turn, reservation)
        # A context keeps its graph, and so the model, after an unload.
        self.ledger.open_model(loaded.memory, 0)
        return handle

    def finalize_execution_context(self, context: int) -> None:
        """Close a context and give its handle back."""
        entry = self.context(context)
        del self._contexts[context]
        self._generated = self._sum([entry])
        entry.close()
        entry.reservation.release()
        self.ledger.close_model(entry.loaded.memory)

    def context(self, handle: int) -> ContextEntry:
        """The open context under a handle."""
        try:
            return self._contexts[handle]
        except KeyError:
            raise InvalidArgument(f"there is no execution context with handle {handle}") from None

    @property
    def generation(self) -> Generation | None:
        """What the guest's language models did until now; None for a guest without one."""
        return self._sum(self._contexts.values())

    def _sum(self, entries: Iterable[ContextEntry]) -> Generation | None:
        total = self._generated
        for entry in entries:
            generation = entry.context.generation()
            if generation is not None:
                total = generation.plus(total) if total else generation
        return total

    def set_input(self, context: int, key: int | str, tensor: Tensor) -> None:
        """Set an input; the tensor's bytes are copied before this returns."""
        entry = self._loaded_context(context)
        size = len(tensor.data)
        known = entry.held.get(key, 0)
        if size > known:
            self._check_held(size - known)
        with entry.turn:
            entry.context.set_input(key, tensor)
        if size > known:
            entry.held[key] = size
            entry.reservation.add(size - known)

    def compute(self, context: int) -> None:
        """Run the graph on the inputs that are set."""
        entry = self._loaded_context(context)
        with entry.turn:
            entry.context.compute()

    def get_output(self, context: int, key: int | str) -> Tensor:
        """An output of the last compute, valid until the next call on the context."""
        entry = self.context(context)
        with entry.turn:
            output = entry.context.get_output(key)
            # What `check` would do first, without the call, which would cost as much again.
            try:
                kind, dims, size = entry.looks[key]
                data = output.data
                same = output.dims == dims and output.type is kind
                if same and data.nbytes == size == len(data) and data.c_contiguous:
                    return output
            except (KeyError, AttributeError, TypeError):
                pass
            entry.loaded.checked.check(key, output)
            return output

    def compute_single(self, context: int) -> None:
        """Produce the next piece of a streamed output."""
        entry = self._loaded_context(context)
        stream = entry.stream()
        with entry.turn:
            stream.compute_single()

    def get_output_single(self, context: int, key: int | str) -> Tensor:
        """The newest piece of a streamed output."""
        entry = self.context(context)
        stream = entry.stream()
        with entry.turn:
            output = stream.get_output_single(key)
            entry.loaded.checked.check(key, output)
            return output

    def fini_single(self, context: int) -> None:
        """End a stream, early or not."""
        entry = self.context(context)
        stream = entry.stream()
        with entry.turn:
            stream.fini_single()

    def cancel(self) -> None:
        """Cancel what is under way, and refuse what would come next. Callable from any thread."""
        self._cancelled = True
        for entry in list(self._contexts.values()):
            # One that cannot be cancelled does not keep the others going.
            try:
                entry.context.cancel()
            except Exception as error:
                log.error("%s failed to cancel\n  %s", entry.loaded.backend.title, trace_of(error))

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every context and let go of every graph."""
        while self._contexts:
            self._contexts.popitem()[1].close()
        self._graphs.clear()

    def _is_cancelled(self) -> bool:
        return self._cancelled

    def _check_held(self, more: int) -> None:
        if self._cancelled:
            raise RuntimeFailure("the guest is being stopped")
        self.ledger.check(more)

    def _loaded_context(self, handle: int) -> ContextEntry:
        if self._cancelled:
            raise RuntimeFailure("the guest is being stopped")
        entry = self._contexts.get(handle)
        if entry is None:
            raise InvalidArgument(f"there is no execution context with handle {handle}")
        if entry.unloaded:
            raise InvalidArgument(
                f"the graph of execution context {handle} was unloaded: its outputs can be read, "
                "and nothing else"
            )
        return entry

    def _keep(self, loaded: LoadedGraph, started: float, size: int, name: str | None = None) -> int:
        # Whether the model is another's was not known before.
        self.ledger.open_model(loaded.memory, size, name)
        handle = self._next_graph
        self._next_graph += 1
        self._graphs[handle] = loaded
        options = loaded.options
        seconds = time.perf_counter() - started
        self.opened.append(
            GraphUse(loaded.backend.name, options.encoding, str(options.target), seconds)
        )
        return handle

    @staticmethod
    def _check_room(table: Mapping[int, Any], most: int, what: str) -> None:
        if len(table) >= most:
            raise RuntimeFailure(f"the guest already holds {most} {what}, the most that it may")
