"""Compiling in a thread of its own, so that those who wait for it can leave.

An engine's compiler cannot be interrupted. It takes a minute for a module of 130,000 functions, and
as long for one of 5 KB with loops and locals for which its work is quadratic. So it runs in its own
thread, and a waiter can leave at any moment: after Ctrl-C, a deadline or an interrupt. If nobody
waits any more, an engine in another process is ended. A compiler in this process continues, and
whoever wants the same code later waits for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Generic, TypeVar

from wasi_nn._process.compilation import here, waiting
from wasi_nn._process.fork import keep
from wasi_nn.errors import Interrupted, UsageError
from wasi_nn.runtime import GuestMemory, Instance

T = TypeVar("T")
# The system may deliver a signal to another thread, so the main thread must look, this often.
_POLL_SECONDS = 0.5
_STOPPED = "the guest was interrupted while it was being compiled"


class StillCompiling(Interrupted):
    """The guest was stopped before it was compiled."""


class Waiter:
    """One wait for code, which can be stopped. Used once."""

    def __init__(self) -> None:
        self.stopped = False
        self._wake = threading.Event()

    def stop(self) -> None:
        """Stop waiting. Callable from any thread, and before the wait."""
        self.stopped = True
        self.wake()

    def wake(self) -> None:
        """End ``sleep``: something has changed."""
        self._wake.set()

    def sleep(self) -> None:
        """Wait for ``wake``, for half a second at most."""
        self._wake.wait(_POLL_SECONDS)


class Code(Generic[T]):
    """A guest's code, compiled once, when it is first needed. Thread-safe."""

    def __init__(self, compile: Callable[[], T]) -> None:
        self._compile = compile
        self._lock = threading.Lock()
        self._job: _Job[T] | None = None
        #: The code; None until it is compiled.
        self.made: T | None = None
        #: The time that compiling took; 0 until it is done.
        self.seconds = 0.0
        keep(self)

    def forked(self) -> None:
        """This is a child process now, and the compiler's thread stayed in the parent."""
        self._lock = threading.Lock()
        self._job = None

    def get(self, waiter: Waiter) -> T:
        """Return the code, and compile it first if necessary. Raises what the compiler raises, and
        ``StillCompiling`` if the waiter is stopped before the code is there."""
        if self.made is not None:
            return self.made
        with self._lock:
            # A job that was ended, or has failed, cannot be joined: try again with a new one.
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
        made = self.made = job.result()
        # Free the guest's bytes, which it held: there will be no further job.
        self._compile = lambda: made
        return made

    def _timed(self) -> T:
        started = time.perf_counter()
        made = self._compile()
        self.seconds = time.perf_counter() - started
        return made


class _Job(Generic[T]):
    """One compilation in a thread, with its waiters."""

    def __init__(self, compile: Callable[[], T], waiter: Waiter) -> None:
        self._waiters = [waiter]
        self._lock = threading.Lock()
        self._end: Callable[[], None] | None = None
        self._ended = False
        self._made: list[T] = []
        self.error: BaseException | None = None
        self.done = False
        thread = threading.Thread(
            target=self._work, args=(compile,), name="wasi-nn compiler", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            # There are no more threads, or Python is exiting (3.12 starts none then).
            self._work(compile)

    def join(self, waiter: Waiter) -> bool:
        """Wait for this job too. False if it has failed or was ended."""
        with self._lock:
            if self._ended or self.error is not None:
                return False
            self._waiters.append(waiter)
        return True

    def result(self) -> T:
        """The code, when the job is done. Raises what the compiler raised."""
        if self.error is not None:
            raise self.error
        return self._made[0]

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
        outer, here.endable = here.endable, self.endable
        try:
            self._made.append(compile())
        except BaseException as error:
            self.error = error
        finally:
            here.endable = outer
        with self._lock:
            self.done = True
            for waiter in self._waiters:
                waiter.wake()


class PendingInstance(Instance, Generic[T]):
    """An instance of code that is not compiled yet. ``instantiate`` waits for the code."""

    def __init__(self, code: Code[T], prepare: Callable[[T], Instance]) -> None:
        self._waiter = Waiter()
        self._code = code
        self._prepare = prepare
        self._instance: Instance | None = None

    def instantiate(self) -> int | None:
        instance = self._instance = self._prepare(self._code.get(self._waiter))
        # Either ``interrupt`` sees the instance, or we see here that we are stopped.
        if self._waiter.stopped:
            raise Interrupted("the guest was interrupted before it ran")
        return instance.instantiate()

    def start(self) -> int:
        return self._present().start()

    def call(self, export: str, *arguments: float) -> tuple[int | float, ...]:
        return self._present().call(export, *arguments)

    @property
    def memory(self) -> GuestMemory | None:
        return None if self._instance is None else self._instance.memory

    def interrupt(self) -> None:
        self._waiter.stop()
        if self._instance is not None:
            self._instance.interrupt()

    def close(self) -> None:
        if self._instance is not None:
            self._instance.close()

    @property
    def refused(self) -> Mapping[str, int]:
        return {} if self._instance is None else self._instance.refused

    def _present(self) -> Instance:
        if self._instance is None:
            raise UsageError("the guest was not instantiated")
        return self._instance


def instance_of(code: Code[T], prepare: Callable[[T], Instance]) -> Instance:
    """An instance of the code, or one that waits for the code to be compiled."""
    return PendingInstance(code, prepare) if code.made is None else prepare(code.made)
