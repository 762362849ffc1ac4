"""The worker processes of one guest."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wasi_nn._models.isolation import check_programs, isolation_of
from wasi_nn._process.fork import keep
from wasi_nn._session.cancellation import Cancellation
from wasi_nn._session.failures import Failures
from wasi_nn.backend import Backend, Builder
from wasi_nn.errors import QuotaExceeded, RuntimeFailure
from wasi_nn.policy import Policy

if TYPE_CHECKING:
    from wasi_nn._worker.process import Worker

# A guest whose models end this many workers gets no other one.
_MAX_WORKERS = 64
# The niceness of a worker for models that a guest brings: it gets a third of what a busy thread of
# the host gets, and does not interrupt what the operator's models compute.
_OWN_NICE = 5


class HostWorkers:
    """The workers that belong to the guests of one host, each to one guest. Thread-safe."""

    def __init__(self) -> None:
        self.forked()
        keep(self)

    def forked(self) -> None:
        """This is a child process now, and the workers are the parent's."""
        self._lock = threading.Lock()
        self._workers: weakref.WeakSet[Worker] = weakref.WeakSet()
        self._starting = 0
        #: Those of the models that guests bring.
        self.failures = Failures()

    def count(self) -> int:
        """How many of them live."""
        with self._lock:
            workers = list(self._workers)
        return sum(not worker.lost for worker in workers)

    def start(self, make: Callable[[], Worker], limit: int) -> Worker:
        """Start a worker. Raises ``QuotaExceeded`` if there are ``limit`` of them."""
        with self._lock:
            if len(self._workers) + self._starting >= limit:
                text = f"the guests of this host have {limit} workers, the most that they may"
                raise QuotaExceeded("workers", text)
            self._starting += 1
        worker: Worker | None = None
        try:
            worker = make()
            return worker
        finally:
            with self._lock:
                self._starting -= 1
                if worker is not None:
                    self._workers.add(worker)

    def close(self, worker: Worker) -> None:
        """End a worker."""
        worker.close()
        with self._lock:
            self._workers.discard(worker)


class Workers:
    """The workers that belong to one guest: one for each backend of its own models, and one for
    each named model that runs apart for each guest. Used by one thread at a time."""

    def __init__(self, policy: Policy, cancellation: Cancellation, all: HostWorkers) -> None:
        """``all`` are those of all guests."""
        self._all = all
        self._policy = policy
        self._cancellation = cancellation
        self._workers: dict[tuple[str, str | None], Worker] = {}
        self._started = 0

    def of_own_models(
        self, backend: Backend, encoding: str, builders: Sequence[Builder]
    ) -> Worker | None:
        """The worker for the guest's own models; None if they run in the host's process. Raises
        ``NotAllowed`` for models that are programs, where nothing restricts them.

        A path comes from the program that embeds the host, not from the guest."""
        paths = [builder for builder in builders if isinstance(builder, Path)]
        if paths:
            isolation = isolation_of(backend, encoding, self._policy, "")
            return None if isolation == "none" else self._worker(backend, str(paths), paths)
        isolation = isolation_of(backend, encoding, self._policy)
        check_programs(backend, encoding, self._policy, isolation)
        return None if isolation == "none" else self._worker(backend, None, (), own=True)

    def of_named_model(
        self, backend: Backend, name: str, read: Sequence[Path], confined: bool
    ) -> Worker:
        """The worker for a named model that runs apart for each guest. It may read ``read``."""
        return self._worker(backend, name, read, confined)

    def stop(self) -> None:
        """End them all now. Callable from any thread."""
        for worker in list(self._workers.values()):
            worker.stop()

    def close(self) -> None:
        """End them all, and free what the host has for them."""
        while self._workers:
            self._all.close(self._workers.popitem()[1])

    def _worker(
        self,
        backend: Backend,
        name: str | None,
        read: Sequence[Path],
        confined: bool = True,
        own: bool = False,
    ) -> Worker:
        from wasi_nn._worker.process import Worker

        key = backend.name, name
        worker = self._workers.get(key)
        if worker is not None and not worker.lost:
            return worker
        if worker is not None:
            self._all.close(self._workers.pop(key))
        self._started += 1
        if self._started > _MAX_WORKERS:
            raise RuntimeFailure(
                f"the guest's models have ended {_MAX_WORKERS} workers: it gets no other one"
            )
        limits, stopped = self._policy.limits, self._cancellation.is_requested
        memory = limits.host_memory_bytes()
        nice, failed = (_OWN_NICE, self._all.failures.wait) if own else (0, None)
        worker = self._workers[key] = self._all.start(
            lambda: Worker(backend, read, memory, True, stopped, confined, nice, failed),
            limits.workers,
        )
        return worker
