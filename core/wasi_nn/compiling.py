"""Compiling where it can be given up: in a thread of its own, unless it is short.

An engine's compiler hears nothing until it is done, which takes a minute for a module of 130,000
functions. So nobody waits in it for a large module. Who waits can leave at any moment: for Ctrl-C,
a deadline or an interrupt. An engine in a process of its own is then ended; a compiler in this
process goes on in its thread, and whoever wants the same code later waits for that one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Generic, Protocol, TypeVar

from wasi_nn.errors import Interrupted, UsageError
from wasi_nn.runtime import Instance

T = TypeVar("T")
# Bytes from which a thread starts: it costs 0.1 ms, and the compiler of such a module 20 at least.
_LARGE = 64 << 10


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
        """Wait for ``wake``."""
        self._wake.wait()


class Code(Generic[T]):
    """A guest's code, compiled once, when it is first wanted. Thread-safe."""

    def __init__(self, compile: Callable[[], T], size: int) -> None:
        """``size`` is that of the guest, in bytes."""
        self._compile = compile
        self._large = size >= _LARGE
        self._lock = threading.Lock()
        self._job: _Job[T] | None = None
        self._made: T | None = None
        #: What compiling took; 0 until it is done.
        self.seconds = 0.0

    def ready(self) -> T | None:
        """The code, where it is there, or is compiled in no time. Raises what the compiler does."""
        if self._made is None and not self._large:
            with self._lock:
                if self._made is None:
                    started = time.perf_counter()
                    self._made = self._compile()
                    self.seconds = time.perf_counter() - started
        return self._made

    def get(self, waiter: Waiter) -> T:
        """The code; compiles it where nobody has. Raises what the compiler does, and
        ``StillCompiling`` when the waiter is stopped before."""
        made = self.ready()
        if made is not None:
            return made
        with self._lock:
            job = self._job
            if job is None:
                job = self._job = _Job(self._compile)
            job.join(waiter)
        try:
            while not job.done and not waiter.stopped:
                waiter.sleep()
        finally:
            with self._lock:
                given_up = job.leave(waiter) and not job.done
                if self._job is job and (job.error is not None or (given_up and job.ended)):
                    # The next one tries again.
                    self._job = None
        if not job.done:
            raise StillCompiling("the guest was interrupted while it was being compiled")
        if job.error is not None:
            raise job.error
        assert job.made is not None
        self._made, self.seconds = job.made, job.seconds
        return job.made


class _Job(Generic[T]):
    """One compilation in a thread. ``join`` and ``leave`` are called under the code's lock."""

    def __init__(self, compile: Callable[[], T]) -> None:
        self._compile = compile
        self._waiters: list[Waiter] = []
        self._end: Callable[[], None] | None = None
        self._lock = threading.Lock()
        self.made: T | None = None
        self.error: BaseException | None = None
        self.seconds = 0.0
        self.done = False
        #: Whether it was ended because nobody waited.
        self.ended = False
        threading.Thread(target=self._work, name="wasi-nn compiler", daemon=True).start()

    def join(self, waiter: Waiter) -> None:
        self._waiters.append(waiter)
        if self.done:
            waiter.wake()

    def leave(self, waiter: Waiter) -> bool:
        """Whether nobody waits any more; then what can be ended is ended."""
        self._waiters.remove(waiter)
        if self._waiters:
            return False
        with self._lock:
            self.ended = self._end is not None
            if self._end is not None:
                self._end()
        return True

    @contextmanager
    def endable(self, end: Callable[[], None]) -> Iterator[None]:
        with self._lock:
            self._end = end
        try:
            yield
        finally:
            with self._lock:
                self._end = None

    def _work(self) -> None:
        _here.job = self
        started = time.perf_counter()
        try:
            self.made = self._compile()
        except BaseException as error:
            self.error = error
        self.seconds = time.perf_counter() - started
        self.done = True
        for waiter in list(self._waiters):
            waiter.wake()


class _Endable(Protocol):
    """What a job offers to the compiler that runs in it."""

    def endable(self, end: Callable[[], None]) -> AbstractContextManager[None]: ...


class _Here(threading.local):
    """The compilation that runs in this thread."""

    job: _Endable | None = None


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

    def call(self, export: str, *arguments: int) -> tuple[int | float, ...]:
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
    made = code.ready()
    return PendingInstance(code, prepare) if made is None else prepare(made)
