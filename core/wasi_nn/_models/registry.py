"""Named models: the models that the operator offers to guests.

A guest's ``load_by_name`` reaches only these, and never the file system. A model is loaded when it
is first used, and its files stay paths until a backend opens them.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from wasi_nn import encodings
from wasi_nn._models import digests
from wasi_nn._models.batching import settings as batching
from wasi_nn._models.file_versions import FilesChanged, versions
from wasi_nn._models.isolation import isolation_of, uses_device
from wasi_nn._models.loading import (
    LoadedGraph,
    check_guest_config,
    load,
    load_shared,
)
from wasi_nn._models.shared_worker import readable
from wasi_nn._policy import values
from wasi_nn.backend import Backend, LoadOptions
from wasi_nn.backend.files import Version
from wasi_nn.backend.shared import Stopped, never
from wasi_nn.errors import InvalidArgument, InvalidEncoding, ModelNotFound, NotFound, UsageError
from wasi_nn.escaping import logger, trace_of
from wasi_nn.plugins import Plugins, availability, is_broken
from wasi_nn.policy import Policy
from wasi_nn.runtime import OfferedModel
from wasi_nn.types import ExecutionTarget

if TYPE_CHECKING:
    from wasi_nn._worker.process import Worker

log = logger("wasi_nn")
#: Gives a guest's worker for a named model, which may read some files and folders, and whether it
#: is confined.
WorkerFor = Callable[[Backend, str, Sequence[Path], bool], "Worker"]
#: Gives the model of a name that a registry does not have, or None.
Find = Callable[[str], "NamedModel | None"]


class NamedModel(NamedTuple):
    """A model to register. ``encoding`` is the name of an encoding or a backend, or ``autodetect``.
    ``paths`` are the graph builders in order. A missing file is a ``UsageError``; if ``must_exist``
    is False, the guest gets the error instead (as in WasmEdge). ``isolation`` says where it runs
    and ``digest`` pins its files (see ``Policy``)."""

    name: str
    paths: tuple[Path, ...]
    encoding: str = encodings.AUTODETECT
    target: ExecutionTarget = ExecutionTarget.CPU
    config: Mapping[str, Any] = {}
    isolation: str | None = None
    digest: str | None = None
    must_exist: bool = True


class _Entry:
    __slots__ = ("backend", "encoding", "graph", "graphs", "model")

    def __init__(self, model: NamedModel, backend: Backend, encoding: str) -> None:
        self.model = model
        self.backend = backend
        self.encoding = encoding
        self.graph: LoadedGraph | None = None
        #: All that are in use, of guests' own configs too.
        self.graphs: weakref.WeakSet[LoadedGraph] = weakref.WeakSet()


class Registry:
    """The named models of one host. Thread-safe."""

    def __init__(self, plugins: Plugins, allow_fallback: bool = False) -> None:
        self._plugins = plugins
        self._allow_fallback = allow_fallback
        self._entries: dict[str, _Entry] = {}
        self._lock = threading.Lock()
        self._finding = threading.Lock()
        #: Is asked once for each name that a guest uses and that is not registered.
        self.find: Find | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the models, sorted."""
        return tuple(sorted(self._entries))

    def remove(self, name: str) -> None:
        """Remove a model and free its name. Raises ``NotFound``."""
        with self._lock:
            if self._entries.pop(name, None) is None:
                raise self._not_found(name)

    def add(
        self,
        model: NamedModel,
        replace: bool = False,
        defaults: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Register a model. It is loaded when it is first used. With ``replace``, it takes the name
        from the model that has it. Of ``defaults``, its config gets the keys that its backend lists
        and that it does not have.

        Raises ``UsageError`` if the name is taken, if there is no file, if a file that must exist
        does not, and if no installed backend serves the encoding."""
        if not isinstance(model.name, str) or not model.name:
            raise UsageError(f"a model's name must be a non-empty string (str), not {model.name!r}")
        if not model.paths:
            raise UsageError(f"model {model.name!r} has no file")
        if model.isolation is not None:
            values.isolation(model.isolation)
        if model.digest is not None:
            model = model._replace(digest=values.digest(model.digest))
        try:
            batching.settings_of(model.config)
        except InvalidArgument as error:
            raise UsageError(f"model {model.name!r}: {error}") from error
        try:
            if model.encoding != encodings.AUTODETECT:
                # Check this first: after an unknown encoding, the rest may not be files at all.
                self._plugins.backend_for(model.encoding)
            for path in model.paths:
                if not path.exists():
                    if model.must_exist:
                        raise UsageError(f"model {model.name!r}: there is no file {path}")
                    log.warning(
                        "model %r: there is no file %s; a guest that loads the model gets an error",
                        model.name,
                        path,
                    )
            backend, encoding = self._resolve(model)
        except InvalidEncoding as error:
            raise UsageError(f"model {model.name!r}: {error}") from error
        known = backend.config_keys or ()
        more = {key: value for key, value in defaults.items() if key in known}
        if more:
            model = model._replace(config={**more, **model.config})
        with self._lock:
            if model.name in self._entries and not replace:
                raise UsageError(
                    f"the model name {model.name!r} is given twice "
                    "(in Python, add_model(…, replace=True) replaces a model)"
                )
            self._entries[model.name] = _Entry(model, backend, encoding)

    def graph(
        self,
        name: str,
        config: Mapping[str, Any] | None = None,
        stopped: Stopped = never,
        policy: Policy = Policy(),
        worker_for: WorkerFor | None = None,
    ) -> LoadedGraph:
        """The graph of a named model. It is loaded on first use, and again after one of its files
        has changed, or after its worker has ended.

        ``policy`` says where the model runs, and ``worker_for`` gives the worker of a guest.
        Without it, a model that runs apart for each guest runs in a worker that is shared.
        ``config`` (of ``load_by_name_with_config``) overrides keys of the registered config.
        Another config means another graph, which is freed when its last user ends. Raises
        ``NotFound``, ``ModelNotFound``, ``NotAllowed`` for files of another digest than is pinned,
        ``InvalidArgument`` for a host-only key, and whatever the backend's ``load`` raises."""
        entry = self._entry(name)
        kept, paths, backend = entry.graph, entry.model.paths, entry.backend
        pins = [pin for pin in (entry.model.digest, policy.pins.get(name)) if pin]
        isolation = isolation_of(backend, entry.encoding, policy, name, entry.model.isolation)
        if (
            kept is not None
            and kept.isolation == isolation
            and not kept.lost
            and not config
            and kept.files == versions(backend, paths, kept.options.config)
        ):
            for pin in pins:
                digests.check(kept.files, pin, stopped)
            return kept
        check_guest_config(backend, config or {})
        merged = {**entry.model.config, **(config or {})}
        if isolation == "guest" and batching.KEY in merged:
            raise UsageError(
                f"model {name!r}: config {batching.KEY!r} needs the isolation 'none' or 'shared', "
                "because with 'guest' no two guests compute in the same graph"
            )
        options = LoadOptions(entry.encoding, entry.model.target, merged, self._allow_fallback)
        if isolation == "guest" and worker_for is not None:
            files = versions(backend, paths, options.config)
            for pin in pins:
                digests.check(files, pin, stopped)
            worker = worker_for(
                backend, name, readable(backend, paths, files), not uses_device(options.target)
            )
            graph = load(backend, paths, options, worker, stopped)
            if pins and versions(backend, paths, options.config) != files:
                raise FilesChanged("the files of the model were replaced while it was loaded")
            self._use(entry, graph)
            return graph
        loaded = load_shared(backend, paths, options, stopped, isolation, pins)
        self._use(entry, loaded)
        if not config:
            # This reference keeps the graph loaded between guests.
            entry.graph = loaded
        return loaded

    def loaded(self) -> Mapping[str, Sequence[LoadedGraph]]:
        """The graphs of the models that are loaded, by the models' names. Of those that share their
        memory, there is one."""
        with self._lock:
            graphs = {name: list(entry.graphs) for name, entry in self._entries.items()}
        found = {
            name: [*{id(graph.memory): graph for graph in those if not graph.lost}.values()]
            for name, those in graphs.items()
        }
        return {name: those for name, those in found.items() if those}

    def _use(self, entry: _Entry, graph: LoadedGraph) -> None:
        with self._lock:
            entry.graphs.add(graph)

    def kind(self, name: str) -> tuple[str, ExecutionTarget]:
        """The encoding and the execution target of a named model. Raises ``NotFound``."""
        entry = self._entry(name)
        return entry.encoding, entry.model.target

    def digest(self, name: str) -> str:
        """The digests of all files that a named model depends on, as they are pinned. Raises
        ``NotFound``, ``ModelNotFound`` and ``RuntimeFailure``."""
        return ",".join(digests.of(file) for file in self._files(name))

    def check_digest(self, name: str) -> None:
        """Raise ``NotAllowed`` for a named model whose files have not the digest that it was
        registered with, and what ``digest`` raises."""
        digest = self._entry(name).model.digest
        if digest is not None:
            digests.check(self._files(name), digest, never)

    def _files(self, name: str) -> Sequence[Version]:
        model = self._entry(name).model
        return versions(self._entry(name).backend, model.paths, model.config)

    def _entry(self, name: str) -> _Entry:
        entry = self._entries.get(name)
        if entry is None and self.find is not None:
            with self._finding:
                model = self.find(name) if name not in self._entries else None
                if model is not None:
                    self.add(model)
            entry = self._entries.get(name)
        if entry is None:
            raise self._not_found(name)
        return entry

    def _not_found(self, name: str) -> NotFound:
        known = ", ".join(self.names) or "none"
        return NotFound(
            f"no model is registered as {name!r}; registered: {known}. "
            "Register it with --graph NAME=PATH, wasi-nn models add, or Host.add_model"
        )

    def size(self, name: str, config: Mapping[str, Any] | None = None) -> int:
        """The size in bytes of all files of a named model, with ``config`` over its registered
        config. 0 for an unknown name or a missing file."""
        entry = self._entries.get(name)
        if entry is None:
            return 0
        merged = {**entry.model.config, **(config or {})}
        with suppress(ModelNotFound):
            return sum(file.size for file in versions(entry.backend, entry.model.paths, merged))
        return 0

    def _resolve(self, model: NamedModel) -> tuple[Backend, str]:
        if model.encoding == encodings.AUTODETECT:
            encoding = detect(self._plugins, model.paths)
            if encoding is None:
                from wasi_nn._models import recognition

                hint = f"name it: {model.name}=ENCODING:{model.paths[0]} (from Python, encoding=…)"
                why = recognition.undetected(model.paths, hint)
                raise InvalidEncoding(f"the encoding is not recognised: {why}")
            return self._plugins.backend_for(encoding), encoding
        backend = self._plugins.backend_for(model.encoding)
        if model.encoding in backend.encodings:
            return backend, model.encoding
        sniffed = detect(self._plugins, model.paths)
        return backend, sniffed if sniffed in backend.encodings else backend.encodings[0]

    def offered(self) -> dict[str, OfferedModel]:
        """Every named model, for an engine that computes models itself."""
        return {
            name: OfferedModel(
                entry.encoding, entry.model.paths, entry.model.target, entry.model.config
            )
            for name, entry in list(self._entries.items())
        }

    def missing_libraries(self) -> list[str]:
        """What must be installed before the registered models can be loaded."""
        found = (missing(entry.backend) for entry in list(self._entries.values()))
        return sorted({reason for reason in found if reason})

    def close(self) -> None:
        """Release every loaded model. Those that no guest uses are freed."""
        for entry in list(self._entries.values()):
            entry.graph = None


def detect(plugins: Plugins, builders: Sequence[memoryview | Path]) -> str | None:
    """The encoding that the first builder's bytes show. Core looks first, then each backend."""
    if not builders:
        return None
    first = builders[0]
    if isinstance(first, Path) and first.is_dir():
        return None
    head = encodings.head(first)
    known = encodings.recognise(head)
    if known is not None:
        return known
    for backend in plugins.backends:
        try:
            sniffed = backend.sniff(head)
            if sniffed is not None and sniffed not in backend.encodings:
                raise ValueError(f"sniff returned {sniffed!r}, which is not one of its encodings")
        except (Exception, SystemExit) as error:
            log.error("%s failed to look at a model\n  %s", backend.title, trace_of(error))
            continue
        if sniffed is not None:
            return sniffed
    return None


def missing(backend: Backend) -> str | None:
    """Why a backend's library cannot be used, or None. Imports no library."""
    found = availability(backend)
    if found.usable:
        return None
    return f"{backend.title}: {found.detail}" if is_broken(found) else found.detail
