"""Waiting in a host function, for a time or for standard input."""

from __future__ import annotations

import select
import threading
import time

from wasi_nn.errors import Interrupted

__all__ = ["Pause"]

# How often a guest that waits for a descriptor checks whether it must stop, in seconds.
_POLL_SECONDS = 0.05


class Pause:
    """Lets the host functions of one guest wait. ``stop`` ends a wait at once.

    ``EngineInstance.pause`` is the one of its guest. An engine's own functions wait in the system,
    where no deadline can end them."""

    def __init__(self) -> None:
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End the wait of another thread, and all later ones."""
        self._stopped.set()

    def wait(self, seconds: float | None, descriptor: int | None = None) -> bool:
        """Wait for ``seconds`` (None for no limit) or, if a ``descriptor`` is given, until it can
        be read. Returns whether it can. Raises ``Interrupted`` when the guest must stop."""
        end = threading.TIMEOUT_MAX if seconds is None else time.monotonic() + seconds
        while True:
            left = min(max(0.0, end - time.monotonic()), threading.TIMEOUT_MAX)
            readable = False
            if descriptor is None:
                self._stopped.wait(left)
            else:
                readable = _is_readable(descriptor, min(left, _POLL_SECONDS))
            if self._stopped.is_set():
                raise Interrupted("the guest was interrupted")
            if readable or time.monotonic() >= end:
                return readable


def _is_readable(descriptor: int, seconds: float) -> bool:
    """Whether a read returns at once, within ``seconds``. An error and an end of the file count."""
    if not hasattr(select, "poll"):
        # Windows: only sockets can be waited for.
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
