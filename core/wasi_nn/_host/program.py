"""A guest program: compiled once, run any number of times, in any number of threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from wasi_nn._abi.bench import BenchTimer
from wasi_nn._abi.core.common import CoreAbi
from wasi_nn._abi.core.detection import detect_dialect
from wasi_nn._abi.core.dialects import dialect as dialect_named
from wasi_nn._abi.core.negotiation import DialectNegotiation
from wasi_nn._abi.core.wamr_legacy import WamrLegacy
from wasi_nn._abi.core.witx import Witx
from wasi_nn._abi.guard import CallStats, Failure, Observer
from wasi_nn._host.capture import Capture
from wasi_nn._host.compiling import Code, Waiter, instance_of
from wasi_nn._host.guest import Deadline, Guest
from wasi_nn._host.imports import link
from wasi_nn._host.wasi import Dirs, wasi_config
from wasi_nn._process.fork import OfOneProcess, keep
from wasi_nn._process.interrupts import ForwardSigint, Interruption
from wasi_nn._session.session import GraphUse, Session
from wasi_nn._suggestion import did_you_mean
from wasi_nn.backend import Generation
from wasi_nn.errors import GuestError, GuestExited, UsageError
from wasi_nn.limits import Limits, own_limits
from wasi_nn.runtime import (
    EngineLimits,
    HostFunction,
    Instance,
    Runtime,
    Stdin,
    Stdout,
    WasiConfig,
)
from wasi_nn.wasm.module import WasmFile

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from wasi_nn._host.asynchronous import Running
    from wasi_nn._host.host import Host
    from wasi_nn._host.options import RunOptions

# Exports in a message.
_LISTED = 20


class Timings(NamedTuple):
    """Seconds. ``compile`` is that of the program; ``bench`` the spans that a sightglass guest
    marked with ``bench.start`` and ``bench.end``."""

    compile: float
    instantiate: float
    run: float
    bench: tuple[float, ...]


class Call(NamedTuple):
    """An export to call in the place of ``_start``, with numbers."""

    export: str
    arguments: tuple[float, ...] = ()


class RunResult(NamedTuple):
    """How a guest ended.

    ``exit_code`` is the guest's own, or that of ``error`` (134 for a trap, 124 for a deadline).
    ``stdout`` and ``stderr`` hold what was captured. ``failures`` are the latest 100 of the
    ``failed`` calls that gave the guest an errno, with their reasons. ``calls`` is filled where
    ``stats=True`` was asked for; ``generation`` where a language model ran. ``values`` are the
    results of the export that ``invoke`` named.
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
    generation: Generation | None = None
    values: tuple[int | float, ...] = ()

    def check(self) -> RunResult:
        """This result; raises the error that ended the guest, if there was one."""
        if self.error is not None:
            raise self.error
        return self


class Made(NamedTuple):
    """An instance with what is known of its guest: ``dialect`` as far as it was inferred."""

    instance: Instance
    dialect: Callable[[], str | None]
    bench: BenchTimer


class Program(OfOneProcess):
    """A guest program. Made by ``Host.compile``, and by ``Host.program`` for one that is compiled
    when it first runs; ``name`` is what the guest sees as its own."""

    def __init__(self, host: Host, name: str, code: Code[Any], file: WasmFile) -> None:
        self._host = host
        self.name = name
        keep(self)
        self._code = code
        self._counts_fuel = host.limits.fuel is not None
        self.file = file

    def __repr__(self) -> str:
        return f"<Program {self.name}{', compiled' if self.compile_seconds else ''}>"

    @property
    def compile_seconds(self) -> float:
        """What compiling it took; 0 until that is done."""
        return self._code.seconds

    def compile(self, timeout: float | None = None) -> None:
        """Compile the guest, unless it is compiled already.

        ``timeout`` is in seconds, and that of the host's limits where that is shorter. Raises
        ``UsageError`` for code that the engine does not take, and ``DeadlineExceeded``."""
        if self._code.made is not None:
            return
        seconds = own_limits(None, timeout).over(self._host.limits).timeout
        waiter = Waiter()
        with ForwardSigint(waiter.stop), Deadline(waiter.stop, seconds):
            self._code.get(waiter)

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
        timeout: float | None = None,
        stats: bool = False,
        trace: bool = False,
        on_start: Callable[[Guest], None] | None = None,
        invoke: Call | None = None,
    ) -> RunResult:
        """Run the guest's ``_start`` to its end, or its start section where that is its program, or
        the one export that ``invoke`` names (its ``_initialize`` comes before).

        ``args`` come after the program's name. ``capture`` collects stdout and stderr for the
        result where no other place is given. ``limits`` are laid over the host's; ``timeout``, in
        seconds, is short for one of them. ``on_start`` gets the guest before it runs, so that
        another thread can interrupt it. Raises ``LinkError`` and ``UsageError`` for what keeps the
        guest from starting; what ends it later is in the result."""
        if isinstance(args, (str, bytes, Mapping)) or not isinstance(args, Iterable):
            raise UsageError(f"args is {args!r}, and must be a list of texts, as in ['name:net']")
        limits = own_limits(limits, timeout)
        captured = Capture(capture, limits.over(self._host.limits))
        wasi = wasi_config(
            (self.name, *args),
            env,
            dirs,
            stdin,
            captured.stream("stdout", stdout),
            captured.stream("stderr", stderr),
        )
        interrupt = Interruption()
        # (Python's own handler raises anywhere, and so in the middle of what a binding makes or
        # frees.)
        with (
            ForwardSigint(interrupt),
            self._prepare(wasi, dialect, limits, stats, trace, ()) as guest,
        ):
            interrupt.aim(guest.interrupt)
            self._check_entry(invoke)
            if on_start is not None:
                on_start(guest)
            error: GuestError | None = None
            values: tuple[int | float, ...] = ()
            compiled = self.compile_seconds
            started = time.perf_counter()
            try:
                if invoke is None:
                    exit_code = guest.run()
                else:
                    exit_code, values = 0, guest.invoke(invoke.export, *invoke.arguments)
            except GuestExited as ended:
                exit_code = ended.code
            except GuestError as raised:
                error, exit_code = raised, raised.exit_code
            ran = time.perf_counter() - started - guest.instantiate_seconds
            # What was compiled within the run came before the instance.
            instantiate = guest.instantiate_seconds - (self.compile_seconds - compiled)
            return RunResult(
                exit_code,
                captured.bytes("stdout"),
                captured.bytes("stderr"),
                error,
                Timings(self.compile_seconds, max(0.0, instantiate), ran, guest.bench),
                guest.dialect,
                tuple(guest.observer.failures),
                guest.observer.failed,
                {name: c for name, c in guest.observer.stats.items() if c.calls},
                guest.graphs,
                guest.generation,
                values,
            )

    async def run_async(self, args: Sequence[str] = (), **options: Unpack[RunOptions]) -> RunResult:
        """``run`` in a thread of its own. A task that is cancelled interrupts the guest, and goes
        on when it has ended (see ``Guest.interrupt``)."""
        # (asyncio takes longer to import than all of this.)
        from wasi_nn._host.asynchronous import run_guest

        return await run_guest(self.run, args, options)

    def start(self, args: Sequence[str] = (), **options: Unpack[RunOptions]) -> Running:
        """A guest whose output is read while it runs, with ``async with`` and ``async for``; the
        options are those of ``run``, but for ``stdout``."""
        from wasi_nn._host.asynchronous import Running

        return Running(self.run, args, options)

    def _check_entry(self, invoke: Call | None) -> None:
        """Raise ``UsageError``, before anything of the guest runs, unless it has what is to run."""
        known = self.file.functions
        if invoke is not None:
            if invoke.export not in known:
                hint = did_you_mean(invoke.export, known)
                listed = ", ".join(known) or "none"
                raise UsageError(
                    f"the guest exports no function {invoke.export!r}{hint}; it exports: {listed}"
                )
        elif not self.file.is_command:
            raise UsageError(f"this is not a command: {no_command(self.file)}")

    def link(self) -> None:
        """Raise ``LinkError`` unless every import can be met; runs nothing of the guest."""
        with self._host.open_session() as session:
            link(self.file, self._functions(session, None, Observer())[0], self._host.runtime)

    def instantiate(
        self,
        *,
        wasi: WasiConfig | None = None,
        dialect: str | None = None,
        limits: Limits | None = None,
        timeout: float | None = None,
        stats: bool = False,
        trace: bool = False,
        extra: Sequence[HostFunction] = (),
    ) -> Guest:
        """A guest whose exports can be called (a reactor). ``extra`` are host functions of the
        embedder's own. Close it, or use it in a ``with`` block. Raises ``LinkError``, and the kinds
        of ``GuestError`` when its start function fails. ``limits`` and ``timeout`` are those of
        ``run``."""
        limits = own_limits(limits, timeout)
        interrupt = Interruption()
        with ForwardSigint(interrupt):
            guest = self._prepare(wasi or WasiConfig(), dialect, limits, stats, trace, extra)
            interrupt.aim(guest.interrupt)
            try:
                guest.begin()
            except BaseException:
                guest.close()
                raise
        return guest

    def _prepare(
        self,
        wasi: WasiConfig,
        dialect: str | None,
        own: Limits,
        stats: bool,
        trace: bool,
        extra: Sequence[HostFunction],
    ) -> Guest:
        limits = self._checked(own)
        observer = Observer(timed=stats, traced=trace)
        session = self._host.open_session(own)
        try:
            made = self._make(session, observer, dialect, extra, wasi, limits)
        except BaseException:
            session.close()
            raise
        return Guest(
            made.instance,
            session,
            observer,
            made.dialect,
            made.bench,
            limits.timeout,
            self.file.signatures,
            self.file.has_start,
            self._host.runtime.features.threads,
        )

    def _make(
        self,
        session: Session,
        observer: Observer,
        dialect: str | None,
        extra: Sequence[HostFunction],
        wasi: WasiConfig,
        limits: Limits,
    ) -> Made:
        functions, reading, bench = self._functions(session, dialect, observer)
        needed = link(self.file, [*functions, *extra], self._host.runtime)
        engine_limits = EngineLimits(limits.memory, limits.fuel)
        instance = instance_of(self._code, lambda code: code.prepare(needed, wasi, engine_limits))
        return Made(instance, lambda: reading.dialect.name if reading else None, bench)

    def _checked(self, own: Limits) -> Limits:
        limits = own.over(self._host.limits)
        if limits.fuel is not None and not self._counts_fuel:
            raise UsageError("the program was compiled without fuel: give Host a limit on fuel")
        _check_limits(limits, self._host.runtime)
        return limits

    def _functions(
        self, session: Session, dialect: str | None, observer: Observer
    ) -> tuple[list[HostFunction], DialectNegotiation | None, BenchTimer]:
        bench = BenchTimer()
        functions = bench.host_functions()
        reading = _reading(self.file, dialect)
        if reading is not None:
            legacy = reading.dialect.module == WamrLegacy.module
            abi: type[CoreAbi] = WamrLegacy if legacy else Witx
            functions += abi(session, reading).host_functions(observer)
        return functions, reading, bench


def no_command(file: WasmFile) -> str:
    """Why a module that has no ``_start`` does not run by itself, and what to do instead."""
    callable_ = [name for name in file.functions if name != "_initialize"]
    if not callable_:
        return "it exports no _start and no other function"
    listed = ", ".join(f"{name}{file.signatures[name] or ''}" for name in callable_[:_LISTED])
    more = len(callable_) - _LISTED
    return (
        f"it exports no _start. Call one of its functions with --invoke NAME (from Python, with "
        f"Program.instantiate and Guest.call): {listed}{f' and {more} more' if more > 0 else ''}"
    )


def _check_limits(limits: Limits, runtime: Runtime) -> None:
    """A limit that the engine cannot hold is an error, and not a promise that is broken later."""
    if limits.timeout is limits.memory is limits.fuel is None:
        return
    features = runtime.features
    for given, able, what in (
        (
            limits.timeout,
            features.interrupt,
            "stop a guest at a deadline; a process of its own can be ended: give the Host a "
            f"timeout, or its runtime as {runtime.name}@",
        ),
        (
            limits.memory,
            features.memory_limit,
            "limit a guest's memory; in a process of its own it can: give the Host the limit, or "
            f"its runtime as {runtime.name}@",
        ),
        (limits.fuel, features.fuel, "count fuel"),
    ):
        if given is not None and not able:
            raise UsageError(f"{runtime.name}, as it is installed here, cannot {what}")


def _reading(file: WasmFile, name: str | None) -> DialectNegotiation | None:
    chosen = None if name is None or name == "auto" else dialect_named(name)
    inferred = detect_dialect(file)
    if not inferred.candidates:
        return None
    if chosen is None:
        return DialectNegotiation(inferred.candidates)
    if chosen.module != inferred.candidates[0].module:
        raise UsageError(
            f"dialect {name} is for guests that import {chosen.module}; "
            f"this one imports {inferred.candidates[0].module}"
        )
    return DialectNegotiation([chosen])
