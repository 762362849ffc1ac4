"""The known word that the user may have meant."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

# A guest can have very many exports, and comparing takes 30 µs for each.
_MAX_WORDS, _MAX_CHARACTERS = 1000, 100


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` if ``word`` is close to a known word, and ``""`` otherwise."""
    # Imported here, because only a mistake needs it.
    from difflib import get_close_matches

    short = (one for one in known if len(one) <= _MAX_CHARACTERS)
    by_lower = {one.lower(): one for one in islice(short, _MAX_WORDS)}
    close = get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else ""
