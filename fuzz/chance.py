"""Choices that follow from a seed, and the values that break readers."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")
EDGES = (0, 1, 2, 3, 7, 8, 16, 63, 64, 127, 128, 255, 256, 1000, 4096, 32767, 32768, 65535, 65536)
WIDE = (1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 62), (1 << 63) - 1)
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-30, 1e30, float("inf"), float("-inf"), float("nan"))
_BAD_TEXTS = ("", "x", "\0", "é\ufffd", "a" * 5000, "../../etc/passwd", "%s%n", "-1", "0", "nan")


class Chance(random.Random):
    """A source of choices. Two with the same seed choose the same."""

    def once_in(self, times: int) -> bool:
        """True once in so many times."""
        return self.randrange(times) == 0

    def whole(self, old: int = 0, signed: bool = True) -> int:
        """A whole number: near the old one, small, or at an edge of some type."""
        kind = self.randrange(6)
        if kind == 0:
            value = old + self.choice((-2, -1, 1, 2, 3))
        elif kind == 1:
            value = self.randrange(8)
        elif kind == 2:
            value = self.choice(EDGES)
        elif kind == 3:
            value = self.choice(WIDE)
        elif kind == 4:
            value = old * self.choice((2, 3, 1000)) if old else 1
        else:
            value = -self.choice(EDGES)
        return value if signed else abs(value)

    def real(self) -> float:
        """A number with a point, which need not be finite."""
        return self.choice(FLOATS) if self.once_in(2) else self.uniform(-4, 4)

    def dims(self, rank: int = 5) -> list[int]:
        """Dimensions, mostly small ones."""
        made = [self.choice((1, 1, 2, 3, 4, 5, 8)) for _ in range(self.randrange(rank))]
        if made and self.once_in(8):
            made[self.randrange(len(made))] = self.choice((0, 0, 16, 64, 255))
        return made

    def text(self, old: str = "") -> str:
        """A text: the old one with something changed, or a strange one."""
        if old and not self.once_in(3):
            at = self.randrange(len(old) + 1)
            kind = self.randrange(3)
            if kind == 0:
                return old[:at] + old[at + 1 :]
            if kind == 1:
                return old[:at] + self.choice("aZ0.:/[]{}\"'\\\n é") + old[at:]
            return old[:at] + old
        return self.choice(_BAD_TEXTS)

    def flipped(self, data: bytes, most: int = 8) -> bytes:
        """The bytes with some of them changed, cut off, put in or written twice."""
        out = bytearray(data)
        for _ in range(self.randint(1, most)):
            if not out:
                break
            at, kind = self.randrange(len(out)), self.randrange(8)
            if kind < 3:
                out[at] = self.randrange(256)
            elif kind == 3:
                out[at] ^= 1 << self.randrange(8)
            elif kind == 4 and len(out) - at >= 4:
                out[at : at + 4] = struct.pack("<I", self.whole(signed=False) & 0xFFFFFFFF)
            elif kind == 5:
                del out[at : at + self.randrange(1, 9)]
            elif kind == 6:
                out[at:at] = out[at : at + self.randrange(1, 33)]
            elif self.once_in(4):
                del out[at:]
        return bytes(out)

    def some(self, items: Sequence[T], most: int) -> list[T]:
        """Up to ``most`` of the items, with repetitions."""
        return [self.choice(items) for _ in range(self.randrange(most + 1))] if items else []


def of(*seed: Any) -> Chance:
    """A source of choices for a seed of several parts."""
    return Chance(":".join(map(str, seed)))
