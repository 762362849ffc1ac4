"""Counts and times the tokens that a context reads and writes."""

from __future__ import annotations

import time

from wasi_nn.backend import Generation


class Counters:
    """Counters that cost next to nothing per token."""

    def __init__(self) -> None:
        self._read = self._kept = self._written = self._texts = 0
        self._read_seconds = self._written_seconds = self._first_seconds = 0.0
        self._requested: float | None = None

    def prompt(self, computed: int, kept: int, started: float) -> None:
        """Count a prompt that was decoded since ``started``."""
        self._read += computed
        self._kept += kept
        self._read_seconds += time.perf_counter() - started
        self._requested = started

    def token(self, started: float) -> None:
        """Count a token that was chosen since ``started``."""
        now = time.perf_counter()
        self._written += 1
        self._written_seconds += now - started
        if self._requested is not None:
            self._texts += 1
            self._first_seconds += now - self._requested
            self._requested = None

    def decoded(self, started: float) -> None:
        """Add the time to decode a written token since ``started``."""
        self._written_seconds += time.perf_counter() - started

    def total(self) -> Generation:
        """The totals until now."""
        return Generation(
            self._read,
            self._kept,
            self._read_seconds,
            self._written,
            self._written_seconds,
            self._texts,
            self._first_seconds,
        )
