"""Waiting in a host function, for a time or for descriptors of the host."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Mapping

from wasi_nn.errors import Interrupted

__all__ = ["READABLE", "WRITABLE", "Pause"]

#: What to wait for at a descriptor. (They are ``poll``'s, where the system has it.)
READABLE, WRITABLE = 1, 4
_NOTHING: Mapping[int, int] = {}
# ``poll`` takes a C int.
_MAX_MILLISECONDS = (1 << 31) - 1


class Pause:
    """Lets the host functions of one guest wait. ``stop`` ends a wait at once.

    ``EngineInstance.pause`` is the one of its guest. An engine's own functions wait in the system,
    where no deadline can end them."""

    def __init__(self) -> None:
        self._stopped = False
        # Made by the first wait for a time.
        self._alarm: threading.Event | None = None
        # Made by the first wait for a descriptor. A byte in it ends that wait.
        self._bell: _Bell | None = None

    def stop(self) -> None:
        """End the wait of another thread, and all later ones."""
        self._stopped = True
        if self._alarm is not None:
            self._alarm.set()
        bell = self._bell
        if bell is not None:
            bell.ring()

    def close(self) -> None:
        """Let go of what waits took. Only where no thread waits."""
        self._bell = None

    def wait(
        self, seconds: float | None, descriptors: Mapping[int, int] = _NOTHING
    ) -> Mapping[int, int]:
        """Wait for ``seconds`` (None for no limit) or, if there are ``descriptors``, until one of
        them is ready. They are descriptors of the host, each with ``READABLE``, ``WRITABLE`` or
        both. Returns those that are ready, with the events of ``poll`` (an error and an end count).
        Raises ``Interrupted`` when the guest must stop."""
        ready = _NOTHING
        # (In this order: whoever stops finds alarm and bell, or we find that we are stopped.)
        if not descriptors:
            if self._alarm is None:
                self._alarm = threading.Event()
            if not self._stopped:
                self._alarm.wait(None if seconds is None else min(seconds, threading.TIMEOUT_MAX))
        else:
            if self._bell is None and seconds != 0:
                self._bell = _Bell()
            if not self._stopped:
                ready = _ready(descriptors, self._bell, seconds)
        if self._stopped:
            raise Interrupted("the guest was interrupted")
        return ready


class _Bell:
    """A pipe that is readable once it was rung."""

    def __init__(self) -> None:
        self.descriptor, self._rope = os.pipe()

    def ring(self) -> None:
        os.write(self._rope, b"!")

    def __del__(self) -> None:
        os.close(self.descriptor)
        os.close(self._rope)


def _ready(
    descriptors: Mapping[int, int], bell: _Bell | None, seconds: float | None
) -> Mapping[int, int]:
    if not hasattr(select, "poll"):
        # Windows: only sockets can be waited for, and standard input is not one.
        return descriptors
    poll = select.poll()
    for descriptor, events in descriptors.items():
        poll.register(descriptor, events)
    if bell is not None:
        poll.register(bell.descriptor, READABLE)
    end = None if seconds is None else time.monotonic() + seconds
    while True:
        left = None if end is None else max(0.0, end - time.monotonic())
        found = dict(poll.poll(None if left is None else min(left * 1000, _MAX_MILLISECONDS)))
        if bell is not None:
            found.pop(bell.descriptor, None)
        if found or left is None or left <= _MAX_MILLISECONDS / 1000:
            return found
