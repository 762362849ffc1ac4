"""Whether a thread looks for a message for a moment before it sleeps."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

# Longer than a small model takes if the other side sleeps and must be woken: with less, both sides
# would look in vain as soon as both have slept once.
_LOOK_SECONDS = 150e-6
_MAX_PAUSE = 1023
# The first messages of a connection load a graph and open a context, which takes longer.
_FIRST = 2


class Patience:
    """Decides it for one side of a connection, from what came of it before.

    If both sides have a core of their own, to look takes less time and less of the processor than
    to sleep and be woken (measured: a cycle of 50 µs in place of 110, and 100 µs of the processor
    in place of 160). If they share one, or the answer takes long, it is in vain. So the waits after
    one that looked in vain sleep at once: 1 of them, then 3, 7 and up to 1023."""

    def __init__(self) -> None:
        self._pause, self._left = 0, _FIRST

    def look(self, ready: Callable[[int], object]) -> None:
        """Look for a moment, or do not. ``ready``, which is called with 0, says whether there is a
        message."""
        if self._left:
            self._left -= 1
            return
        until = perf_counter() + _LOOK_SECONDS
        while not ready(0):
            if perf_counter() >= until:
                self._left = self._pause = min(2 * self._pause + 1, _MAX_PAUSE)
                return
        self._pause //= 2
