"""Writes ranges of JSON numbers in llama.cpp's GBNF.

A bound is compared digit by digit. From 3 to 120 is ``[3-9] | [1-9] [0-9] | "1" ( [0-1] [0-9] |
"2" "0" )``. Numbers with bounds have no exponent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import Decimal
from typing import NamedTuple

# Characters of a bound, and bits of an integer one.
_MAX_DIGITS, _MAX_BITS = 30, 100
# Digits of a number on a side without a bound.
_DIGITS = 16
_ANY = f"[0-9]{{0,{_DIGITS}}}"
_ZEROS = f'"0"{{0,{_DIGITS}}}'
# A fraction above zero.
_MORE = f"{_ZEROS} [1-9] {_ANY}"


class Bound(NamedTuple):
    """One end of a range. A ``strict`` bound excludes the number itself."""

    value: Decimal
    strict: bool = False

    def lowest(self) -> int:
        """The lowest integer within it, as a lower end."""
        return math.floor(self.value) + 1 if self.strict else math.ceil(self.value)

    def highest(self) -> int:
        """The highest integer within it, as an upper end."""
        return math.ceil(self.value) - 1 if self.strict else math.floor(self.value)


def number(value: int | float) -> Decimal | None:
    """The number of a bound; None if it is not finite or has too many digits."""
    if isinstance(value, int):
        return Decimal(value) if value.bit_length() <= _MAX_BITS else None
    result = Decimal(str(value))
    return result if result.is_finite() and len(f"{result:f}") <= _MAX_DIGITS else None


def integers(least: int | None, most: int | None) -> str:
    """Integers from ``least`` to ``most``; None means without a bound. Empty if there are none."""
    alternates = []
    if least is None or least < 0:
        lowest = 1 if most is None else max(1, -most)
        alternates += _signed(_whole(lowest, None if least is None else -least))
    if most is None or most >= 0:
        alternates += _whole(max(0, least or 0), most)
    return _either(alternates)


def decimals(least: Bound | None, most: Bound | None) -> str:
    """Numbers from ``least`` to ``most``, with or without a fraction, as ``integers``."""
    zero = Bound(Decimal(0))
    alternates = []
    if least is None or least.value < 0:
        nearest = zero if most is None or most.value > 0 else _mirrored(most)
        alternates += _signed(_fractions(nearest, None if least is None else _mirrored(least)))
    if most is None or most.value >= 0:
        alternates += _fractions(zero if least is None or least.value < 0 else least, most)
    return _either(alternates)


def _mirrored(bound: Bound) -> Bound:
    return Bound(-bound.value, bound.strict)


def _signed(alternates: list[str]) -> list[str]:
    return [f'"-" {_either(alternates)}'] if alternates else []


def _either(alternates: Iterable[str]) -> str:
    parts = list(dict.fromkeys(alternates))
    return f"( {' | '.join(parts)} )" if len(parts) > 1 else "".join(parts)


def _whole(least: int, most: int | None) -> list[str]:
    """Alternates for the integers of a range from 0 upwards."""
    if most is None:
        digits = len(str(least))
        more = f"[1-9] [0-9]{{{digits},{max(digits, _DIGITS - 1)}}}"
        return [*_alike(str(least), "9" * digits), more]
    if most < least:
        return []
    first, last = len(str(least)), len(str(most))
    if first == last:
        return _alike(str(least), str(most))
    between = [f"[1-9] [0-9]{{{first},{last - 2}}}"] if last - first > 1 else []
    return [
        *_alike(str(least), "9" * first),
        *between,
        *_alike("1" + "0" * (last - 1), str(most)),
    ]


def _alike(least: str, most: str) -> list[str]:
    """Alternates for the integers between two with the same number of digits."""
    if not least:
        return [""]
    if least[0] == most[0]:
        return [f'"{least[0]}" {_either(_alike(least[1:], most[1:]))}'.rstrip()]
    rest = len(least) - 1
    lowest, highest = int(least[0]), int(most[0])
    alternates = []
    if least[1:] != "0" * rest:
        alternates.append(f'"{lowest}" {_either(_alike(least[1:], "9" * rest))}')
        lowest += 1
    end = []
    if most[1:] != "9" * rest:
        end.append(f'"{highest}" {_either(_alike("0" * rest, most[1:]))}')
        highest -= 1
    if lowest <= highest:
        alternates.append(f"[{lowest}-{highest}]" + (f" [0-9]{{{rest}}}" if rest else ""))
    return alternates + end


def _fractions(least: Bound, most: Bound | None) -> list[str]:
    """Alternates for the numbers of a range from 0 upwards, with or without a fraction."""
    if most is not None and most.value < least.value:
        return []
    low, low_digits = _parts(least)
    if most is None:
        high, high_digits = None, ""
    else:
        high, high_digits = _parts(most)
    if most is not None and low == high:
        within = _within(low_digits, least.strict, high_digits, most.strict)
        return [f'"{low}" {part}'.rstrip() for part in within]
    alternates = []
    if low_digits or least.strict:
        alternates.append(f'"{low}" "." {_above(low_digits, least.strict)}')
        low += 1
    whole = _whole(low, None if high is None else high - 1)
    if whole:
        alternates.append(f'{_either(whole)} ( "." [0-9] {_ANY} )?')
    if most is not None:
        below = _within("", False, high_digits, most.strict)
        alternates += [f'"{high}" {part}'.rstrip() for part in below]
    return alternates


def _parts(bound: Bound) -> tuple[int, str]:
    """The integer part of a bound, and the digits of its fraction."""
    whole, _, digits = f"{bound.value:f}".partition(".")
    return int(whole), digits.rstrip("0")


def _above(digits: str, strict: bool) -> str:
    """The rest of a fraction that is at least these digits."""
    if not digits:
        return _MORE if strict else _ANY
    alternates = [f'"{digits[0]}" {_above(digits[1:], strict)}']
    if digits[0] < "9":
        alternates.append(f"[{int(digits[0]) + 1}-9] {_ANY}")
    return _either(alternates)


def _below(digits: str, strict: bool) -> list[str]:
    """Alternates for the rest of a fraction that is at most these digits."""
    if not digits:
        return [] if strict else [_ZEROS]
    alternates = [f"[0-{int(digits[0]) - 1}] {_ANY}"] if digits[0] > "0" else []
    if digits[1:]:
        alternates.append(f'"{digits[0]}" ( {_either(_below(digits[1:], strict))} )?')
    elif not strict:
        alternates.append(f'"{digits[0]}" {_ZEROS}')
    return alternates


def _within(low: str, above: bool, high: str, below: bool) -> list[str]:
    """Alternates for a fraction, point included, between two with the same integer part."""
    if not low and not above:
        if not high:
            return [] if below else [f'( "." "0" {_ZEROS} )?']
        return [f'( "." {_either(_below(high, below))} )?']
    size = max(len(low), len(high))
    first, last = low.ljust(size, "0"), high.ljust(size, "0")
    same = next((at for at in range(size) if first[at] != last[at]), size)
    prefix = f'"." "{first[:same]}"' if same else '"."'
    if same == size:
        return [] if above or below else [f"{prefix} {_ZEROS}"]
    if same and not above and not first[same:].strip("0"):
        return [f"{prefix} ( {_either(_below(last[same:].rstrip('0'), below))} )?"]
    lowest, highest = int(first[same]), int(last[same])
    alternates = [f'"{lowest}" {_above(first[same + 1 :].rstrip("0"), above)}']
    if highest - lowest > 1:
        alternates.append(f"[{lowest + 1}-{highest - 1}] {_ANY}")
    rest = last[same + 1 :].rstrip("0")
    if rest:
        alternates.append(f'"{highest}" ( {_either(_below(rest, below))} )?')
    elif not below:
        alternates.append(f'"{highest}" {_ZEROS}')
    return [f"{prefix} {_either(alternates)}"]
