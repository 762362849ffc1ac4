"""A guest program: compiled once, run any number of times, in any number of threads."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

from wasi_nn._abi.guard import Observer
from wasi_nn._host.capture import Capture
from wasi_nn._host.compiling import Code, Waiter, instance_of
from wasi_nn._host.deadline import Deadline
from wasi_nn._host.guest import Guest
from wasi_nn._host.limit_policy import check_enforced, laid_over
from wasi_nn._host.linkable import checked
from wasi_nn._host.options import Call, GuestOptions, RunOptions, check_args, check_options
from wasi_nn._host.output import guest_output
from wasi_nn._host.result import RunResult, Timings
from wasi_nn._host.wasi import fed, wasi_config
from wasi_nn._process.fork import OfOneProcess, keep
from wasi_nn._process.interrupts import ForwardSigint, Interruption
from wasi_nn._scope import Entered, Scope, observed
from wasi_nn.errors import GuestError, GuestExited, UsageError
from wasi_nn.escaping import visible
from wasi_nn.policy import Policy
from wasi_nn.runtime import EngineLimits, HostFunction, Instance, WasiConfig

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from wasi_nn._host.asynchronous import AsyncRuns, Running
    from wasi_nn._host.feed import Feed
    from wasi_nn._host.host import Host
    from wasi_nn._host.linkable import Linkable
    from wasi_nn._host.many import Runs
    from wasi_nn._host.options import Input
    from wasi_nn.wasm.component import ComponentFile
    from wasi_nn.wasm.module import Signature, WasmFile

T = TypeVar("T")
_NO_FEED = nullcontext()


class Program(OfOneProcess):
    """A guest program, made by ``Host.compile``, or by ``Host.program``, which leaves compiling to
    the first run. ``name`` is what the guest sees as its own name."""

    def __init__(self, host: Host, name: str, code: Code[Any], binary: Linkable) -> None:
        self._host = host
        self.name = name
        keep(self)
        self._code = code
        self._binary = binary
        self._counts_fuel = host.limits.fuel is not None

    def __repr__(self) -> str:
        return f"<Program {self.name}{', compiled' if self.compile_seconds else ''}>"

    @property
    def file(self) -> WasmFile | ComponentFile:
        """What the binary says of itself: a ``ComponentFile`` for a component."""
        return self._binary.file

    @property
    def exports(self) -> Mapping[str, Signature | None]:
        """The exported functions and their types; None for one that is unreadable."""
        return self._binary.signatures

    @property
    def compile_seconds(self) -> float:
        """What compiling it took; 0 until that is done."""
        return self._code.seconds

    def compile(self, timeout: float | None = None) -> None:
        """Compile the guest, unless it is compiled already.

        ``timeout`` is in seconds; the host's limit holds if that is shorter. Raises ``UsageError``
        for code that the engine refuses, and ``DeadlineExceeded``."""
        if self._code.made is not None:
            return
        seconds = laid_over(self._host.policy, None, None, timeout).limits.timeout
        waiter = Waiter()
        with ForwardSigint(waiter.stop), Deadline(waiter.stop, seconds):
            self._code.get(waiter)

    def run(self, args: Sequence[str] = (), **options: Unpack[RunOptions]) -> RunResult:
        """Run the guest to its end: its ``_start``, its start section if that is its program, or
        the export that ``invoke`` names.

        ``args`` come after the program's name. ``RunOptions`` describes the options: ``env``,
        ``dirs``, ``stdin``, ``stdout``, ``stderr``, ``capture``, ``dialect``, ``policy``,
        ``limits``, ``timeout``, ``tenant``, ``priority``, ``tokens_per_second``, ``stats``,
        ``trace``, ``request``, ``allow_unknown_imports``, ``on_start``, ``invoke``. Raises
        ``LinkError`` and ``UsageError`` for what keeps the guest from starting; what ends it later
        is in the result."""
        check_options(options, RunOptions)
        check_args(args)
        policy = self._policy(options)
        captured = Capture(options.get("capture", True), policy.limits)
        within = self._scope(options)
        feed = fed(options.get("stdin"))
        with Entered(within), observed("run", self.name) as step, feed or _NO_FEED:
            wasi = wasi_config((self.name, *args), options, captured, feed)
            result = self._run_with(wasi, policy, options, captured, feed)
            if step is not None:
                step.error = result.error
            return result

    def _run_with(
        self,
        wasi: WasiConfig,
        policy: Policy,
        options: RunOptions,
        captured: Capture,
        feed: Feed | None,
    ) -> RunResult:
        invoke, on_start = options.get("invoke"), options.get("on_start")
        interrupt = Interruption()
        counts, under_way = self._host.counts, self._host.under_way
        under_way.begin(interrupt)
        counts.begin()
        try:
            # (Python's own handler raises anywhere, also while a binding makes or frees something.)
            with ForwardSigint(interrupt), self._prepare(wasi, policy, options) as guest:
                interrupt.aim(guest.interrupt)
                guest.attended = True
                if invoke is None:
                    self._binary.check_command()
                else:
                    self._binary.check_export(invoke.export)
                if on_start is not None:
                    on_start(guest)
                if feed is not None:
                    feed.start(guest.interrupt)
                result = self._run(guest, invoke, captured)
                if feed is not None:
                    feed.check()
        except BaseException as error:
            counts.fail(error)
            raise
        else:
            counts.end(result)
        finally:
            under_way.end(interrupt)
        return result

    def _run(self, guest: Guest, invoke: Call | None, captured: Capture) -> RunResult:
        error: GuestError | None = None
        exit_code = 0
        values: tuple[int | float, ...] = ()
        compiled = self.compile_seconds
        started = time.perf_counter()
        try:
            if invoke is None:
                exit_code = guest.run()
            else:
                values = guest.invoke(invoke.export, *invoke.arguments)
        except GuestExited as ended:
            exit_code = ended.code
        except GuestError as raised:
            error, exit_code = raised, raised.exit_code
        ran = time.perf_counter() - started - guest.instantiate_seconds
        refused: dict[str, int] = {}
        for counts in (guest.observer.refused, captured.refused, guest.refused):
            for rule, count in counts.items():
                refused[rule] = refused.get(rule, 0) + count
        if error is not None and error.rule:
            refused[error.rule] = refused.get(error.rule, 0) + 1
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
            refused,
        )

    def run_many(
        self,
        inputs: Iterable[T],
        prepare: Callable[[T], Input] | None = None,
        *,
        args: Sequence[str] = (),
        jobs: int | None = None,
        ordered: bool = False,
        **options: Unpack[RunOptions],
    ) -> Runs[T]:
        """Run the guest once for each input, in ``jobs`` threads (by default as many as there are
        cores), and give an ``Outcome`` for each, as they come or, if ``ordered``, in the order of
        the inputs.

        An input is bytes (standard input), a list of texts (the arguments), or a mapping of options
        of ``run`` and ``args``. ``prepare`` makes one of any other object; it is called in the
        run's thread. The options that are given here hold for every run, unless its input has its
        own. What goes wrong with one input is its outcome's ``error``.

        Inputs are read as threads become free, in these threads, one at a time, and at most twice
        as many as jobs ahead of the outcomes that were taken. See ``Runs`` for how to end early."""
        from wasi_nn._host.many import Runs

        return Runs(self.run, inputs, prepare, jobs, ordered, {"args": args, **options})

    def run_many_async(
        self,
        inputs: Iterable[T] | AsyncIterable[T],
        prepare: Callable[[T], Input] | None = None,
        *,
        args: Sequence[str] = (),
        jobs: int | None = None,
        ordered: bool = False,
        **options: Unpack[RunOptions],
    ) -> AsyncRuns[T]:
        """``run_many`` for ``async for``. The inputs may be asynchronous too."""
        from wasi_nn._host.asynchronous import AsyncRuns

        return AsyncRuns(self.run, inputs, prepare, jobs, ordered, {"args": args, **options})

    async def run_async(self, args: Sequence[str] = (), **options: Unpack[RunOptions]) -> RunResult:
        """``run`` in its own thread. A cancelled task interrupts the guest, and raises
        ``CancelledError`` when the guest has ended (see ``Guest.interrupt``)."""
        # (asyncio takes longer to import than all of this.)
        from wasi_nn._host.asynchronous import run_guest

        return await run_guest(self.run, args, options)

    def start(self, args: Sequence[str] = (), **options: Unpack[RunOptions]) -> Running:
        """A guest whose output is read while it runs, with ``async with`` and ``async for``. The
        options are those of ``run``, without ``stdout``."""
        from wasi_nn._host.asynchronous import Running

        return Running(self.run, args, options)

    def link(self) -> None:
        """Raise ``LinkError`` unless every import can be met. Runs nothing of the guest."""
        with self._host.open_session() as session:
            linked = self._binary.link(session, self._host.runtime, Observer())
            self._binary.check_link(linked, self._compiled)

    def _compiled(self) -> Any:
        self.compile()
        return self._code.get(Waiter())

    def instantiate(
        self,
        *,
        wasi: WasiConfig | None = None,
        extra: Sequence[HostFunction] = (),
        **options: Unpack[GuestOptions],
    ) -> Guest:
        """A guest whose exports can be called (a reactor). Close it, or use it in a ``with`` block.

        ``extra`` are host functions of your own. ``GuestOptions`` describes the options:
        ``dialect``, ``policy``, ``limits``, ``timeout``, ``tenant``, ``priority``,
        ``tokens_per_second``, ``stats``, ``trace``, ``request``, ``allow_unknown_imports``.
        Raises ``LinkError``, and the kinds of ``GuestError`` if its start function fails."""
        check_options(options, GuestOptions)
        self._binary.check_export(None)
        policy = self._policy(options)
        within = self._scope(options)
        interrupt = Interruption()
        with ForwardSigint(interrupt), Entered(within):
            guest = self._prepare(wasi or WasiConfig(), policy, options, extra)
            guest.within = within
            interrupt.aim(guest.interrupt)
            try:
                self._host.under_way.hold(guest)
                guest.begin()
            except BaseException:
                guest.close()
                raise
        return guest

    def _scope(self, options: GuestOptions) -> Scope:
        request = options.get("request")
        if request is not None and not isinstance(request, str):
            raise UsageError(f"the request is {request!r}, and must be a name (str)")
        return Scope(self.name, visible(request) if request else "", self._host.observer)

    def _policy(self, options: GuestOptions) -> Policy:
        if not options:
            return self._host.policy
        names = "policy", "limits", "timeout", "priority", "tokens_per_second"
        given: list[Any] = [options.get(name) for name in names]
        return laid_over(self._host.policy, *given)

    def _prepare(
        self,
        wasi: WasiConfig,
        policy: Policy,
        options: GuestOptions,
        extra: Sequence[HostFunction] = (),
    ) -> Guest:
        limits = policy.limits
        runtime = self._host.runtime
        if limits.fuel is not None and not self._counts_fuel:
            raise UsageError("the program was compiled without fuel: give Host a limit on fuel")
        check_enforced(limits, runtime)
        observed = self._host.observer is not None
        observer = Observer(options.get("stats", False), options.get("trace", False), observed)
        session = self._host._session(policy, options.get("tenant"))
        try:
            linked = self._binary.link(
                session,
                runtime,
                observer,
                options.get("dialect"),
                extra,
                options.get("allow_unknown_imports", False),
            )
            bounds = EngineLimits(limits.memory, limits.fuel, limits.files)

            def prepare(code: Any) -> Instance:
                made: Instance
                if runtime.own_encodings:
                    # (Such a runtime is rare.)
                    from wasi_nn._host.own_nn import own_nn

                    theirs, nn = own_nn(linked, self._host.registry, policy, observer)
                    made = code.prepare_own(theirs, wasi, bounds, nn)
                else:
                    made = code.prepare(linked.imports, wasi, bounds)
                instance: Instance = checked(runtime, "prepare", made, Instance)
                session.stdout = guest_output(wasi, instance)
                if linked.log is not None:
                    linked.log.outputs = session.stdout, guest_output(wasi, instance, 2)
                if linked.sockets is not None:
                    linked.sockets.begin(instance, wasi)
                return instance

            instance = instance_of(self._code, prepare)
        except BaseException:
            session.close()
            raise
        threads = runtime.features.threads
        return Guest(instance, session, observer, linked, self._binary, limits.timeout, threads)
