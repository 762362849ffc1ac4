"""What one guest computes: seconds and tokens, counted against the guest's limits.

One thread ends the computations of all guests. It looks at each meter that has a limit on seconds,
at the moment when the meter's present computation, or one that began now, would be above the limit.
So a computation costs no thread, no timer and no system call.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from time import monotonic

from wasi_nn.errors import OutOfTokens, QuotaExceeded
from wasi_nn.limits import Limits

#: The rules that end a computation.
TIMES = ("compute-timeout", "compute-seconds")
_UNLIMITED = 1 << 63
#: The thread looks no more often than this, in seconds.
_SHORTEST_WAIT = 0.01


class _Call:
    """A computation that is under way."""

    __slots__ = ("cancel", "due", "expired", "rule", "started")

    def __init__(self, allowed: float, rule: str, cancel: Callable[[], None]) -> None:
        self.started = monotonic()
        self.due = self.started + allowed
        self.rule = rule
        self.cancel = cancel
        self.expired = False


class Meter:
    """The seconds and tokens that a guest may still compute. Without limits it refuses nothing.

    One thread at a time computes. Close a meter that has a limit on seconds."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._timeout = None if limits is None else limits.compute_timeout
        self._limit = self._left = None if limits is None else limits.compute_seconds
        #: Whether seconds are limited: computations must go through ``run``.
        self.timed = self._timeout is not None or self._left is not None
        self._call: _Call | None = None
        self._lock = threading.Lock()
        #: Called when the seconds of all computations are used up, in any thread.
        self.on_end: Callable[[], None] = _nothing
        #: The tokens that language models may still generate.
        self.tokens = _UNLIMITED if limits is None else limits.tokens
        if self.timed:
            _watch.add(self)

    def close(self) -> None:
        """There will be no further computation."""
        if self.timed:
            _watch.remove(self)

    def check_tokens(self) -> None:
        """Raise ``OutOfTokens`` if no further token may be generated."""
        if self.tokens <= 0:
            raise OutOfTokens

    def run(self, compute: Callable[[], None], cancel: Callable[[], None]) -> None:
        """Compute. ``cancel`` is called in another thread when a limit is reached; it must make
        ``compute`` end soon. Raises ``QuotaExceeded`` then, whatever ``compute`` does."""
        allowed, rule = self._allowed()
        if allowed <= 0 and rule == "compute-seconds":
            self.on_end()
            raise self._exceeded(rule)
        call = self._call = _Call(allowed, rule, cancel)
        try:
            try:
                compute()
            finally:
                self._finish(call)
        except Exception as error:
            if call.expired:
                raise self._exceeded(rule) from error
            raise
        if call.expired:
            raise self._exceeded(rule)

    def _allowed(self) -> tuple[float, str]:
        """The seconds of the next computation, and the rule that says so."""
        if self._left is None or (self._timeout is not None and self._timeout <= self._left):
            return self._timeout or 0.0, "compute-timeout"
        return self._left, "compute-seconds"

    def _finish(self, call: _Call) -> None:
        with self._lock:
            self._call = None
        if self._left is not None:
            self._left -= monotonic() - call.started

    def _exceeded(self, rule: str) -> QuotaExceeded:
        if rule == "compute-seconds":
            return QuotaExceeded(rule, f"the guest has computed for its {self._limit} s in all")
        return QuotaExceeded(rule, f"the computation took more than {self._timeout} s")

    def look(self, now: float) -> float:
        """End the present computation if it is due. Returns when to look again."""
        call = self._call
        if call is None or call.expired:
            return now + self._allowed()[0]
        if call.due > now:
            return call.due
        with self._lock:
            # Not a computation that has ended meanwhile: its context is in use.
            if self._call is not call:
                return now
            call.expired = True
            call.cancel()
        if call.rule == "compute-seconds":
            self.on_end()
        return now + self._allowed()[0]


class _Watch:
    """The thread that looks at all meters. It lives as long as there are any."""

    def __init__(self) -> None:
        self._clear()
        os.register_at_fork(after_in_child=self._clear)

    def _clear(self) -> None:
        self._meters: weakref.WeakSet[Meter] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._runs = False

    def add(self, meter: Meter) -> None:
        with self._lock:
            self._meters.add(meter)
            if not self._runs:
                self._runs = True
                threading.Thread(target=self._run, name="wasi-nn quotas", daemon=True).start()
        self._news.set()

    def remove(self, meter: Meter) -> None:
        with self._lock:
            self._meters.discard(meter)
        self._news.set()

    def _run(self) -> None:
        while True:
            self._news.clear()
            with self._lock:
                meters = list(self._meters)
                if not meters:
                    self._runs = False
                    return
            now = monotonic()
            next_look = min(meter.look(now) for meter in meters)
            del meters
            self._news.wait(max(next_look - now, _SHORTEST_WAIT))


def _nothing() -> None:
    """Nobody must end."""


_watch = _Watch()
