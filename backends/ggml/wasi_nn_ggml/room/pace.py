"""How much of a prompt is read in a step while other guests wait for their next tokens."""

from __future__ import annotations

# A step with parts of prompts takes at most this many times as long as one without.
_SLOWER = 2.2
# How much a new measurement counts.
_WEIGHT = 0.2
# Tokens of a prompt in the first step beside others, whose cost is not known yet.
_FIRST = 4


class Pace:
    """Measures steps, in seconds."""

    def __init__(self) -> None:
        #: A step that only continues so many texts.
        self._plain: dict[int, float] = {}
        #: What each token of a prompt adds to such a step.
        self._token = 0.0
        self._last = _FIRST

    def note(self, seconds: float, writing: int, reading: int) -> None:
        """Note a step with one token for each of ``writing`` texts, and ``reading`` tokens of
        prompts."""
        if writing and not reading:
            self._plain[writing] = _mean(self._plain.get(writing, 0.0), seconds)
        elif writing and self._plain:
            more = max(seconds - self._usual(writing), 1e-9)
            self._token = _mean(self._token, more / reading)
            self._last = reading

    def most(self, whole: int, writing: int) -> int:
        """The tokens of prompts for the next step, at most ``whole``, while so many texts are
        written. (The cost of a token rises with its position, so a part only grows slowly.)"""
        if not self._token or not self._plain:
            return min(whole, _FIRST)
        fair = int((_SLOWER - 1) * self._usual(writing) / self._token)
        return max(1, min(whole, fair, 2 * self._last))

    def _usual(self, writing: int) -> float:
        """The seconds of a step without prompts, for the nearest number of texts."""
        return self._plain[min(self._plain, key=lambda known: abs(known - writing))]


def _mean(old: float, new: float) -> float:
    return old + _WEIGHT * (new - old) if old else new
