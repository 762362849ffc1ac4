"""Why a request to a worker has no answer, and when a guest no longer waits for one."""

from __future__ import annotations

import time

from wasi_nn.backend.shared import Stopped
from wasi_nn.errors import RuntimeFailure

#: How long a library may take to end a computation, in seconds.
CANCEL_SECONDS = 2.0


class GivenUp(RuntimeFailure):
    """A guest was stopped while it waited for its model."""


class WorkerEnded(RuntimeFailure):
    """A worker that several guests share has ended."""


def after(seconds: float) -> Stopped:
    """A ``Stopped`` that waits for so long."""
    until = time.monotonic() + seconds
    return lambda: time.monotonic() > until


def later(stopped: Stopped) -> Stopped:
    """Says so when ``stopped`` has said so for as long as a library may take to end a
    computation."""
    since: list[float] = []

    def stopped_long_ago() -> bool:
        if stopped() and not since:
            since.append(time.monotonic())
        return bool(since) and time.monotonic() > since[0] + CANCEL_SECONDS

    return stopped_long_ago
