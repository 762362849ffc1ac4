"""What a context read and wrote, and how long that took."""

from __future__ import annotations

import time

from wasi_nn.backend import Generation


class Meter:
    """Counters that cost next to nothing for each token."""

    __slots__ = (
        "_asked",
        "_first",
        "_kept",
        "_read",
        "_read_seconds",
        "_texts",
        "_writing",
        "_written",
    )

    def __init__(self) -> None:
        self._read = self._kept = self._written = self._texts = 0
        self._read_seconds = self._writing = self._first = 0.0
        self._asked: float | None = None

    def prompt(self, computed: int, kept: int, started: float) -> None:
        """A prompt was brought into memory: ``started`` is when that began."""
        self._read += computed
        self._kept += kept
        self._read_seconds += time.perf_counter() - started
        self._asked = started

    def token(self, started: float) -> None:
        """A token was written, which began at ``started``."""
        now = time.perf_counter()
        self._written += 1
        self._writing += now - started
        if self._asked is not None:
            self._texts += 1
            self._first += now - self._asked
            self._asked = None

    def decoded(self, started: float) -> None:
        """A written token was brought into memory."""
        self._writing += time.perf_counter() - started

    def total(self) -> Generation:
        """Everything until now."""
        return Generation(
            self._read,
            self._kept,
            self._read_seconds,
            self._written,
            self._writing,
            self._texts,
            self._first,
        )
