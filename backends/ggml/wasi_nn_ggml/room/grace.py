"""How long a step waits for guests that choose their tokens themselves.

A guest with a grammar is usually done a moment after the others. It then takes part in the next
step. One that takes longer misses it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wasi_nn_ggml.room.sequence import Sequence

# The most that a step waits, as a share of the last one.
_SHARE = 0.1
# How much a new measurement counts.
_WEIGHT = 0.3


class Grace:
    """The guests that are choosing. Used by one thread."""

    def __init__(self) -> None:
        self._since: dict[Sequence, float] = {}
        #: When nobody is waited for any more.
        self._until = 0.0

    def asked(self, sequence: Sequence, now: float, step_seconds: float) -> None:
        """A guest begins to choose, after a step of so many seconds."""
        self._since[sequence] = now
        most = _SHARE * step_seconds
        if sequence.chooses_in < most:
            self._until = max(self._until, now + min(most, 2 * sequence.chooses_in))

    def answered(self, sequence: Sequence, now: float) -> None:
        """A guest has chosen."""
        since = self._since.pop(sequence, None)
        if since is not None:
            sequence.chooses_in += _WEIGHT * (now - since - sequence.chooses_in)

    def forget(self, sequence: Sequence) -> None:
        """A guest chooses no more."""
        self._since.pop(sequence, None)

    def left(self, now: float) -> float:
        """The seconds that the next step waits for guests that choose."""
        return self._until - now if self._since else 0.0
