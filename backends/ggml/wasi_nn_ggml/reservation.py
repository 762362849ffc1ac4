"""Bytes that count against a guest's limit for as long as something is there."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType


class Holding:
    """``size`` bytes, counted with a ``Reserve`` from now until they are given back, or to the end
    of a ``with`` block. Raises ``RuntimeFailure`` above the guest's limit."""

    def __init__(self, hold: Callable[[int], None], size: int) -> None:
        hold(size)
        self._hold = hold
        self._size = size

    def give_back(self) -> None:
        """Count them no more."""
        size, self._size = self._size, 0
        if size:
            self._hold(-size)

    def __enter__(self) -> Holding:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.give_back()
