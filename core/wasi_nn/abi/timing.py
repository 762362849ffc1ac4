"""Sightglass' module `bench`: two calls by which a benchmark guest marks what it measures.

They do nothing but note the time (bytecodealliance/sightglass, its benchmarks' `bench.start` and
`bench.end`), so that such guests run unchanged.
"""

from __future__ import annotations

import time

from wasi_nn.runtime import GuestMemory, HostFunction

MODULE = "bench"


class BenchTimer:
    """The spans between ``start`` and ``end``, in seconds."""

    def __init__(self) -> None:
        self.spans: list[float] = []
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
