"""How much of a prompt is read in a step while other guests wait for their next tokens."""

from __future__ import annotations

# A step with parts of prompts takes at most this many times as long as one without.
_SLOWER = 2.0
# How much a new measurement counts, of a step without parts of prompts and of a prompt's token.
_PLAIN_WEIGHT, _TOKEN_WEIGHT = 0.2, 0.5
# A measurement counts as at most this many times what is known: others use the machine too.
_MOST_SLOWER = 2.0
# After so many steps with parts of prompts, one without is measured: its cost changes too.
_MIXED = 32


class Pace:
    """Measures steps, in seconds."""

    def __init__(self) -> None:
        #: A step that only continues so many texts.
        self._plain: dict[int, float] = {}
        #: What each token of a prompt adds to such a step.
        self._token = 0.0
        #: The tokens of prompts in the last step beside others.
        self._last = 1
        #: The steps with parts of prompts since the last one without.
        self._mixed = 0

    def note(self, seconds: float, writing: int, reading: int) -> None:
        """Note a step with one token for each of ``writing`` texts, and ``reading`` tokens of
        prompts."""
        self._mixed = self._mixed + 1 if reading else 0
        if writing and not reading:
            self._plain[writing] = _mean(self._plain.get(writing, 0.0), seconds, _PLAIN_WEIGHT)
        elif writing and self._plain:
            more = max(seconds - self._usual(writing), 1e-9)
            self._token = _mean(self._token, more / reading, _TOKEN_WEIGHT)
            self._last = reading
        elif reading and not self._token:
            # It costs less beside others: the weights are read once for all.
            self._token = seconds / reading

    def most(self, whole: int, writing: int) -> int:
        """The tokens of prompts for the next step, at most ``whole``, while so many texts are
        written. (The cost of a token rises with its position, so a part only grows slowly.)"""
        if writing and self._mixed >= _MIXED:
            return 0
        if not self._token or not self._plain:
            return 1
        fair = int((_SLOWER - 1) * self._usual(writing) / self._token)
        return max(1, min(whole, fair, 2 * self._last))

    def _usual(self, writing: int) -> float:
        """The seconds of a step without prompts, for the nearest number of texts."""
        return self._plain[min(self._plain, key=lambda known: abs(known - writing))]


def _mean(old: float, new: float, weight: float) -> float:
    return old + weight * (min(new, _MOST_SLOWER * old) - old) if old else new
