"""The models of guests that fail, and the turns that their guests wait for.

Each failure costs the host a process that begins and ends, and a millisecond in Python, where its
other threads wait. So guests that load models in a loop slow all others down, unless they wait.
"""

from __future__ import annotations

import threading
import time

from wasi_nn.backend.shared import Stopped

#: Failures at once, and later in each second.
AT_ONCE, PER_SECOND = 16, 4
# The longest that one guest waits, and how often it looks whether it must end, in seconds.
_MAX_WAIT, _LOOK = 1.0, 0.05


class Failures:
    """The failures of the guests of one host. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: When all of them are forgotten.
        self._until = 0.0

    def wait(self, stopped: Stopped) -> None:
        """One model more has failed. Returns when its guest may go on, or must end."""
        free = AT_ONCE / PER_SECOND
        with self._lock:
            now = time.monotonic()
            until = max(self._until, now) + 1 / PER_SECOND
            self._until = min(until, now + free + _MAX_WAIT)
            due = self._until - free
        while (left := due - time.monotonic()) > 0 and not stopped():
            time.sleep(min(left, _LOOK))
