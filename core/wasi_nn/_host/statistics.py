"""What a host has done: its runs, what its policy refused, and the work of its models."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import accumulate
from typing import NamedTuple

from wasi_nn import _worker
from wasi_nn._host.result import RunResult
from wasi_nn._models.loading import LoadedGraph
from wasi_nn._process.fork import keep
from wasi_nn.backend import Generation
from wasi_nn.errors import (
    DeadlineExceeded,
    ForkedProcess,
    GuestError,
    GuestTrap,
    Interrupted,
    LimitExceeded,
    OutOfFuel,
)

# The bounds of the histogram of runs, in seconds.
_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
# How a guest's error is called. The first kind that fits holds.
_ENDS: dict[type[BaseException], str] = {
    GuestTrap: "trap",
    DeadlineExceeded: "deadline",
    OutOfFuel: "limit",
    LimitExceeded: "limit",
    Interrupted: "interrupted",
    KeyboardInterrupt: "interrupted",
    GuestError: "error",
    BaseException: "raised",
}


class ModelStatistics(NamedTuple):
    """A named model that is loaded.

    ``target`` is the execution target that was asked for, ``isolation`` says where it runs (see
    ``Policy``), and ``load_seconds`` is how long loading took. ``counts`` is what its graphs count
    of their work since then (``backend.Graph.statistics``); a backend's README lists the names.
    These are in use:

    - ``sequences``, ``kv_cells`` and ``kv_cells_used`` are at this moment: the open contexts of
      language models, and the cells of their cache.
    - ``steps`` of the decode loop have computed ``step_tokens`` of prompts and texts.
    - ``prefix_hits`` prompts began as another one did, and were copied that far.
    - ``batches`` were computed for ``requests``, with ``rows`` along the first dimension.
    - ``queue_seconds`` is how long all of them have waited for their turn.
    """

    backend: str
    encoding: str
    target: str
    isolation: str
    load_seconds: float
    counts: Mapping[str, float]


class Statistics(NamedTuple):
    """What a ``Host`` has done since it was made. (``worker_deaths``: since this process began.)

    - ``running`` guests run at this moment.
    - ``runs`` have ended, by outcome: ``ok``, ``exit_code`` (another one than 0), ``trap``,
      ``deadline``, ``limit`` (fuel, memory), ``interrupted``, ``error`` (another ``GuestError``)
      and ``raised`` (``Program.run`` raised: most did not start).
    - ``run_seconds`` is how long the guests ran in all, without their compilation.
    - ``durations`` counts runs by their seconds: those up to each bound, of which the last is
      infinite.
    - ``failed_calls`` gave guests an errno. ``refused`` counts what the rules of the policy
      refused, by the rules' names.
    - ``generation`` is what language models did for the guests.
    - ``workers`` belong to one guest each at this moment (``Limits.workers`` bounds them).
    - ``worker_deaths`` are workers that ended by themselves, or for what they did, by backend.
    - ``models`` are the named models that are loaded.

    Only ``Program.run``, ``Host.run`` and their other forms count as runs; a guest that you
    instantiate does not.
    """

    running: int
    runs: Mapping[str, int]
    run_seconds: float
    durations: Mapping[float, int]
    failed_calls: int
    refused: Mapping[str, int]
    generation: Generation
    workers: int
    worker_deaths: Mapping[str, int]
    models: Mapping[str, ModelStatistics]


class RunCounts:
    """Counts the runs of one host. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._runs = Counter(dict.fromkeys(("ok", "exit_code", *_ENDS.values()), 0))
        self._seconds = 0.0
        self._durations = [0] * (len(_BOUNDS) + 1)
        self._failed_calls = 0
        self._refused: Counter[str] = Counter()
        self._generation = Generation()
        keep(self)

    def forked(self) -> None:
        """This is a child process now, and the runs under way stayed in the parent."""
        self._lock = threading.Lock()
        self._running = 0

    def begin(self) -> None:
        """A run begins."""
        with self._lock:
            self._running += 1

    def fail(self, error: BaseException) -> None:
        """It raises."""
        with self._lock:
            self._running -= 1
            self._runs[_named(error)] += 1

    def end(self, result: RunResult) -> None:
        """It has ended."""
        seconds = result.timings.instantiate + result.timings.run
        with self._lock:
            self._running -= 1
            self._runs[_outcome(result)] += 1
            self._seconds += seconds
            self._durations[bisect_left(_BOUNDS, seconds)] += 1
            self._failed_calls += result.failed
            if result.refused:
                self._refused.update(result.refused)
            if result.generation is not None:
                self._generation = self._generation.plus(result.generation)

    def statistics(self, models: Mapping[str, Iterable[LoadedGraph]], workers: int) -> Statistics:
        """All of it, with what the graphs of the models count, and the number of workers."""
        described = {name: _described(list(graphs)) for name, graphs in models.items()}
        with self._lock:
            return Statistics(
                self._running,
                dict(self._runs),
                self._seconds,
                dict(zip((*_BOUNDS, float("inf")), accumulate(self._durations), strict=True)),
                self._failed_calls,
                dict(self._refused),
                self._generation,
                workers,
                dict(_worker.deaths),
                described,
            )


def _outcome(result: RunResult) -> str:
    if result.error is not None:
        return _named(result.error)
    return "exit_code" if result.exit_code else "ok"


def _named(error: BaseException) -> str:
    return next(name for kind, name in _ENDS.items() if isinstance(error, kind))


def _described(graphs: list[LoadedGraph]) -> ModelStatistics:
    """One model, of one graph or, with configs of guests, several."""
    counts: Counter[str] = Counter()
    for graph in graphs:
        # (In a child of a fork, it is the parent's.)
        with suppress(ForkedProcess):
            counts.update(graph.statistics())
    first = graphs[0]
    options = first.options
    described = first.backend.name, options.encoding, str(options.target), first.isolation
    return ModelStatistics(*described, first.seconds, dict(counts))
