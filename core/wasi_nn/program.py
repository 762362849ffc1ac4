"""A guest program: compiled once, run any number of times, in any number of threads."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Union

from wasi_nn.abi.common import CoreAbi
from wasi_nn.abi.dialects import dialect as dialect_named
from wasi_nn.abi.guarding import CallStats, Failure, Observer
from wasi_nn.abi.inference import infer
from wasi_nn.abi.reading import Reading
from wasi_nn.abi.timing import BenchTimer
from wasi_nn.abi.wamr_legacy import WamrLegacy
from wasi_nn.abi.witx import Witx
from wasi_nn.errors import DeadlineExceeded, GuestError, Interrupted, UsageError
from wasi_nn.limits import Limits
from wasi_nn.linking import link
from wasi_nn.runtime import (
    EngineLimits,
    HostFunction,
    Instance,
    Module,
    Preopen,
    Stdin,
    Stdout,
    WasiConfig,
)
from wasi_nn.session import GraphUse, Session
from wasi_nn.wasmfile import WasmFile

if TYPE_CHECKING:
    from wasi_nn.host import Host

log = logging.getLogger("wasi_nn")

#: What a guest may see of the file system: ``{guest path: host path}``, or Preopen tuples.
Dirs = Union[Mapping[str, Union[str, Path]], Sequence[Preopen]]


class Timings(NamedTuple):
    """Seconds. ``compile`` is that of the program; ``bench`` the spans that a sightglass guest
    marked with ``bench.start`` and ``bench.end``."""

    compile: float
    instantiate: float
    run: float
    bench: tuple[float, ...]


class RunResult(NamedTuple):
    """How a guest ended.

    ``exit_code`` is the guest's own, or that of ``error`` (134 for a trap, 124 for a deadline).
    ``stdout`` and ``stderr`` hold what was captured. ``failures`` are the latest 100 of the
    ``failed`` calls that gave the guest an errno, with their reasons. ``calls`` is filled where
    ``stats=True`` was asked for.
    """

    exit_code: int
    stdout: bytes
    stderr: bytes
    error: GuestError | None
    timings: Timings
    dialect: str | None
    failures: tuple[Failure, ...]
    failed: int
    calls: Mapping[str, CallStats]
    graphs: tuple[GraphUse, ...]

    def check(self) -> RunResult:
        """This result; raises the error that ended the guest, if there was one."""
        if self.error is not None:
            raise self.error
        return self


class Program:
    """A compiled guest. Made by ``Host.compile``; ``name`` is what the guest sees as its own."""

    def __init__(
        self, host: Host, name: str, module: Module, file: WasmFile, seconds: float
    ) -> None:
        self._host = host
        self.name = name
        self._module = module
        self._counts_fuel = host.limits.fuel is not None
        self.file = file
        self.compile_seconds = seconds

    def run(
        self,
        args: Sequence[str] = (),
        *,
        env: Mapping[str, str] | None = None,
        dirs: Dirs = (),
        stdin: Stdin = None,
        stdout: Stdout = None,
        stderr: Stdout = None,
        capture: bool = True,
        dialect: str | None = None,
        limits: Limits | None = None,
        stats: bool = False,
        trace: bool = False,
        on_start: Callable[[Guest], None] | None = None,
    ) -> RunResult:
        """Run the guest's ``_start`` to its end.

        ``args`` come after the program's name. ``capture`` collects stdout and stderr for the
        result where no other place is given for them. ``on_start`` gets the guest before it runs,
        so that another thread can interrupt it. Raises ``LinkError`` and ``UsageError`` for what
        keeps the guest from starting; what ends it later is in the result."""
        captured = _Capture(capture, limits or self._host.limits)
        wasi = wasi_config(
            (self.name, *args),
            env,
            dirs,
            stdin,
            captured.stream("stdout", stdout),
            captured.stream("stderr", stderr),
        )
        with self.instantiate(
            wasi=wasi, dialect=dialect, limits=limits, stats=stats, trace=trace
        ) as guest:
            if on_start is not None:
                on_start(guest)
            started = time.perf_counter()
            error: GuestError | None = None
            try:
                exit_code = guest.start()
            except GuestError as raised:
                error, exit_code = raised, raised.exit_code
            ran = time.perf_counter() - started
            return RunResult(
                exit_code,
                captured.bytes("stdout"),
                captured.bytes("stderr"),
                error,
                Timings(self.compile_seconds, guest.instantiate_seconds, ran, tuple(guest.bench)),
                guest.dialect,
                tuple(guest.observer.failures),
                guest.observer.failed,
                {name: c for name, c in guest.observer.stats.items() if c.calls},
                guest.graphs,
            )

    def instantiate(
        self,
        *,
        wasi: WasiConfig | None = None,
        dialect: str | None = None,
        limits: Limits | None = None,
        stats: bool = False,
        trace: bool = False,
        extra: Sequence[HostFunction] = (),
    ) -> Guest:
        """A guest that has not run yet, for calling its exports (a reactor). ``extra`` are host
        functions of the embedder's own. Close it, or use it in a ``with`` block."""
        limits = limits or self._host.limits
        if limits.fuel is not None and not self._counts_fuel:
            raise UsageError("the program was compiled without fuel: give Host a limit on fuel")
        observer = Observer(timed=stats, traced=trace)
        session = self._host.open_session(limits)
        bench = BenchTimer()
        functions = [*bench.host_functions(), *extra]
        reading = _reading(self.file, dialect)
        if reading is not None:
            legacy = reading.dialect.module == WamrLegacy.module
            abi: type[CoreAbi] = WamrLegacy if legacy else Witx
            functions += abi(session, reading).host_functions(observer)
        started = time.perf_counter()
        try:
            needed = link(self.file, functions, self._host.runtime)
            instance = self._module.instantiate(
                needed, wasi or WasiConfig(), EngineLimits(limits.memory, limits.fuel)
            )
        except BaseException:
            session.close()
            raise
        seconds = time.perf_counter() - started
        return Guest(instance, session, observer, reading, bench, limits.timeout, seconds)


class Guest:
    """One instance of a program with its session. Used by the thread that made it, but for
    ``interrupt``. A context manager."""

    def __init__(
        self,
        instance: Instance,
        session: Session,
        observer: Observer,
        reading: Reading | None,
        bench: BenchTimer,
        timeout: float | None,
        seconds: float,
    ) -> None:
        self._instance = instance
        self._session = session
        self._reading = reading
        self._bench = bench
        self._timeout = timeout
        self.observer = observer
        self.instantiate_seconds = seconds

    @property
    def dialect(self) -> str | None:
        """The dialect as far as it is known; None for a guest without wasi-nn."""
        return self._reading.dialect.name if self._reading else None

    @property
    def bench(self) -> Sequence[float]:
        """Seconds of each span that the guest marked."""
        return self._bench.spans

    @property
    def graphs(self) -> tuple[GraphUse, ...]:
        """The latest graphs that the guest has opened."""
        return tuple(self._session.opened)

    def start(self) -> int:
        """Run ``_start``; gives the exit code and raises the kinds of ``GuestError``."""
        with _Deadline(self, self._timeout):
            return self._instance.start()

    def call(self, export: str, *arguments: int) -> tuple[int | float, ...]:
        """Call an exported function; the deadline counts for each call anew."""
        with _Deadline(self, self._timeout):
            return self._instance.call(export, *arguments)

    def interrupt(self) -> None:
        """Make the guest stop soon, a computation that it waits for included. Callable from any
        thread."""
        self._instance.interrupt()
        self._session.cancel()

    def close(self) -> None:
        """Free the guest's graphs, contexts and store."""
        self._session.close()
        self._instance.close()

    def __enter__(self) -> Guest:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Deadline:
    """Interrupts the guest when its time is over, and says so."""

    def __init__(self, guest: Guest, seconds: float | None) -> None:
        self._guest = guest
        self._seconds = seconds
        self._timer: threading.Timer | None = None
        self._passed = False

    def __enter__(self) -> None:
        if self._seconds is not None:
            self._timer = threading.Timer(self._seconds, self._pass)
            self._timer.daemon = True
            self._timer.start()

    def _pass(self) -> None:
        self._passed = True
        self._guest.interrupt()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if isinstance(error, Interrupted) and self._passed:
            raise DeadlineExceeded(
                f"the guest ran past its deadline of {self._seconds} s"
            ) from None


class _Capture:
    """Collects output streams up to the limit; what comes after that is dropped and logged."""

    def __init__(self, enabled: bool, limits: Limits) -> None:
        self._enabled = enabled
        self._most = limits.output
        self._pieces: dict[str, bytearray] = {}

    def stream(self, name: str, given: Stdout) -> Stdout:
        if given is not None or not self._enabled:
            return given
        collected = self._pieces[name] = bytearray()

        def collect(piece: bytes) -> None:
            room = self._most - len(collected)
            if len(piece) > room:
                log.warning("the guest's %s is cut at %d bytes", name, self._most)
            collected.extend(piece[: max(0, room)])

        return collect

    def bytes(self, name: str) -> bytes:
        return bytes(self._pieces.get(name, b""))


def wasi_config(
    args: Sequence[str],
    env: Mapping[str, str] | None,
    dirs: Dirs,
    stdin: Stdin,
    stdout: Stdout,
    stderr: Stdout,
) -> WasiConfig:
    """A WASI configuration of what people write. Raises ``UsageError`` for a directory that is not
    there and for NUL in an argument or variable."""
    if isinstance(dirs, Mapping):
        preopens = [Preopen(Path(host), guest) for guest, host in dirs.items()]
    else:
        preopens = list(dirs)
    for preopen in preopens:
        if not preopen.host.is_dir():
            raise UsageError(f"{preopen.host} is no directory")
    pairs = list((env or {}).items())
    for text in (*args, *(part for pair in pairs for part in pair)):
        if "\0" in text:
            raise UsageError(f"an argument or variable holds a NUL byte: {text!r}")
    return WasiConfig(list(args), pairs, preopens, stdin, stdout, stderr)


def _reading(file: WasmFile, name: str | None) -> Reading | None:
    inferred = infer(file)
    if not inferred.candidates:
        return None
    if name is None or name == "auto":
        return Reading(inferred.candidates)

    chosen = dialect_named(name)
    if chosen.module != inferred.candidates[0].module:
        raise UsageError(
            f"dialect {name} is of guests that import {chosen.module}; "
            f"this one imports {inferred.candidates[0].module}"
        )
    return Reading([chosen])
