"""Sightglass' module `bench`: a benchmark guest calls `start` and `end` around what it measures.

They only record the time, so that the guests of bytecodealliance/sightglass run unchanged.
"""

from __future__ import annotations

import time
from collections import deque

from wasi_nn.runtime import GuestMemory, HostFunction

MODULE = "bench"
# A real benchmark records a handful of spans. A hostile guest could record spans without end.
_MAX_SPANS = 10_000


class BenchTimer:
    """The spans between ``start`` and ``end``, in seconds: the latest 10,000."""

    def __init__(self) -> None:
        self.spans: deque[float] = deque(maxlen=_MAX_SPANS)
        self._started: float | None = None

    def start(self, memory: GuestMemory | None) -> None:
        self._started = time.perf_counter()

    def end(self, memory: GuestMemory | None) -> None:
        if self._started is not None:
            self.spans.append(time.perf_counter() - self._started)
            self._started = None

    def host_functions(self) -> list[HostFunction]:
        return [
            HostFunction(MODULE, "start", 0, False, self.start),
            HostFunction(MODULE, "end", 0, False, self.end),
        ]
