"""Loaded graphs, and the rule that a model is loaded once per process.

Two guests, threads or hosts that name the same files with the same backend, target and config get
the same graph. The table holds graphs weakly: a graph lives as long as a registry, a handle or a
context holds it, and its backend's ``close`` runs when the last of them lets go.
"""

from __future__ import annotations

import json
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from wasi_nn.backend import Backend, Builder, Graph, LoadOptions
from wasi_nn.errors import ModelNotFound, RuntimeFailure, WasiNnError


class LoadedGraph:
    """A graph, who loaded it, and how long that took."""

    def __init__(
        self, graph: Graph, backend: Backend, options: LoadOptions, seconds: float
    ) -> None:
        self.graph = graph
        self.backend = backend
        self.options = options
        self.seconds = seconds
        #: Held during every call into the graph; a lock where its contexts must take turns.
        self.guard: AbstractContextManager[Any] = (
            nullcontext() if graph.concurrent_contexts else threading.RLock()
        )
        self._finalizer = weakref.finalize(self, graph.close)

    def close(self) -> None:
        """Free the model now; a second call does nothing."""
        self._finalizer()


def load(backend: Backend, builders: Sequence[Builder], options: LoadOptions) -> LoadedGraph:
    """Load a graph for one holder. Whatever the library throws comes out as an ``NnError``."""
    started = time.perf_counter()
    try:
        graph = backend.load(builders, options)
    except WasiNnError:
        raise
    except Exception as error:
        raise RuntimeFailure(f"{backend.name} could not load the model: {error}") from error
    return LoadedGraph(graph, backend, options, time.perf_counter() - started)


class _Table:
    """Graphs of this process by what they were loaded from."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._graphs: weakref.WeakValueDictionary[Hashable, LoadedGraph] = (
            weakref.WeakValueDictionary()
        )
        self._loading: dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable, make: Callable[[], LoadedGraph]) -> LoadedGraph:
        """The graph under ``key``; the first caller makes it while the others wait."""
        with self._lock:
            found = self._graphs.get(key)
            if found is not None:
                return found
            turn = self._loading.setdefault(key, threading.Lock())
        with turn:
            with self._lock:
                found = self._graphs.get(key)
            if found is not None:
                return found
            try:
                found = make()
                with self._lock:
                    self._graphs[key] = found
            finally:
                with self._lock:
                    self._loading.pop(key, None)
            return found


_PROCESS = _Table()


def load_shared(backend: Backend, paths: Sequence[Path], options: LoadOptions) -> LoadedGraph:
    """Load a model of files, or take the one that this process already has.

    A file that changed on disk is another model. Raises ``ModelNotFound`` for a missing file."""
    key = (
        f"{type(backend).__module__}.{type(backend).__qualname__}",
        tuple(_identity(path) for path in paths),
        options.encoding,
        options.target,
        json.dumps(options.config, sort_keys=True),
        options.allow_fallback,
    )
    return _PROCESS.get(key, lambda: load(backend, paths, options))


def _identity(path: Path) -> tuple[str, int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise ModelNotFound(f"model file {path}: {error.strerror or error}") from error
    return str(path.resolve()), status.st_mtime_ns, status.st_size
