"""Loaded graphs, and the rule that a model is loaded once per process.

Guests, threads and hosts that name the same files with the same backend, target and config get the
same graph, unless one of the model's files has changed. A graph lives as long as a registry, a
handle or a context holds it. Its ``close`` runs when the last of them lets go.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wasi_nn._models import digests
from wasi_nn._models.batching import settings as batching
from wasi_nn._models.checks import (
    Blame,
    Outputs,
    as_json,
    checked_choices,
    checked_context,
    checked_flag,
    checked_graph,
    checked_infos,
    checked_statistics,
)
from wasi_nn._models.file_versions import FilesChanged, versions
from wasi_nn._models.shared_worker import kind_of, shared_worker
from wasi_nn._process.fork import keep, refusal, use
from wasi_nn._scope import observed
from wasi_nn._worker.endings import WorkerEnded
from wasi_nn._worker.offences import Offences
from wasi_nn.backend import (
    Backend,
    Builder,
    ExecutionContext,
    Graph,
    LoadOptions,
    Reserve,
    Schedule,
)
from wasi_nn.backend.config import check_host_only, known_config
from wasi_nn.backend.files import Version
from wasi_nn.backend.shared import Lock, MadeOnce, Stopped, never
from wasi_nn.errors import (
    InvalidEncoding,
    NnError,
    RuntimeFailure,
    Unavailable,
    UsageError,
)
from wasi_nn.escaping import logger
from wasi_nn.plugins import availability
from wasi_nn.types import TensorInfo

if TYPE_CHECKING:
    from wasi_nn._worker.process import Worker
    from wasi_nn._worker.remote import RemoteGraph, Restart

log = logger("wasi_nn")

# Characters that are kept of a library's reason for a path that it cannot open.
_MAX_REASON = 80
# A model is loaded again this often if its files change meanwhile.
_MAX_LOADS = 3


class guest_facing_errors:
    """A block that turns the operator's mistakes into errors of the guest: a missing library means
    that the encoding is not served."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Unavailable):
            raise InvalidEncoding(str(error)) from error
        if isinstance(error, UsageError):
            raise RuntimeFailure(str(error)) from error


class _Refusal(Blame):
    """The blame and the lock of a graph that belongs to the parent process. It lets nobody call
    into the backend."""

    __slots__ = ()

    def __enter__(self) -> None:
        raise refusal(f"a model of {self._backend.title}")

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        raise refusal(f"a model of {self._backend.title}")

    def release(self) -> None:
        """Nothing: nobody can acquire it."""


class LoadedGraph:
    """A graph, who loaded it, and how long that took."""

    def __init__(
        self,
        graph: Graph,
        backend: Backend,
        options: LoadOptions,
        seconds: float,
        home: RemoteGraph | None = None,
    ) -> None:
        self.graph = graph
        #: The graph in a worker that this is, or stands in front of; None in the host's process.
        self.home = home
        # Not at the end of the program: its threads may still be in the library.
        weakref.finalize(self, graph.close).atexit = False
        #: A block of calls into the backend.
        self.blame = Blame(backend)
        with self.blame:
            shared = graph.shared_memory
            self.untyped_bytes = checked_flag("untyped_bytes", graph.untyped_bytes)
            #: Whether several guests' inputs can be computed in one context.
            self.stateless = checked_flag("stateless", graph.stateless)
            concurrent = checked_flag("concurrent_contexts", graph.concurrent_contexts)
            #: The values that keys of the config select from, by key.
            self.choices = checked_choices(graph.choices)
        #: What takes the model's memory: several graphs may share it.
        self.memory: object = graph if shared is None else shared
        #: Acquired for each call into a context, if contexts must run one at a time.
        #: (Only the thread that has acquired an RLock can release it.)
        self.lock: Lock | None = None if concurrent else threading.RLock()
        #: Checks the outputs of the graph's contexts.
        self.checked = Outputs(graph)
        self.backend = backend
        self.options = options
        self.seconds = seconds
        #: The versions of all files that it was loaded from; none for a model of bytes.
        self.files: tuple[Version, ...] = ()
        #: Whether a child process can use it, or load it again.
        self.survives_fork = backend.survives_fork or home is not None
        if not self.survives_fork:
            keep(self)

    @property
    def worker(self) -> Worker | None:
        """The process that the graph lives in now; None for the host's own."""
        return None if self.home is None else self.home.worker

    @property
    def isolation(self) -> str:
        """Where it runs (see ``Policy``)."""
        if self.worker is None:
            return "none"
        return "guest" if self.worker.private else "shared"

    @property
    def lost(self) -> bool:
        """Whether its process has ended, and no other one can take its place."""
        return self.home is not None and self.home.lost

    def statistics(self) -> Mapping[str, float]:
        """What the graph counts of its work. A backend's failure is logged, and then it is
        empty."""
        if self.lost:
            return {}
        try:
            with self.blame:
                return checked_statistics(self.graph.statistics())
        except NnError as error:
            log.warning("%s does not count: %s", self.backend.title, error)
            return {}

    def forked(self) -> None:
        """This is a child process now, and the graph is the parent's."""
        self.lock = self.blame = _Refusal(self.backend)

    def open_context(
        self, reserve: Reserve, stopped: Stopped, schedule: Schedule, by: Offences | None = None
    ) -> ExecutionContext:
        """Open a context, for the guest with the offences ``by``. Raises what the backend raises;
        in a worker, ``RuntimeFailure`` once ``stopped`` says so, and then its inputs can be set no
        more."""
        if self.home is not None and self.graph is self.home:
            return self.home.init_execution_context(reserve, stopped, schedule, by)
        context = checked_context(self.graph.init_execution_context(reserve))
        context.schedule = schedule
        return context

    @property
    def inputs(self) -> Sequence[TensorInfo]:
        """The graph's description of its inputs. Raises ``RuntimeFailure`` if the backend fails."""
        with self.blame:
            return checked_infos("inputs", self.graph.inputs)

    @property
    def outputs(self) -> Sequence[TensorInfo]:
        """The graph's description of its outputs. Raises the same."""
        with self.blame:
            return checked_infos("outputs", self.graph.outputs)


def check_guest_config(backend: Backend, config: Mapping[str, Any]) -> None:
    """Raise ``InvalidArgument`` for a guest's config with a key that only the operator may set."""
    check_host_only(config, backend.host_only_keys | {batching.KEY})


def load(
    backend: Backend,
    builders: Sequence[Builder],
    options: LoadOptions,
    worker: Worker | None = None,
    stopped: Stopped = never,
    restart: Restart | None = None,
) -> LoadedGraph:
    """Load a graph, in a worker or in this process. What the library raises becomes an ``NnError``.
    If the worker dies, ``restart`` gives the next one.

    Every model reaches its library here, and nowhere else."""
    with observed("load", _title(builders, options)):
        return _load(backend, builders, options, worker, stopped, restart)


def _title(builders: Sequence[Builder], options: LoadOptions) -> str:
    for first in builders:
        if isinstance(first, Path):
            return first.name
        return f"{options.encoding} of {len(first)} bytes"
    return options.encoding


def _load(
    backend: Backend,
    builders: Sequence[Builder],
    options: LoadOptions,
    worker: Worker | None,
    stopped: Stopped,
    restart: Restart | None,
) -> LoadedGraph:
    started = time.perf_counter()
    if worker is None:
        _use(backend)
    options = options._replace(config=known_config(backend, options.config))
    home: RemoteGraph | None = None
    try:
        if worker is None:
            found = availability(backend)
            if not found.usable:
                raise Unavailable(found.detail)
            graph = checked_graph(backend, builders, options)
        else:
            from wasi_nn._worker.remote import RemoteGraph

            with Blame(backend):
                graph = home = RemoteGraph(worker, builders, options, stopped, restart)
    except RuntimeFailure as error:
        kind = WorkerEnded if isinstance(error, WorkerEnded) else RuntimeFailure
        raise kind(_explained(builders, backend, options, str(error))) from error
    return LoadedGraph(graph, backend, options, time.perf_counter() - started, home)


def _explained(
    builders: Sequence[Builder], backend: Backend, options: LoadOptions, reason: str
) -> str:
    """Why a backend refused a model, after what is known about the files."""
    from wasi_nn._models import recognition

    paths = [builder for builder in builders if isinstance(builder, Path)]
    parts: Sequence[Builder] = builders
    if paths and len(paths) == len(builders):
        # A backend that fails here has failed with the same question before.
        with suppress(Exception):
            parts = backend.files(paths, options.config)
    what = recognition.model(parts, backend.encodings)
    for path in paths:
        if what is None and not _is_utf8(path):
            what = f"the path {path} is not UTF-8, which not every library opens: rename it"
            # For such a path, some libraries list the signatures of all their functions.
            reason = reason[:_MAX_REASON]
    return reason if what is None else f"{what}. The backend says: {reason}"


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _use(backend: Backend) -> None:
    if not backend.survives_fork:
        use(backend.title)


def batched(
    loaded: LoadedGraph, settings: batching.Settings | None, stopped: Stopped = never
) -> LoadedGraph:
    """The graph whose contexts are batched over ``loaded``, the same one for all who ask for the
    same; ``loaded`` itself without settings. Raises ``InvalidArgument`` if it cannot be batched."""
    if settings is None:
        return loaded

    def make() -> LoadedGraph:
        from wasi_nn._models.batching.graph import BatchingGraph

        with loaded.blame:
            graph = BatchingGraph(loaded, settings)
        found = LoadedGraph(graph, loaded.backend, loaded.options, loaded.seconds, loaded.home)
        found.files = loaded.files
        if found.survives_fork:
            # Its queue has threads of the parent.
            found.survives_fork = False
            keep(found)
        return found

    return _batched.get((loaded, settings), make, stopped)


_loaded: MadeOnce[LoadedGraph] = MadeOnce()
_batched: MadeOnce[LoadedGraph] = MadeOnce()


def load_shared(
    backend: Backend,
    paths: Sequence[Path],
    options: LoadOptions,
    stopped: Stopped,
    isolation: str,
    pins: Sequence[str] = (),
) -> LoadedGraph:
    """Load a model of files, or return the one that is loaded already. With an ``isolation`` other
    than ``"none"``, it runs in a worker.

    If one of the files has changed, it is another model. Raises ``NotAllowed`` for files whose
    digests are not those of each of ``pins``, ``ModelNotFound`` for a missing file,
    ``InvalidArgument`` for a config that is not made of JSON's types and for a graph that cannot be
    batched, and ``RuntimeFailure`` for files that change each time."""
    in_worker = isolation != "none"
    if not in_worker:
        _use(backend)
    batch = batching.settings_of(options.config)
    config = known_config(backend, batching.without(options.config))
    settings = as_json(config) if config else ""
    options = options._replace(config=config)

    def make(files: tuple[Version, ...]) -> LoadedGraph:
        def same() -> bool:
            return versions(backend, paths, config) == files

        def worker(stopped: Stopped) -> Worker:
            if not same():
                raise FilesChanged("the model's files have changed since")
            return shared_worker(backend, paths, files, options.target, stopped)

        # The files may change while this thread waits for another one, and during the load.
        if same():
            try:
                if not in_worker:
                    loaded = load(backend, paths, options)
                else:
                    model = backend, paths, options
                    try:
                        loaded = load(*model, worker(stopped), stopped, worker)
                    except WorkerEnded:
                        # Another guest may have ended it.
                        loaded = load(*model, worker(stopped), stopped, worker)
            except RuntimeFailure:
                if same():
                    raise
            else:
                loaded.files = files
                if same():
                    return loaded
        raise FilesChanged("the files were replaced while the model was loaded")

    for _ in range(_MAX_LOADS):
        files = versions(backend, paths, config)
        key = (
            kind_of(backend),
            in_worker,
            files,
            options.encoding,
            options.target,
            settings,
            options.allow_fallback,
        )
        with suppress(FilesChanged):
            for pin in pins:
                digests.check(files, pin, stopped)
            made = _loaded.get(key, partial(make, files), stopped, lambda loaded: not loaded.lost)
            return batched(made, batch, stopped)
    raise RuntimeFailure(
        f"the files of {', '.join(map(str, paths))} changed each of the {_MAX_LOADS} times that "
        "the model was loaded: load it when they are written, or put new files in their place with "
        "a rename"
    )
