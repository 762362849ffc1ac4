"""What a worker logs, in the host's log."""

from __future__ import annotations

import time
from typing import Any

from wasi_nn.backend import Backend
from wasi_nn.escaping import MAX_LINES, logger

# Records at once, and later in each second.
_MAX, _PER_SECOND = 100, 10
_LEVELS = (10, 20, 30, 40, 50)


class Records:
    """The records of one worker, at most so many: a model may have taken it over."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._left = float(_MAX)
        self._last = 0.0

    def log(self, said: Any) -> None:
        """Log a record of the worker's. Raises what reading nonsense raises."""
        name, level, text = said["name"], said["level"], said["text"]
        if level not in _LEVELS or not isinstance(text, str):
            raise ValueError("what is logged is not a record")
        now = time.monotonic()
        self._left = min(_MAX, self._left + (now - self._last) * _PER_SECOND)
        self._last = now
        if self._left < 1:
            return
        self._left -= 1
        if self._left < 1:
            text = f"{self._backend.title} logs too much: the next records are left out"
        # A logger stays for good, so there are only those that the backend has anyway.
        own = f"wasi_nn.{self._backend.name}"
        logger(own if name == own else "wasi_nn").log(level, "%s", text[:MAX_LINES])
