"""Named models: what the person offers to guests under a name.

A guest's ``load_by_name`` reaches these and nothing else; it never reaches the file system. Files
stay paths until a backend opens them, and nothing is loaded before it is first used.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from wasi_nn import encodings
from wasi_nn._models.loading import LoadedGraph, Stopped, check_guest_config, load_shared
from wasi_nn.backend import Backend, LoadOptions
from wasi_nn.backend.files import versions
from wasi_nn.errors import InvalidEncoding, ModelNotFound, NotFound, UsageError
from wasi_nn.escaping import logger, trace_of
from wasi_nn.plugins import Plugins, reason_missing
from wasi_nn.types import ExecutionTarget

log = logger("wasi_nn")


class NamedModel(NamedTuple):
    """One entry: ``encoding`` is an encoding's or a backend's name, ``autodetect`` to look at the
    file. ``paths`` are the graph builders in their order. A file that is not there is the person's
    mistake, or with ``must_exist`` False something that a guest is told (WasmEdge's way)."""

    name: str
    paths: tuple[Path, ...]
    encoding: str = encodings.AUTODETECT
    target: ExecutionTarget = ExecutionTarget.CPU
    config: Mapping[str, Any] = {}
    must_exist: bool = True


class _Entry:
    __slots__ = ("backend", "encoding", "held", "model")

    def __init__(self, model: NamedModel, backend: Backend, encoding: str) -> None:
        self.model = model
        self.backend = backend
        self.encoding = encoding
        self.held: LoadedGraph | None = None


class Registry:
    """The named models of one host. Thread-safe."""

    def __init__(self, plugins: Plugins, allow_fallback: bool = False) -> None:
        self._plugins = plugins
        self._allow_fallback = allow_fallback
        self._entries: dict[str, _Entry] = {}
        self._lock = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the models, sorted."""
        return tuple(sorted(self._entries))

    def remove(self, name: str) -> None:
        """Let go of a model and its name. Raises ``NotFound``."""
        with self._lock:
            if self._entries.pop(name, None) is None:
                raise self._not_found(name)

    def add(self, model: NamedModel, replace: bool = False) -> None:
        """Register a model, to be loaded when it is first used. ``replace`` takes the name from
        the model that has it.

        Raises ``UsageError`` for a name that is taken, for no file at all, for a file that is not
        there and must exist, and for an encoding that no installed backend serves."""
        if not isinstance(model.name, str) or not model.name:
            raise UsageError(
                f"a model's name is {model.name!r}, and must be a text (str) that is not empty"
            )
        if not model.paths:
            raise UsageError(f"model {model.name!r} has no file")
        try:
            if model.encoding != encodings.AUTODETECT:
                # What follows an encoding that nobody serves may not be files.
                self._plugins.backend_for(model.encoding)
            for path in model.paths:
                if not path.exists():
                    if model.must_exist:
                        raise UsageError(f"model {model.name!r}: there is no file {path}")
                    log.warning(
                        "model %r: there is no file %s; a guest is told so when it loads the model",
                        model.name,
                        path,
                    )
            backend, encoding = self._resolve(model)
        except InvalidEncoding as error:
            raise UsageError(f"model {model.name!r}: {error}") from error
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
        stopped: Stopped = lambda: False,
    ) -> LoadedGraph:
        """The graph of a named model, loaded on first use and when one of its files has changed.

        ``config`` (of ``load_by_name_with_config``) is laid over the registration's own: another
        config is another graph, and is freed when the guest that asked for it has ended. Raises
        ``NotFound``, ``ModelNotFound``, ``InvalidArgument`` for a key that is the person's alone,
        and what a backend's ``load`` raises."""
        entry = self._entries.get(name)
        if entry is None:
            raise self._not_found(name)
        held, paths = entry.held, entry.model.paths
        if (
            held is not None
            and not config
            and held.files == versions(entry.backend, paths, held.options.config)
        ):
            return held
        check_guest_config(entry.backend, config or {})
        merged = {**entry.model.config, **(config or {})}
        options = LoadOptions(entry.encoding, entry.model.target, merged, self._allow_fallback)
        loaded = load_shared(entry.backend, paths, options, stopped)
        if not config:
            # Holding it here keeps it loaded from one guest to the next.
            entry.held = loaded
        return loaded

    def _not_found(self, name: str) -> NotFound:
        known = ", ".join(self.names) or "none"
        return NotFound(
            f"no model is registered as {name!r}; registered: {known}. "
            "Register it with --graph NAME=PATH, or with Host.add_model"
        )

    def size(self, name: str, config: Mapping[str, Any] | None = None) -> int:
        """Bytes of all files that a named model depends on, with a guest's config laid over its
        own; 0 for an unknown name and for a file that is gone."""
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

    def missing_libraries(self) -> list[str]:
        """What must be installed before the registered models can be loaded."""
        found = (missing(entry.backend) for entry in list(self._entries.values()))
        return sorted({reason for reason in found if reason})

    def close(self) -> None:
        """Let go of every loaded model; those that no guest uses are freed."""
        for entry in list(self._entries.values()):
            entry.held = None


def detect(plugins: Plugins, builders: Sequence[memoryview | Path]) -> str | None:
    """The encoding that the builders' first bytes show, asking core first and then each backend."""
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
                raise ValueError(f"sniff gave {sniffed!r}, which is not one of its encodings")
        except (Exception, SystemExit) as error:
            log.error("%s failed to look at a model\n  %s", backend.title, trace_of(error))
            continue
        if sniffed is not None:
            return sniffed
    return None


def missing(backend: Backend) -> str | None:
    """Why a backend's library cannot be used, or None; a backend that fails at that is broken."""
    try:
        return reason_missing(backend)
    except UsageError as error:
        return f"{backend.title} is broken: {error}"
    except (Exception, SystemExit) as error:
        return f"{backend.title} is broken: {type(error).__name__}: {error}"
