"""The host: plugins, named models and limits, and the guests that use them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Union

from wasi_nn import encodings
from wasi_nn._closing import Closing
from wasi_nn._host.binary import linkable, named, read_guest
from wasi_nn._host.compiling import Code
from wasi_nn._host.guest import Guest, in_guest
from wasi_nn._host.limit_policy import enforcing, laid_over, policy_of_host
from wasi_nn._host.program import Program
from wasi_nn._host.statistics import RunCounts, Statistics
from wasi_nn._host.under_way import UnderWay
from wasi_nn._models import loading
from wasi_nn._models.batching import settings as batching
from wasi_nn._models.isolation import isolation_of
from wasi_nn._models.registry import NamedModel, Registry, detect
from wasi_nn._models.spec import local_files, resolve_path
from wasi_nn._policy import values
from wasi_nn._policy.values import target as target_of
from wasi_nn._process.fork import OfOneProcess, keep, use
from wasi_nn._process.signals import attend_or_leave
from wasi_nn._scope import Entered, Scope
from wasi_nn._session.session import Session, schedule_of
from wasi_nn._session.workers import HostWorkers
from wasi_nn.backend import LoadOptions
from wasi_nn.backend.shared import never
from wasi_nn.errors import InvalidEncoding, UsageError
from wasi_nn.limits import Limits
from wasi_nn.observer import Observer
from wasi_nn.plugins import Plugins
from wasi_nn.policy import Policy
from wasi_nn.runtime import EngineLimits, HostFunction, Runtime, WasiConfig
from wasi_nn.runtime.name import RuntimeName
from wasi_nn.types import ExecutionTarget
from wasi_nn.wasm import module as wasm_module

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from wasi_nn._host.asynchronous import AsyncRuns
    from wasi_nn._host.many import Runs
    from wasi_nn._host.model import Model
    from wasi_nn._host.options import GuestOptions, Input, RunOptions
    from wasi_nn._host.result import RunResult

#: A path (also ``package:PKG/FILE``) or the bytes themselves.
Source = Union[str, Path, bytes, bytearray, memoryview]

T = TypeVar("T")
_BYTES = (bytes, bytearray, memoryview)


class Host(OfOneProcess, Closing):
    """Runs guests and models. Thread-safe: any number of threads may run guests of one host.

    ``runtime`` names a runtime; by default, the first one whose engine is installed. With
    ``NAME@PYTHON``, each guest has a process of another Python, and with ``NAME@`` one of this
    Python (see ``RuntimeName``). ``policy`` says what every guest may do, and how much of it;
    without one, guests may use named models alone (see ``Policy``). ``limits`` is short for a
    policy's limits. A run can tighten both; to loosen them, it must say so. With a limit that the
    engine can enforce only in a process, it runs as ``NAME@``. With ``allow_fallback``, a model
    whose execution target is not available runs on the CPU; otherwise that is an error. The
    ``observer`` is told what the host does:

        with Host() as host:
            host.add_model("squeezenet", "squeezenet.onnx")
            result = host.run("classify.wasm", ["photo.raw"], dirs={"/data": "photos"})
            print(result.stdout.decode(), result.timings.run)
    """

    def __init__(
        self,
        *,
        runtime: str | RuntimeName | None = None,
        policy: Policy | None = None,
        limits: Limits = Limits(),
        allow_fallback: bool = False,
        plugins: Plugins | None = None,
        observer: Observer | None = None,
    ) -> None:
        if runtime is not None and not isinstance(runtime, (str, RuntimeName)):
            raise UsageError(f"the runtime is {runtime!r}, and must be an engine's name (str)")
        if observer is not None and not isinstance(observer, Observer):
            raise UsageError(f"the observer is {observer!r}, and must be a wasi_nn.Observer")
        #: Who is told what it does.
        self.observer = observer
        self.plugins = plugins or Plugins.installed()
        self.policy = policy_of_host(policy, limits)
        self.registry = Registry(self.plugins, allow_fallback)
        self._allow_fallback = allow_fallback
        self._workers = HostWorkers()
        self._runtime_name = runtime
        self._runtime: Runtime | None = None
        # How its engine is called, if a forked child cannot use it.
        self._engine = ""
        #: Counts its programs' runs.
        self.counts = RunCounts()
        #: What runs in it.
        self.under_way = UnderWay()
        # No run of another host has this name by chance.
        self._tenant = f"host {os.urandom(8).hex()}"

    @property
    def limits(self) -> Limits:
        """The policy's limits."""
        return self.policy.limits

    @property
    def runtime(self) -> Runtime:
        """The runtime of the guests. Raises ``Unavailable`` if there is none, and
        ``ForkedProcess`` if its engine was used before this process was forked."""
        if self._runtime is None:
            named = self.plugins.runtime(self._runtime_name)
            runtime = enforcing(self.plugins, named, self.limits)
            self._runtime = runtime
            if not runtime.survives_fork:
                keep(runtime)
                self._engine = f"engine {runtime.name}"
        if self._engine:
            use(self._engine)
        return self._runtime

    # Models

    def add_model(
        self,
        name: str,
        *sources: str | Path,
        encoding: str = encodings.AUTODETECT,
        target: str | ExecutionTarget = ExecutionTarget.CPU,
        config: Mapping[str, Any] | None = None,
        isolation: str | None = None,
        digest: str | None = None,
        replace: bool = False,
    ) -> None:
        """Offer a model to guests under ``name``. It is loaded when it is first used.

        ``sources`` are its files: paths, ``package:PKG/FILE``, or URLs (``https``, ``hf``, ``s3``),
        which are downloaded now, once, into the user's cache. ``encoding`` is the name of an
        encoding or of a backend. ``isolation`` says where the model runs, and ``digest`` pins its
        files (see ``Policy``). With ``replace``, the model takes the name from another one; guests
        that use the other one keep it. Raises ``UsageError`` for a name that is taken, a file that
        does not exist or cannot be fetched, and an encoding without a backend."""
        self.under_way.check()
        files = local_files(sources, digest)
        kind = encodings.canonical(encoding)
        where = target_of(target), _config(config), isolation, digest
        self.registry.add(NamedModel(name, files, kind, *where), replace)

    def add_models(self, file: str | os.PathLike[str] | None = None) -> tuple[str, ...]:
        """Offer the models of a models file (docs/models.md), by default the user's, and return
        their names. What is not on this machine is downloaded now. Raises ``UsageError``."""
        from wasi_nn._models import catalogue

        self.under_way.check()
        found = catalogue.read(file)
        for entry in found.models.values():
            self.registry.add(entry.named(found.fetch(entry).paths))
        return tuple(found.models)

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the named models, sorted."""
        return self.registry.names

    def remove_model(self, name: str) -> None:
        """Remove a named model. Guests that use it keep it until they end. Raises
        ``NotFound``."""
        self.registry.remove(name)

    def model(self, name: str) -> Model:
        """The graph of a named model, for use without Wasm. Raises ``NotFound``. An exception of a
        signal handler is raised at once, as by ``load``."""
        return self._model(lambda: self.registry.graph(name, policy=self.policy))

    def load(
        self,
        *sources: Source,
        encoding: str = encodings.AUTODETECT,
        target: str | ExecutionTarget = ExecutionTarget.CPU,
        config: Mapping[str, Any] | None = None,
        isolation: str | None = None,
    ) -> Model:
        """Load a graph from files, URLs (see ``add_model``) or bytes, for use without Wasm.

        With the ``isolation`` ``"guest"`` or ``"shared"`` it runs in a worker, with ``"none"`` in
        this process. Without it, bytes and language models run in a worker, other files in this
        process.

        The same files are loaded once per process, no matter how often this is called. If a signal
        handler raises meanwhile, Ctrl-C's included, that is raised at once. The library continues
        to load in another thread, and whoever loads the same files waits for it."""
        builders = [
            memoryview(source) if isinstance(source, _BYTES) else local_files([source])[0]
            for source in sources
        ]
        if not builders:
            raise UsageError("there is nothing to load: give a file or bytes")
        kind = encodings.canonical(encoding)
        if kind == encodings.AUTODETECT:
            detected = detect(self.plugins, builders)
            if detected is None:
                from wasi_nn._models import recognition

                why = recognition.undetected(builders, "give encoding=…")
                raise InvalidEncoding(f"the model's encoding is not recognised: {why}")
            kind = detected
        backend = self.plugins.backend_for(kind)
        if kind not in backend.encodings:
            kind = backend.encodings[0]
        options = LoadOptions(kind, target_of(target), _config(config), self._allow_fallback)
        paths = [builder for builder in builders if isinstance(builder, Path)]
        own = None if isolation is None else values.isolation(isolation)
        name = None if len(paths) < len(builders) else ""
        chosen = isolation_of(backend, kind, self.policy, name, own)
        if len(paths) == len(builders):
            return self._model(lambda: loading.load_shared(backend, paths, options, never, chosen))

        batch = batching.settings_of(options.config)
        options = options._replace(config=batching.without(options.config))

        def load() -> loading.LoadedGraph:
            worker = None
            if chosen != "none":
                from wasi_nn._worker.process import Worker

                worker = Worker(backend, paths)
            return loading.batched(loading.load(backend, builders, options, worker), batch)

        return self._model(load)

    def _model(self, load: Callable[[], loading.LoadedGraph]) -> Model:
        self.under_way.check()
        # Imported here: the start of a guest does not need it.
        from wasi_nn._host.model import Model

        schedule = schedule_of(self.policy, self._tenant)
        within = None if self.observer is None else Scope(observer=self.observer)
        with Entered(within or Scope()):
            loaded = attend_or_leave(load)
        return Model(loaded, self.limits.given(), schedule, within)

    # Guests

    def compile(self, wasm: Source, *, timeout: float | None = None) -> Program:
        """Compile a guest (a path or its bytes), to run it more than once.

        ``timeout`` is in seconds; the host's limit holds if that is shorter. Raises ``UsageError``
        for what is neither a core module nor a component, and ``DeadlineExceeded``."""
        program = self.program(wasm)
        program.compile(timeout)
        return program

    def program(self, wasm: Source) -> Program:
        """A guest (a path or its bytes) that is compiled when it first runs, and only if its
        imports can be met. The run's deadline includes the compiling, and its interrupt ends it.

        Raises ``UsageError`` for what is neither a core module nor a component, and for one that
        is above the host's limit ``wasm_bytes``."""
        self.under_way.check()
        name, where = "guest.wasm", ""
        if isinstance(wasm, _BYTES):
            data = bytes(wasm)
        else:
            path = resolve_path(wasm)
            name, where = path.name, f"{path}: "
            data = read_guest(path, self.limits.wasm_bytes, self.plugins)
        if not wasm_module.is_wasm(data):
            from wasi_nn._models import recognition

            raise UsageError(recognition.guest(memoryview(data)))
        limits = EngineLimits(self.limits.memory, self.limits.fuel)
        with named(where):
            if len(data) > self.limits.wasm_bytes:
                raise UsageError(
                    f"the guest has more than {self.limits.wasm_bytes} bytes, its limit wasm-bytes"
                )
            binary = linkable(data)

        def compile() -> Any:
            runtime = self.runtime
            with named(where):
                return binary.compile(runtime, data, limits)

        return Program(self, name, Code(compile), binary)

    def run(
        self, wasm: Source, args: Sequence[str] = (), **options: Unpack[RunOptions]
    ) -> RunResult:
        """Compile a guest and run it, under one deadline. The options are those of
        ``Program.run``."""
        return self.program(wasm).run(args, **options)

    def instantiate(
        self,
        wasm: Source,
        *,
        wasi: WasiConfig | None = None,
        extra: Sequence[HostFunction] = (),
        **options: Unpack[GuestOptions],
    ) -> Guest:
        """Compile a guest and instantiate it, to call its exports. The options are those of
        ``Program.instantiate``:

            with host.instantiate("text.wasm") as guest:
                (words,) = guest.call("count", *guest.put("to be or not", "malloc"))
        """
        return self.program(wasm).instantiate(wasi=wasi, extra=extra, **options)

    async def run_async(
        self, wasm: Source, args: Sequence[str] = (), **options: Unpack[RunOptions]
    ) -> RunResult:
        """``run`` in its own thread. A cancelled task interrupts the guest, and raises
        ``CancelledError`` when the guest has ended."""
        from wasi_nn._host.asynchronous import run_guest

        return await run_guest(partial(self.run, wasm), args, options)

    def run_many(
        self,
        wasm: Source,
        inputs: Iterable[T],
        prepare: Callable[[T], Input] | None = None,
        *,
        args: Sequence[str] = (),
        jobs: int | None = None,
        ordered: bool = False,
        **options: Unpack[RunOptions],
    ) -> Runs[T]:
        """Compile a guest once and run it once for each input, in ``jobs`` threads. See
        ``Program.run_many``."""
        program = self.program(wasm)
        return program.run_many(inputs, prepare, args=args, jobs=jobs, ordered=ordered, **options)

    def run_many_async(
        self,
        wasm: Source,
        inputs: Iterable[T] | AsyncIterable[T],
        prepare: Callable[[T], Input] | None = None,
        *,
        args: Sequence[str] = (),
        jobs: int | None = None,
        ordered: bool = False,
        **options: Unpack[RunOptions],
    ) -> AsyncRuns[T]:
        """``run_many`` for ``async for``. The inputs may be asynchronous too."""
        program = self.program(wasm)
        return program.run_many_async(
            inputs, prepare, args=args, jobs=jobs, ordered=ordered, **options
        )

    def __repr__(self) -> str:
        models = ", ".join(self.models)
        return f"<Host {f'with the models {models}' if models else 'without named models'}>"

    def open_session(self, limits: Limits | None = None, policy: Policy | None = None) -> Session:
        """The handles of one guest, for your own ABI. The policy and the limits are laid over the
        host's."""
        return self._session(laid_over(self.policy, policy, limits, None))

    def _session(self, policy: Policy, tenant: str | None = None) -> Session:
        self.under_way.check()
        if tenant is not None and not isinstance(tenant, str):
            raise UsageError(f"the tenant is {tenant!r}, and must be a name (str)")
        named = tenant or self._tenant
        return Session(
            self.plugins, self.registry, policy, self._allow_fallback, named, self._workers
        )

    def statistics(self) -> Statistics:
        """What this host has done until now. Asks the models' backends, also those in workers."""
        return self.counts.statistics(self.registry.loaded(), self._workers.count())

    def close(self, timeout: float = 0) -> None:
        """End what runs, refuse what comes next, and free the named models.

        Runs have ``timeout`` seconds to end by themselves. Then they are interrupted, and so are
        the guests that ``Program.instantiate`` made, which their owners close. Returns when the
        runs have ended, or at once if the thread that calls runs a guest itself. Afterwards runs
        and models raise ``UsageError``; a ``Model`` that was made before can still be used.
        Callable from any thread, and more than once."""
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout >= 0:
            raise UsageError(f"timeout is {timeout!r}, and must be a number of seconds, 0 or more")
        self.under_way.close(timeout, in_guest())
        self.registry.close()


def _config(config: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if config is not None and not isinstance(config, Mapping):
        raise UsageError(f"the config is {config!r}, and must be a mapping, as in {{'threads': 2}}")
    return config or {}
