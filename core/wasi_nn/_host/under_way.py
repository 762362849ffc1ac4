"""What runs in one host, so that closing the host can end it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from wasi_nn._process.fork import keep
from wasi_nn.errors import UsageError

if TYPE_CHECKING:
    from wasi_nn._host.guest import Guest


class UnderWay:
    """The runs and the open guests of one host. Thread-safe."""

    def __init__(self) -> None:
        # Its lock is reentrant: a signal handler may close the host at any place.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        # How to interrupt each run, and the thread that waits for it.
        self._runs: dict[Callable[[], None], int] = {}
        self._guests: weakref.WeakSet[Guest] = weakref.WeakSet()
        self._closed = False
        keep(self)

    def forked(self) -> None:
        """This is a child process now, and what runs stayed in the parent."""
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._runs = {}
        self._guests = weakref.WeakSet()

    def check(self) -> None:
        """Raise ``UsageError`` if the host was closed."""
        if self._closed:
            raise UsageError("the host was closed: make another Host")

    def begin(self, interrupt: Callable[[], None]) -> None:
        """A run begins. Raises ``UsageError`` if the host was closed."""
        with self._lock:
            self.check()
            self._runs[interrupt] = threading.get_ident()

    def end(self, interrupt: Callable[[], None]) -> None:
        """It has ended."""
        with self._lock:
            self._runs.pop(interrupt, None)
            if self._closed:
                self._changed.notify_all()

    def hold(self, guest: Guest) -> None:
        """A guest is open, and its owner closes it. Raises ``UsageError`` if the host was
        closed."""
        with self._lock:
            self.check()
            self._guests.add(guest)
        guest.on_close = self._guests.discard

    def close(self, timeout: float, within: bool) -> None:
        """Refuse what comes next. After ``timeout`` seconds, interrupt what has not ended, and wait
        for the end of the runs. With ``within``, the caller is in a guest: do not wait."""
        with self._changed:
            self._closed = True
            # A caller whose own thread waits for a run would wait for itself.
            waits = not within and threading.get_ident() not in self._runs.values()
            if waits:
                self._changed.wait_for(lambda: not self._runs, min(timeout, threading.TIMEOUT_MAX))
            left = [*self._runs, *(guest.interrupt for guest in self._guests)]
        for interrupt in left:
            interrupt()
        if waits:
            with self._changed:
                self._changed.wait_for(lambda: not self._runs)
