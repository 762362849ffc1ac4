"""A guest: one instance of a program, with its session and its deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from wasi_nn._abi.guard import Observer
from wasi_nn._closing import Closing
from wasi_nn._host.deadline import Deadline
from wasi_nn._host.memory import Memory, Region, flat_bytes
from wasi_nn._process.fork import keep, let_go, refusal
from wasi_nn._process.interrupts import ForwardSigint
from wasi_nn._process.signals import attend
from wasi_nn._scope import Entered, Scope, observed, scope
from wasi_nn._session.session import GraphUse, Session
from wasi_nn.backend import Generation, discard
from wasi_nn.errors import (
    DeadlineExceeded,
    GuestExited,
    GuestTrap,
    Interrupted,
    MissingMemory,
    UsageError,
)
from wasi_nn.runtime import BufferMemory, GuestMemory, Instance
from wasi_nn.wasm.arguments import check_call

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from wasi_nn._host.linkable import Linkable, Linked
    from wasi_nn.wasm.module import Signature

T = TypeVar("T")
_ATTENDED = nullcontext()
# The guest that this thread runs.
_running: ContextVar[Guest | None] = ContextVar("running", default=None)


class Guest(Closing):
    """One instance of a program, with its session. A context manager. Only the thread that made it
    may use it, except for ``interrupt``.

    Ctrl-C in the main thread interrupts a guest that runs there, and raises ``KeyboardInterrupt``
    when the guest has ended. The same holds for an exception of another signal's handler. If the
    program has such handlers, the guest runs in another thread, and the main thread waits."""

    def __init__(
        self,
        instance: Instance,
        session: Session,
        observer: Observer,
        linked: Linked,
        binary: Linkable,
        timeout: float | None,
        threads: bool,
    ) -> None:
        self._instance = instance
        self._signatures = binary.signatures
        # Its program may be the start section alone, which has run when it is instantiated.
        self._ends_at_start = binary.has_start and "_start" not in binary.signatures
        # Without threads the engine keeps the main thread waiting in any case.
        self._threads = threads
        self._session = session
        self._linked = linked
        self._timeout = timeout
        self._begun = False
        self.observer = observer
        self.instantiate_seconds = 0.0
        #: For whom its calls are made, if not for a run.
        self.within: Scope | None = None
        #: Whether ``interrupt`` was called, by a deadline too.
        self.interrupted = False
        #: Whether its owner calls ``interrupt`` after Ctrl-C, as long as the guest is open.
        self.attended = False
        #: Called with the guest when it is closed.
        self.on_close: Callable[[Guest], object] | None = None
        # The guests that a host function of this guest runs.
        self._inner: set[Guest] = set()
        self._forked = False
        #: Whether it has computed for all of its seconds.
        self._computed = False
        if session.meter.timed:
            session.meter.on_end = self._end_computing
        keep(self)

    def forked(self) -> None:
        """This is a child process now, and the guest belongs to the parent."""
        self._forked = True

    @property
    def dialect(self) -> str | None:
        """The dialect, as far as it is known. None for a guest without wasi-nn."""
        return self._linked.dialect()

    @property
    def bench(self) -> tuple[float, ...]:
        """The latest 10,000 spans that the guest marked, in seconds."""
        bench = self._linked.bench
        return () if bench is None else tuple(bench.spans)

    @property
    def refused(self) -> Mapping[str, int]:
        """How often a limit that its engine holds has refused it something, by the rule."""
        return self._instance.refused

    @property
    def exports(self) -> Mapping[str, Signature | None]:
        """The functions that can be called, and their types; None for one that is unreadable."""
        return self._signatures

    @property
    def memory(self) -> Memory:
        """The guest's memory, for reading and writing between its calls."""
        return Memory(self._reach)

    @property
    def graphs(self) -> tuple[GraphUse, ...]:
        """The latest graphs that the guest has opened."""
        return tuple(self._session.opened)

    @property
    def generation(self) -> Generation | None:
        """What its language models have done so far."""
        return self._session.generation

    def run(self) -> int:
        """Instantiate the module, unless ``begin`` has, and run its ``_start``, under one deadline.
        Returns the exit code. Raises the kinds of ``GuestError``."""
        self._checked("_start", ())
        return self._attended(self._run)

    def _run(self) -> int:
        exit_code = self._instantiate()
        if exit_code is not None:
            return exit_code
        return 0 if self._ends_at_start else self._instance.start()

    def invoke(self, export: str, *arguments: float) -> tuple[int | float, ...]:
        """Instantiate the module, call its ``_initialize`` if it has one (a reactor), and call an
        export, all under one deadline. Raises as ``call`` does."""
        given = self._checked(export, arguments)
        if export != "_initialize":
            self._checked("_initialize", ())
        return self._attended(lambda: self._invoke(export, given))

    def _invoke(self, export: str, given: tuple[Any, ...]) -> tuple[int | float, ...]:
        if export == "_initialize":
            exit_code = self._instantiate()
            if exit_code is not None:
                raise GuestExited(exit_code)
        else:
            self._initialize()
        return self._instance.call(export, *given)

    def begin(self) -> None:
        """Instantiate the module, and call its ``_initialize`` if it has one, so that its exports
        can be called."""
        self._checked("_initialize", ())
        self._attended(self._initialize)

    def _initialize(self) -> None:
        exit_code = self._instantiate()
        if exit_code is not None:
            raise GuestExited(exit_code)
        if "_initialize" in self._signatures:
            self._instance.call("_initialize")

    def call(self, export: str, *arguments: float) -> tuple[int | float, ...]:
        """Call an exported function with numbers, and return its results. Each call has the whole
        deadline. After an interrupt, a deadline's too, the guest cannot be called again. Raises
        ``UsageError`` if there is no such function, or if the arguments do not fit it, and the
        kinds of ``GuestError``."""
        given = self._checked(export, arguments)
        if self.within is None:
            return self._attended(lambda: self._instance.call(export, *given))
        outer = scope.get().step
        with Entered(self.within._replace(step=outer)), observed("export", export):
            return self._attended(lambda: self._instance.call(export, *given))

    def put(self, data: str | Buffer, allocator: str, alignment: int = 1) -> Region:
        """Copy bytes, a contiguous array, or a text (as UTF-8) into memory that the guest
        allocates:

            (hash,) = guest.call("hash", *guest.put("hello", "malloc"))

        ``allocator`` is the export that allocates: with one parameter (``malloc(size)``), two
        (``alloc(size, alignment)``) or four (``cabi_realloc(0, 0, alignment, size)``). It returns
        the pointer. The guest frees the memory. Raises as ``call`` does, ``MissingMemory`` if the
        allocator returns 0, and ``InvalidArgument`` if its pointer leads outside the memory."""
        flat = flat_bytes(data)
        size = len(flat)
        signature = self._signatures.get(allocator)
        given = {1: (size,), 2: (size, alignment), 4: (0, 0, alignment, size)}
        count = 1 if signature is None else len(signature.parameters)
        if signature is not None and (count not in given or len(signature.results) != 1):
            raise UsageError(
                f"{allocator}{signature} is not an allocator: it must take the size, the size and "
                "the alignment, or what cabi_realloc takes, and return the pointer"
            )
        (pointer,) = self.call(allocator, *given[count])
        region = Region(int(pointer) & 0xFFFFFFFF, size)
        if not region.pointer and size:
            raise MissingMemory(f"the guest's {allocator} has no {size} bytes")
        self.memory.write(region.pointer, flat)
        return region

    def _reach(self, work: Callable[[GuestMemory], object]) -> object:
        if self._forked:
            raise refusal("the guest")

        if self.interrupted:
            raise Interrupted("the guest was interrupted")
        memory = self._instance.memory
        if memory is None:
            raise UsageError("the guest exports no memory")
        if isinstance(memory, BufferMemory):
            # There is nothing to wait for.
            return work(memory)

        def ask() -> object:
            try:
                return work(memory)
            except GuestTrap:
                # Its process was killed meanwhile.
                if self.interrupted:
                    raise Interrupted("the guest was interrupted") from None
                raise

        return self._attended(ask)

    def _bounded(self, work: Callable[[], T]) -> T:
        try:
            with self._forwarding(self.interrupt), Deadline(self.interrupt, self._timeout):
                result = work()
        except Interrupted:
            self._check_computed()
            raise
        self._check_computed()
        return result

    def _forwarding(self, interrupt: Callable[[], None]) -> AbstractContextManager[None]:
        return _ATTENDED if self.attended else ForwardSigint(interrupt)

    def _end_computing(self) -> None:
        self._computed = True
        self.interrupt()

    def _check_computed(self) -> None:
        if self._computed:
            seconds = self._session.policy.limits.compute_seconds
            text = f"quota compute-seconds: the guest has computed for its {seconds} s in all"
            raise DeadlineExceeded(text, "compute-seconds") from None

    def _attended(self, work: Callable[[], T]) -> T:
        def inside() -> T:
            outer = _running.get()
            if outer is self:
                # A host function calls its own guest.
                return self._bounded(work)
            token = _running.set(self)
            if outer is not None:
                outer._inner.add(self)
                if outer.interrupted:
                    self.interrupt()
            try:
                return self._bounded(work)
            finally:
                _running.reset(token)
                if outer is not None:
                    outer._inner.discard(self)

        return attend(inside, self.interrupt) if self._threads else inside()

    def _checked(self, export: str, arguments: tuple[float, ...]) -> tuple[Any, ...]:
        if self._forked:
            raise refusal("the guest")
        # The instance reports a missing export.
        if export not in self._signatures:
            return arguments
        return check_call(self._signatures[export], arguments)

    def _instantiate(self) -> int | None:
        if self._begun:
            return None
        self._begun = True
        started = time.perf_counter()
        try:
            return self._instance.instantiate()
        finally:
            self.instantiate_seconds = time.perf_counter() - started

    def interrupt(self) -> None:
        """Make the guest stop soon, with the computation that it waits for, and with the guests
        that its host functions run. Callable from any thread."""
        if self._forked:
            return
        self.interrupted = True
        # Only once: an inner guest may run this one.
        inner, self._inner = self._inner, set()
        self._instance.interrupt()
        self._session.cancel()
        if self._linked.sockets is not None:
            self._linked.sockets.stop()
        for guest in inner:
            guest.interrupt()

    def close(self) -> None:
        """Free the guest's graphs, contexts and store."""
        if not self._forked:
            with self._forwarding(_nothing):
                self._session.close()
                self._session.stdout = discard
                instance, self._instance = self._instance, _CLOSED
                instance.close()
                if self._linked.sockets is not None:
                    self._linked.sockets.close()
                # Its finalizer runs here: Python loses what a signal's handler raises in one.
                del instance
                if self.on_close is not None:
                    self.on_close(self)
                let_go(self)


class _Closed(Instance):
    """What remains of a guest's instance."""

    def instantiate(self) -> int | None:
        raise UsageError("the guest was closed")

    def start(self) -> int:
        raise UsageError("the guest was closed")

    def call(self, export: str, *arguments: float) -> tuple[int | float, ...]:
        raise UsageError("the guest was closed")

    @property
    def memory(self) -> None:
        raise UsageError("the guest was closed")

    def interrupt(self) -> None:
        """It has ended."""

    def close(self) -> None:
        """It is closed."""


_CLOSED = _Closed()


def in_guest() -> bool:
    """Whether the caller is in a host function or an output callback of a guest."""
    return _running.get() is not None


def _nothing() -> None:
    """The interrupt of work that ends soon by itself."""
