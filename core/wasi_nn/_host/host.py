"""The host: plugins, named models and limits, and the guests that use them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from wasi_nn import encodings
from wasi_nn._closing import Closing
from wasi_nn._host.compiling import Code
from wasi_nn._host.guest_module import GuestModule
from wasi_nn._host.limit_policy import enforcing
from wasi_nn._host.model import Model
from wasi_nn._host.program import Program
from wasi_nn._models import loading
from wasi_nn._models.registry import NamedModel, Registry, detect
from wasi_nn._models.spec import resolve_path
from wasi_nn._process.fork import OfOneProcess, keep, use
from wasi_nn._process.signals import attend_or_leave
from wasi_nn._session.session import Session
from wasi_nn.backend import LoadOptions
from wasi_nn.errors import InvalidEncoding, UsageError
from wasi_nn.limits import Limits, own_limits
from wasi_nn.plugins import Plugins
from wasi_nn.runtime import EngineLimits, Runtime
from wasi_nn.runtime.name import RuntimeName
from wasi_nn.types import ExecutionTarget
from wasi_nn.wasm import module as wasm_module

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from wasi_nn._host.linkable import Linkable
    from wasi_nn._host.options import RunOptions
    from wasi_nn._host.result import RunResult

#: A path (also ``package:PKG/FILE``) or the bytes themselves.
Source = Union[str, Path, bytes, bytearray, memoryview]

_BYTES = (bytes, bytearray, memoryview)


class Host(OfOneProcess, Closing):
    """Runs guests and models. Thread-safe: any number of threads may run guests of one host.

    ``runtime`` names an engine (the first installed one by default); ``NAME@PYTHON`` is one in a
    process of another Python, and ``NAME@`` in one of this Python. ``limits`` hold for every
    guest; a run can tighten them, and loosen them only where it says so (see ``Limits``). With a
    timeout, an engine that cannot be stopped runs as ``NAME@``, whose process can be ended.
    ``allow_fallback`` lets a model whose execution target
    is not available run on the CPU; without it that is an error::

        with Host() as host:
            host.add_model("squeezenet", "squeezenet.onnx")
            result = host.run("classify.wasm", ["photo.raw"], dirs={"/data": "photos"})
            print(result.stdout.decode(), result.timings.run)
    """

    def __init__(
        self,
        *,
        runtime: str | RuntimeName | None = None,
        limits: Limits = Limits(),
        allow_fallback: bool = False,
        plugins: Plugins | None = None,
    ) -> None:
        if runtime is not None and not isinstance(runtime, (str, RuntimeName)):
            raise UsageError(f"the runtime is {runtime!r}, and must be an engine's name (str)")
        self.plugins = plugins or Plugins.installed()
        self.limits = own_limits(limits, None)
        self.registry = Registry(self.plugins, allow_fallback)
        self._allow_fallback = allow_fallback
        self._runtime_name = runtime
        self._runtime: Runtime | None = None

    @property
    def runtime(self) -> Runtime:
        """The engine that runs the guests. Raises ``Unavailable`` where there is none, and
        ``ForkedProcess`` where it was used before this process was forked."""
        if self._runtime is None:
            named = self.plugins.runtime(self._runtime_name)
            runtime = enforcing(self.plugins, named, self.limits)
            self._runtime = runtime
            if not runtime.survives_fork:
                keep(runtime)
        if not self._runtime.survives_fork:
            use(f"engine {self._runtime.name}")
        return self._runtime

    # Models

    def add_model(
        self,
        name: str,
        *paths: str | Path,
        encoding: str = encodings.AUTODETECT,
        target: str | ExecutionTarget = ExecutionTarget.CPU,
        config: Mapping[str, Any] | None = None,
        replace: bool = False,
    ) -> None:
        """Offer a model to guests under ``name``; it is loaded when it is first used.

        ``encoding`` is an encoding's or a backend's name. ``replace`` takes the name from the
        model that has it; guests that use that one keep it. Raises ``UsageError`` for a name given
        twice without it, a file that is not there and an encoding that nobody serves."""
        files = tuple(resolve_path(path) for path in paths)
        kind = encodings.canonical(encoding)
        model = NamedModel(name, files, kind, _target(target), _config(config))
        self.registry.add(model, replace)

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the named models, sorted."""
        return self.registry.names

    def remove_model(self, name: str) -> None:
        """Take a named model away. Guests that use it keep it until they end. Raises
        ``NotFound``."""
        self.registry.remove(name)

    def model(self, name: str) -> Model:
        """The graph of a named model, for use without Wasm. Raises ``NotFound``. What a signal's
        handler raises meanwhile comes out at once, as from ``load``."""
        return Model(attend_or_leave(lambda: self.registry.graph(name)))

    def load(
        self,
        *sources: Source,
        encoding: str = encodings.AUTODETECT,
        target: str | ExecutionTarget = ExecutionTarget.CPU,
        config: Mapping[str, Any] | None = None,
    ) -> Model:
        """Load a graph of files or bytes, for use without Wasm.

        The same files are loaded once per process, however often this is called. What a signal's
        handler raises meanwhile, Ctrl-C's too, comes out at once: the library then loads on in
        another thread, and whoever wants the same files waits for that."""
        builders = [
            memoryview(source) if isinstance(source, _BYTES) else resolve_path(source)
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
        options = LoadOptions(kind, _target(target), _config(config), self._allow_fallback)
        paths = [builder for builder in builders if isinstance(builder, Path)]
        if len(paths) == len(builders):
            return Model(attend_or_leave(lambda: loading.load_shared(backend, paths, options)))
        return Model(attend_or_leave(lambda: loading.load(backend, builders, options)))

    # Guests

    def compile(self, wasm: Source, *, timeout: float | None = None) -> Program:
        """Compile a guest (a path or its bytes), to run it more than once.

        ``timeout`` is in seconds, and that of the host's limits where that is shorter. Raises
        ``UsageError`` for what is neither a core module nor a component, and
        ``DeadlineExceeded``."""
        program = self.program(wasm)
        program.compile(timeout)
        return program

    def program(self, wasm: Source) -> Program:
        """A guest (a path or its bytes) that is compiled when it first runs, and only if its
        imports can be met. A run's deadline counts that too, and its interrupt ends it.

        Raises ``UsageError`` for what is neither a core module nor a component."""
        name, where = "guest.wasm", ""
        if isinstance(wasm, _BYTES):
            data = bytes(wasm)
        else:
            path = resolve_path(wasm)
            name, where = path.name, f"{path}: "
            data = self._guest_bytes(path)
        if not wasm_module.is_wasm(data):
            from wasi_nn._models import recognition

            raise UsageError(recognition.guest(memoryview(data)))
        limits = EngineLimits(self.limits.memory, self.limits.fuel)
        with _named(where):
            binary = _linkable(data)

        def compile() -> Any:
            runtime = self.runtime
            with _named(where):
                return binary.compile(runtime, data, limits)

        return Program(self, name, Code(compile), binary)

    def _guest_bytes(self, path: Path) -> bytes:
        """A guest's file. Of anything else the first bytes alone are read: a model can be larger
        than memory. Raises ``UsageError``."""
        try:
            if not path.is_dir():
                with path.open("rb") as file:
                    start = file.read(len(wasm_module.MAGIC))
                    if wasm_module.is_wasm(start):
                        return start + file.read()
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
        from wasi_nn._models import recognition

        raise UsageError(recognition.guest(path, detect(self.plugins, [path])))

    def run(
        self, wasm: Source, args: Sequence[str] = (), **options: Unpack[RunOptions]
    ) -> RunResult:
        """Compile a guest and run it, under one deadline; the options are those of
        ``Program.run``."""
        return self.program(wasm).run(args, **options)

    async def run_async(
        self, wasm: Source, args: Sequence[str] = (), **options: Unpack[RunOptions]
    ) -> RunResult:
        """``run`` in a thread of its own. A task that is cancelled interrupts the guest, and goes
        on when it has ended."""
        from wasi_nn._host.asynchronous import run_guest

        return await run_guest(partial(self.run, wasm), args, options)

    def __repr__(self) -> str:
        models = ", ".join(self.models)
        return f"<Host {f'with the models {models}' if models else 'without named models'}>"

    def open_session(self, limits: Limits | None = None) -> Session:
        """The tables for one guest; a runtime adapter's or an embedder's own ABI uses them. The
        limits are laid over the host's."""
        laid = own_limits(limits, None).over(self.limits)
        return Session(self.plugins, self.registry, laid, self._allow_fallback)

    def close(self) -> None:
        """Let go of the named models. Guests that still run keep theirs until they end."""
        self.registry.close()


def _config(config: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if config is not None and not isinstance(config, Mapping):
        raise UsageError(f"the config is {config!r}, and must be a mapping, as in {{'threads': 2}}")
    return config or {}


def _linkable(wasm: bytes) -> Linkable:
    """A guest's binary. Raises ``UsageError`` for a damaged one."""
    if wasm_module.is_component(wasm):
        # (Most guests are core modules, and start without the component ABI.)
        from wasi_nn._host.guest_component import GuestComponent

        return GuestComponent(wasm)
    return GuestModule(wasm)


@contextmanager
def _named(where: str) -> Iterator[None]:
    """A block in which what is wrong with a guest is told with its file."""
    try:
        yield
    except UsageError as error:
        if not where or type(error) is not UsageError:
            raise
        raise UsageError(f"{where}{error}") from error


def _target(target: str | ExecutionTarget) -> ExecutionTarget:
    return target if isinstance(target, ExecutionTarget) else ExecutionTarget.named(target)
