"""This project's own host, on each of its runtimes."""

from __future__ import annotations

import contextlib
import logging
from functools import cached_property
from pathlib import Path

from wasi_nn import Host, Policy, __version__
from wasi_nn._host.program import Program
from wasi_nn.errors import UsageError, WasiNnError
from wasi_nn.limits import Limits
from wasi_nn.plugins import Plugins
from wasi_nn.runtime import Preopen
from wasi_nn.runtime.name import RuntimeName
from wasi_nn_conformance.dialects import DIALECTS, WIT
from wasi_nn_conformance.graphs import SUFFIXES, GraphSet
from wasi_nn_conformance.hosts import HostUnderTest, Job, Subject
from wasi_nn_conformance.script import MOUNT, Unsupported
from wasi_nn_conformance.transcript import Ending

# More than any case takes.
_MOST_MEMORY = 1 << 30
_LOOPBACK = Policy(
    listen=("127.0.0.1:*", "[::1]:*"), connect=("127.0.0.1:*", "[::1]:*", "localhost:*")
)


class OwnHost(HostUnderTest):
    """wasi-nn with one runtime. ``plugins`` are the installed ones by default; an author
    can give others."""

    def __init__(self, runtime: str, plugins: Plugins | None = None) -> None:
        self.name = runtime
        self._given = plugins

    @cached_property
    def _plugins(self) -> Plugins:
        return self._given or Plugins.installed()

    @cached_property
    def _own_encodings(self) -> frozenset[str]:
        """What the engine computes itself."""
        name = RuntimeName.parse(self.name).plugin
        found = (each for each in self._plugins.runtimes if each.name == name)
        return next((runtime.own_encodings for runtime in found), frozenset())

    @property
    def by_default(self) -> bool:
        return not self._own_encodings

    def unavailable(self) -> str | None:
        try:
            found = self._plugins.runtime(self.name).availability()
        except UsageError as error:
            return str(error)
        return None if found.usable else found.detail

    def version(self) -> str:
        return f"{self._plugins.runtime(self.name).availability().detail}, wasi-nn {__version__}"

    def encodings(self) -> frozenset[str]:
        return self._own_encodings or frozenset(
            encoding
            for backend in self._plugins.backends
            if backend.availability().usable
            for encoding in backend.encodings
        )

    def speaks(self) -> frozenset[str]:
        return self._own_encodings or frozenset(SUFFIXES)

    def dialects(self) -> frozenset[str]:
        # Also of an engine that is not there, whose cells say so.
        components = self.unavailable() is None and (
            self._plugins.runtime(self.name).features.components
        )
        return frozenset((*DIALECTS, WIT.name) if components else DIALECTS)

    def subject(self, graphs: GraphSet, dialect: str) -> Subject:
        policy = Policy(own_models=True)
        host = Host(plugins=self._plugins, runtime=self.name, policy=policy)
        return _Guests(host, graphs, dialect)


class _Guests(Subject):
    def __init__(self, host: Host, graphs: GraphSet, dialect: str) -> None:
        self._host = host
        self._graphs = graphs
        self._dialect = dialect
        self._programs: dict[Path, Program] = {}
        self._named: set[str] = set()
        for name, files in graphs.files.items():
            self._add(name, files, graphs)

    def _add(self, name: str, files: tuple[Path, ...], graphs: GraphSet) -> None:
        self._host.add_model(name, *files, encoding=graphs.encoding, config=dict(graphs.config))
        self._named.add(name)

    def run(self, job: Job) -> Ending:
        for name, graph in job.models.items():
            if name not in self._named:
                config = {**self._graphs.config, **job.configs.get(name, {})}
                self._add(name, self._graphs.files[graph], self._graphs._replace(config=config))
        program = self._programs.get(job.module)
        if program is None:
            program = self._programs[job.module] = self._host.compile(job.module)
        features = self._host.runtime.features
        limits = Limits(
            timeout=job.seconds if features.interrupt else None,
            memory=_MOST_MEMORY if features.memory_limit else None,
        )
        # A runtime may refuse directories. Then only the cases that open files cannot run. One with
        # a wasi-nn of its own may lack more.
        own = bool(self._host.runtime.own_encodings)
        opens_files = MOUNT in "".join(job.args) or MOUNT.encode() in job.stdin
        try:
            with _quiet():
                result = program.run(
                    list(job.args),
                    stdin=job.stdin,
                    dirs=[Preopen(self._graphs.folder, MOUNT, not own)] if opens_files else [],
                    dialect=self._dialect,
                    policy=_LOOPBACK if job.network else None,
                    limits=limits,
                )
        except UsageError as refused:
            if own:
                raise Unsupported(str(refused)) from None
            if not opens_files:
                raise
            raise Unsupported(f"the guest opens files: {refused}") from None
        reasons = [str(failure) for failure in result.failures]
        ended = [] if result.error is None else [str(result.error)]
        errors = result.stderr.decode("utf-8", "replace").splitlines()
        return Ending(result.stdout, result.exit_code, "\n".join([*reasons, *errors, *ended]))

    def close(self) -> None:
        self._host.close()


class _quiet(contextlib.ContextDecorator):
    """Cases make mistakes on purpose: their reasons come out in the results."""

    def __enter__(self) -> None:
        self._level = logging.getLogger("wasi_nn").level
        logging.getLogger("wasi_nn").setLevel(logging.CRITICAL)

    def __exit__(self, *exception: object) -> None:
        logging.getLogger("wasi_nn").setLevel(self._level)


def own_hosts() -> list[HostUnderTest]:
    """An entry for each installed runtime plugin, usable or not."""
    try:
        return [OwnHost(runtime.name) for runtime in Plugins.installed().runtimes]
    except WasiNnError:
        return []


def elsewhere(name: str) -> OwnHost | None:
    """The host for RUNTIME@PYTHON, if there is such a runtime."""
    wanted = RuntimeName.parse(name)
    known = {host.name for host in own_hosts()}
    return OwnHost(name) if wanted.python is not None and wanted.plugin in known else None
