"""What the bytes that the interpreter shows must be.

Each check tells what is ``wrong`` with bytes, or None. Its ``pattern`` is an extended regular
expression for their hexadecimal digits. It is ``exact`` if only one text is right.
"""

from __future__ import annotations

import math
import struct
from typing import NamedTuple, Protocol

#: The letters of ``struct`` for the types of content.
FORMATS = {"f32": "f", "f64": "d", "u8": "B", "i32": "i", "i64": "q", "u32": "I", "f16": "e"}


class Check(Protocol):
    @property
    def exact(self) -> bool: ...

    @property
    def pattern(self) -> str: ...

    def wrong(self, found: bytes) -> str | None: ...


class Same(NamedTuple):
    """These bytes, and no others. ``what`` they are is for the message."""

    wanted: bytes
    what: str = "the bytes"

    @property
    def exact(self) -> bool:
        return True

    @property
    def pattern(self) -> str:
        return self.wanted.hex()

    def wrong(self, found: bytes) -> str | None:
        if found == self.wanted:
            return None
        return f"{self.what} are {found.hex()}, expected {self.wanted.hex()}"


class Near(NamedTuple):
    """Floats within a tolerance. The pattern is for the floats themselves."""

    wanted: bytes
    kind: str
    tolerance: float

    @property
    def exact(self) -> bool:
        return True

    @property
    def pattern(self) -> str:
        return self.wanted.hex()

    def wrong(self, found: bytes) -> str | None:
        if len(found) != len(self.wanted):
            return f"there are {len(found)} bytes, expected {len(self.wanted)}"
        letter = FORMATS[self.kind]
        form = f"<{len(found) // struct.calcsize(letter)}{letter}"
        got, expected = struct.unpack(form, found), struct.unpack(form, self.wanted)
        if all(
            math.isclose(a, b, abs_tol=self.tolerance) for a, b in zip(got, expected, strict=True)
        ):
            return None
        return f"the values are {list(got)}, expected {list(expected)} within {self.tolerance:g}"


class Contains(NamedTuple):
    """Bytes with a text somewhere in them."""

    text: str

    @property
    def exact(self) -> bool:
        return False

    @property
    def pattern(self) -> str:
        return f"(..)*{self.text.encode().hex()}(..)*"

    def wrong(self, found: bytes) -> str | None:
        shown = found.rstrip(b"\0")
        return None if self.text.encode() in found else f"{shown!r} does not contain {self.text!r}"
