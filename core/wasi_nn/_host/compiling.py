"""Compiling where it can be given up: in a thread of its own.

An engine's compiler hears nothing until it is done. That takes a minute for a module of 130,000
functions, and as long for one of 5 KB whose loops and locals make the compiler's work grow with the
square of it. So nobody waits in it. Who waits can leave at any moment: for Ctrl-C, a deadline or an
interrupt. An engine in a process of its own is then ended; a compiler in this process goes on in
its thread, and whoever wants the same code later waits for that one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

from wasi_nn._process.fork import keep
from wasi_nn.errors import Interrupted, UsageError
from wasi_nn.runtime import Instance

T = TypeVar("T")
# A signal can reach another thread than the main one, which then has to look, in seconds.
_SLICE = 0.5
_STOPPED = "the guest was interrupted while it was being compiled"
#: Makes a block for each wait for a compiler, so that a user can be told of a long one.
waiting: ContextVar[Callable[[], AbstractContextManager[None]]] = ContextVar(
    "waiting", default=nullcontext
)


class StillCompiling(Interrupted):
    """Somebody stopped the guest before its code was there."""


class Waiter:
    """One that waits for code, and can be told to stop. Used once."""

    def __init__(self) -> None:
        self.stopped = False
        self._wake = threading.Event()

    def stop(self) -> None:
        """Stop waiting. Callable from any thread, before the wait too."""
        self.stopped = True
        self.wake()

    def wake(self) -> None:
        """There is something to look at."""
        self._wake.set()

    def sleep(self) -> None:
        """Wait for ``wake``, or a while."""
        self._wake.wait(_SLICE)


class Code(Generic[T]):
    """A guest's code, compiled once, when it is first wanted. Thread-safe."""

    def __init__(self, compile: Callable[[], T]) -> None:
        self._compile: Callable[[], T] | None = compile
        self._lock = threading.Lock()
        self._job: _Job[T] | None = None
        #: The code, where it is there.
        self.made: T | None = None
        #: What compiling took; 0 until it is done.
        self.seconds = 0.0
        keep(self)

    def forked(self) -> None:
        """In a child process: whoever compiled stayed in the parent."""
        self._lock = threading.Lock()
        self._job = None

    def get(self, waiter: Waiter) -> T:
        """The code; compiles it where nobody has. Raises what the compiler does, and
        ``StillCompiling`` when the waiter is stopped before."""
        if self.made is not None:
            return self.made
        with self._lock:
            # A job that was ended, or has failed, takes nobody: then the next one tries again.
            if self._job is None or not self._job.join(waiter):
                if waiter.stopped:
                    raise StillCompiling(_STOPPED)
                self._job = _Job(self._timed, waiter)
            job = self._job
        try:
            with waiting.get()():
                while not job.done and not waiter.stopped:
                    waiter.sleep()
        finally:
            job.leave(waiter)
        if waiter.stopped:
            raise StillCompiling(_STOPPED)
        if job.error is not None:
            raise job.error
        assert job.made is not None
        self.made = job.made
        # (It holds the guest's bytes. A job with a waiter to its end is the last one.)
        self._compile = None
        return job.made

    def _timed(self) -> T:
        assert self._compile is not None
        started = time.perf_counter()
        made = self._compile()
        self.seconds = time.perf_counter() - started
        return made


class _Job(Generic[T]):
    """One compilation in a thread, and those who wait for it."""

    def __init__(self, compile: Callable[[], T], waiter: Waiter) -> None:
        self._waiters = [waiter]
        self._lock = threading.Lock()
        self._end: Callable[[], None] | None = None
        self._ended = False
        self.made: T | None = None
        self.error: BaseException | None = None
        self.done = False
        thread = threading.Thread(
            target=self._work, args=(compile,), name="wasi-nn compiler", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            # No more threads, or the program ends (Python 3.12 starts none then).
            self._work(compile)

    def join(self, waiter: Waiter) -> bool:
        """Wait too; False where it comes to nothing."""
        with self._lock:
            if self._ended or self.error is not None:
                return False
            self._waiters.append(waiter)
        return True

    def leave(self, waiter: Waiter) -> None:
        with self._lock:
            self._waiters.remove(waiter)
            self._end_if_alone()

    @contextmanager
    def endable(self, end: Callable[[], None]) -> Iterator[None]:
        with self._lock:
            self._end = end
            self._end_if_alone()
        try:
            yield
        finally:
            with self._lock:
                self._end = None

    def _end_if_alone(self) -> None:
        if not self._waiters and self._end is not None:
            self._ended = True
            self._end()

    def _work(self, compile: Callable[[], T]) -> None:
        _here.job = self
        try:
            self.made = compile()
        except BaseException as error:
            self.error = error
        finally:
            _here.job = None
        with self._lock:
            self.done = True
            for waiter in self._waiters:
                waiter.wake()


class _Here(threading.local):
    """The compilation that runs in this thread."""

    job: _Job[Any] | None = None


_here = _Here()


@contextmanager
def endable(end: Callable[[], None]) -> Iterator[None]:
    """Within the block, a compilation that nobody waits for any more is ended with ``end``, in
    another thread. For engines whose compiler is another process."""
    if _here.job is None:
        yield
        return
    with _here.job.endable(end):
        yield


class PendingInstance(Instance, Generic[T]):
    """An instance of code that is still to be compiled: ``instantiate`` waits for it."""

    def __init__(self, code: Code[T], prepare: Callable[[T], Instance]) -> None:
        self._waiter = Waiter()
        self._code = code
        self._prepare = prepare
        self._instance: Instance | None = None

    def instantiate(self) -> int | None:
        instance = self._instance = self._prepare(self._code.get(self._waiter))
        # Whoever interrupts finds the instance, or we find that we are stopped.
        if self._waiter.stopped:
            raise Interrupted("the guest was interrupted before it ran")
        return instance.instantiate()

    def start(self) -> int:
        return self._present().start()

    def call(self, export: str, *arguments: float) -> tuple[int | float, ...]:
        return self._present().call(export, *arguments)

    def interrupt(self) -> None:
        self._waiter.stop()
        if self._instance is not None:
            self._instance.interrupt()

    def close(self) -> None:
        if self._instance is not None:
            self._instance.close()

    def _present(self) -> Instance:
        if self._instance is None:
            raise UsageError("the guest was not instantiated")
        return self._instance


def instance_of(code: Code[T], prepare: Callable[[T], Instance]) -> Instance:
    """An instance of code: one that waits, where it is not compiled yet."""
    return PendingInstance(code, prepare) if code.made is None else prepare(code.made)
