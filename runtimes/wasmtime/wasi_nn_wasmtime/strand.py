"""A thread of its own for a guest that can wait in wasmtime's WASI.

A component sleeps, polls and reads in wasmtime's functions. Nothing can end such a wait, and the C
API cannot put other functions in their place: a `pollable` is a resource of wasmtime's own. So the
host can leave the guest behind. It is stopped as soon as it wakes, and then its store is freed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextvars import copy_context
from typing import Any, TypeVar

from wasi_nn.errors import Interrupted, LimitExceeded

T = TypeVar("T")
# How long a guest that must stop may take to notice, in seconds.
_STOP_SECONDS = 0.2
# How often the host looks whether such a guest has left a host function.
_POLL_SECONDS = 0.02
# The most guests that wait although they must stop. Each has a thread and a store.
_MAX_LEFT = 64
_WAITING = ("wasi:io/poll", "wasi:io/streams", "wasi:filesystem/", "wasi:sockets/")

_left: set[threading.Thread] = set()


def can_wait(imports: Iterable[str]) -> bool:
    """Whether a component with these imports can wait in wasmtime's functions."""
    return any(name.startswith(_WAITING) for name in imports)


class Strand:
    """Runs one guest in threads that the host can leave."""

    def __init__(self) -> None:
        self._news = threading.Event()
        self._stopped = False
        self._in_host = False
        # Whether the guest may call no host function any more.
        self._ends = False
        self._lock = threading.Lock()
        self._running = False
        self._afterwards: Callable[[], None] | None = None

    def stop(self) -> None:
        """Make ``call`` return soon. Callable from any thread."""
        self._stopped = True
        self._news.set()

    def within(self, function: Callable[..., T]) -> Callable[..., T]:
        """A host function during which the guest is not left. What it uses is the host's, which
        ends it otherwise."""

        def inside(*arguments: Any) -> T:
            self._in_host = True
            try:
                # In this order: whoever leaves the guest sees us inside, or we see that it ends.
                if self._ends:
                    raise Interrupted("the guest was interrupted")
                return function(*arguments)
            finally:
                self._in_host = False

        return inside

    def call(self, work: Callable[[], T]) -> T:
        """The result of ``work``, from another thread. Raises ``Interrupted`` if the guest is left,
        and ``LimitExceeded`` if too many guests were left and still wait."""
        _left.difference_update([thread for thread in tuple(_left) if not thread.is_alive()])
        if len(_left) >= _MAX_LEFT:
            raise LimitExceeded(
                f"{len(_left)} components still wait although they were stopped: no other one that "
                "can wait is run until one of them wakes"
            )
        results: list[T] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                results.append(work())
            except BaseException as error:
                errors.append(error)
            finally:
                self._finish()

        thread = threading.Thread(
            target=copy_context().run, args=(run,), name="wasi-nn component", daemon=True
        )
        self._news.clear()
        if self._stopped:
            self._news.set()
        self._running = True
        try:
            thread.start()
        except RuntimeError as error:
            self._running = False
            raise LimitExceeded(f"the component has no thread: {error}") from error
        self._news.wait()
        if self._running:
            thread.join(_STOP_SECONDS)
            self._ends = True
            while self._running and self._in_host:
                thread.join(_POLL_SECONDS)
        if self._running:
            _left.add(thread)
            raise Interrupted("the guest was interrupted while it waited")
        if errors:
            # Its traceback refers to this frame: a cycle would keep the guest alive.
            raise errors.pop()
        return results.pop()

    def _finish(self) -> None:
        with self._lock:
            self._running = False
            afterwards = self._afterwards
        self._news.set()
        if afterwards is not None:
            afterwards()

    def after(self, close: Callable[[], None]) -> None:
        """Call ``close`` now, or as soon as no thread is in the guest."""
        with self._lock:
            if self._running:
                self._afterwards = close
                return
        close()
