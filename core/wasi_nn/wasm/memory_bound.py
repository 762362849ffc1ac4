"""Memories and tables that cannot grow beyond a limit, for engines that hold none.

A module says the most that its memory and its tables may have; the engine holds them to that. So
the limit is written there.
"""

from __future__ import annotations

from typing import NamedTuple

from wasi_nn.errors import LimitExceeded
from wasi_nn.runtime.instance import PAGE
from wasi_nn.wasm.module import Reader, leb, section_bytes

_TABLE, _MEMORY = 4, 5
_HEADER = 8
# Bits of a memory's or table's flags: a maximum, shared, of 64 bits.
_MAXIMUM, _KNOWN = 1, 7


def bounded(wasm: bytes, limit: int, element: int = 8) -> bytes:
    """A valid core module whose memory stays within ``limit`` bytes, and its tables together too,
    of ``element`` bytes for each of their elements. Raises ``LimitExceeded`` for one that needs
    more to start, and for one with several memories."""
    reader = Reader(memoryview(wasm))
    out: list[bytes | memoryview] = [wasm[:_HEADER]]
    for section, end in reader.sections():
        start = reader.at
        if section == _MEMORY:
            memories = [_read(reader, b"") for _ in range(reader.count())]
            if len(memories) > 1:
                many = len(memories)
                raise LimitExceeded(f"a limit on memory holds for one; the guest has {many}")
            out += section_bytes(section, *_written(memories, limit, PAGE))
        elif section == _TABLE:
            tables = [_read(reader, bytes((reader.byte(),))) for _ in range(reader.count())]
            out += section_bytes(section, *_written(tables, limit, element))
        else:
            out += section_bytes(section, reader.data[start:end])
    return b"".join(out)


class _Extent(NamedTuple):
    """A memory or a table; ``kind`` is what stands before its limits."""

    kind: bytes
    flags: int
    minimum: int
    maximum: int | None


def _read(reader: Reader, kind: bytes) -> _Extent:
    # (A table may also have a type that is written out, or a first value for every element.)
    if kind and kind[0] < 0x65:
        raise LimitExceeded("a limit on memory holds for no table of a new kind")
    flags = reader.byte()
    if flags & ~_KNOWN:
        raise LimitExceeded("a limit on memory holds for no memory or table of a new kind")
    minimum = reader.number()
    return _Extent(kind, flags, minimum, reader.number() if flags & _MAXIMUM else None)


def _written(extents: list[_Extent], limit: int, unit: int) -> list[bytes]:
    """A section's content, in which all together have at most ``limit`` bytes, of ``unit`` bytes
    each: the room that is left at the start is shared out."""
    needed = sum(extent.minimum for extent in extents)
    room = limit // unit - needed
    if room < 0:
        raise LimitExceeded(
            f"the guest needs more memory to start than its {limit} bytes: {needed * unit} bytes"
        )
    content = [leb(len(extents))]
    for kind, flags, minimum, maximum in extents:
        most = minimum + room // len(extents)
        if maximum is not None:
            most = min(most, maximum)
        content += [kind, bytes((flags | _MAXIMUM,)), leb(minimum), leb(most)]
    return content
