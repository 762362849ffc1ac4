"""The host: plugins, named models and limits, and the guests that use them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Union

from wasi_nn import encodings, loading, wasmfile
from wasi_nn.backend import LoadOptions
from wasi_nn.compiling import Code
from wasi_nn.errors import InvalidEncoding, UsageError
from wasi_nn.forking import keep, use
from wasi_nn.limits import Limits, own_limits
from wasi_nn.model import Model
from wasi_nn.modelspec import resolve_path
from wasi_nn.plugins import Plugins
from wasi_nn.program import Program, RunResult
from wasi_nn.registry import NamedModel, Registry, detect
from wasi_nn.runtime import EngineLimits, Runtime
from wasi_nn.session import Session
from wasi_nn.types import ExecutionTarget

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from wasi_nn.options import RunOptions

#: A path (also ``package:PKG/FILE``) or the bytes themselves.
Source = Union[str, Path, bytes, bytearray, memoryview]

_BYTES = (bytes, bytearray, memoryview)


class Host:
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
        runtime: str | None = None,
        limits: Limits = Limits(),
        allow_fallback: bool = False,
        plugins: Plugins | None = None,
    ) -> None:
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
            runtime = self.plugins.runtime(self._runtime_name)
            able, limits = runtime.features, self.limits
            if (limits.timeout is not None and not able.interrupt) or (
                limits.memory is not None and not able.memory_limit
            ):
                # A process can be ended, and what it runs be bounded before it gets there.
                runtime = self.plugins.runtime(f"{runtime.name}@")
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
    ) -> None:
        """Offer a model to guests under ``name``; it is loaded when it is first used.

        ``encoding`` is an encoding's or a backend's name. Raises ``UsageError`` for a name given
        twice, a file that is not there and an encoding that nobody serves."""
        files = tuple(resolve_path(str(path)) for path in paths)
        kind = encodings.canonical(encoding)
        self.registry.add(NamedModel(name, files, kind, _target(target), config or {}))

    def model(self, name: str) -> Model:
        """The graph of a named model, for use without Wasm. Raises ``NotFound``."""
        return Model(self.registry.graph(name))

    def load(
        self,
        *sources: Source,
        encoding: str = encodings.AUTODETECT,
        target: str | ExecutionTarget = ExecutionTarget.CPU,
        config: Mapping[str, Any] | None = None,
    ) -> Model:
        """Load a graph of files or bytes, for use without Wasm.

        The same files are loaded once per process, however often this is called."""
        builders = [
            memoryview(source) if isinstance(source, _BYTES) else resolve_path(str(source))
            for source in sources
        ]
        kind = encodings.canonical(encoding)
        if kind == encodings.AUTODETECT:
            detected = detect(self.plugins, builders)
            if detected is None:
                raise InvalidEncoding("the model's encoding is not recognised; give encoding=…")
            kind = detected
        backend = self.plugins.backend_for(kind)
        if kind not in backend.encodings:
            kind = backend.encodings[0]
        options = LoadOptions(kind, _target(target), config or {}, self._allow_fallback)
        paths = [builder for builder in builders if isinstance(builder, Path)]
        if len(paths) == len(builders):
            return Model(loading.load_shared(backend, paths, options))
        return Model(loading.load(backend, builders, options))

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
        name = "guest.wasm"
        if isinstance(wasm, _BYTES):
            data = bytes(wasm)
        else:
            path = resolve_path(str(wasm))
            name = path.name
            try:
                data = path.read_bytes()
            except OSError as error:
                raise UsageError(f"cannot read {wasm}: {error.strerror or error}") from error
        limits = EngineLimits(self.limits.memory, self.limits.fuel)
        if wasmfile.is_component(data):
            # Most guests are core modules, and start without the component ABI.
            from wasi_nn.component_program import ComponentProgram
            from wasi_nn.componentfile import parse

            component_file = parse(data)
            component = Code(lambda: self.runtime.compile_component(data, limits))
            return ComponentProgram(self, name, component, component_file)
        file = wasmfile.parse(data)
        code = Code(lambda: self.runtime.compile(data, limits))
        return Program(self, name, code, file)

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
        from wasi_nn.aio import run_guest

        return await run_guest(partial(self.run, wasm), args, options)

    def open_session(self, limits: Limits | None = None) -> Session:
        """The tables for one guest; a runtime adapter's or an embedder's own ABI uses them. The
        limits are laid over the host's."""
        laid = own_limits(limits, None).over(self.limits)
        return Session(self.plugins, self.registry, laid, self._allow_fallback)

    def close(self) -> None:
        """Let go of the named models. Guests that still run keep theirs until they end."""
        self.registry.close()

    def __enter__(self) -> Host:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _target(target: str | ExecutionTarget) -> ExecutionTarget:
    return target if isinstance(target, ExecutionTarget) else ExecutionTarget.named(target)
