"""Write a memory limit into a module, for engines that cannot enforce one.

A module declares the maximum size of its memory and its tables, and every engine enforces that. So
the limit is written into these declarations.
"""

from __future__ import annotations

from typing import NamedTuple

from wasi_nn.errors import LimitExceeded
from wasi_nn.wasm.module import PAGE, Reader, leb, section_bytes

__all__ = ["bounded"]

_TABLE, _MEMORY = 4, 5
_HEADER = 8
# Bits of a memory's or table's flags: a maximum, shared, of 64 bits.
_MAXIMUM, _WIDE, _KNOWN = 1, 4, 7
# A larger maximum is invalid, unless the memory or table is one of 64 bits.
_MAX_PAGES, _MAX_ELEMENTS = 1 << 16, (1 << 32) - 1


def bounded(wasm: bytes, limit: int, element: int = 8) -> bytes:
    """The module (valid, core) with its memory limited to ``limit`` bytes, and its tables together
    limited to as much, at ``element`` bytes for each element. Raises ``LimitExceeded`` if the
    module needs more to start, or if it has several memories."""
    reader = Reader(memoryview(wasm))
    out: list[bytes | memoryview] = [wasm[:_HEADER]]
    for section, end in reader.sections():
        start = reader.at
        if section == _MEMORY:
            memories = [_read(reader, b"") for _ in range(reader.count())]
            if len(memories) > 1:
                many = len(memories)
                raise LimitExceeded(f"the memory limit supports one memory; the guest has {many}")
            out += section_bytes(section, *_written(memories, limit, PAGE, _MAX_PAGES))
        elif section == _TABLE:
            tables = [_read(reader, bytes((reader.byte(),))) for _ in range(reader.count())]
            out += section_bytes(section, *_written(tables, limit, element, _MAX_ELEMENTS))
        else:
            out += section_bytes(section, reader.data[start:end])
    return b"".join(out)


class _Extent(NamedTuple):
    """A memory or a table. ``kind`` are the bytes before its limits."""

    kind: bytes
    flags: int
    minimum: int
    maximum: int | None


def _read(reader: Reader, kind: bytes) -> _Extent:
    # A table may also have a spelled-out type, or an initial value for its elements.
    if kind and kind[0] < 0x65:
        raise LimitExceeded("the memory limit does not support this new kind of table")
    flags = reader.byte()
    if flags & ~_KNOWN:
        raise LimitExceeded("the memory limit does not support this new kind of memory or table")
    minimum = reader.number()
    return _Extent(kind, flags, minimum, reader.number() if flags & _MAXIMUM else None)


def _written(extents: list[_Extent], limit: int, unit: int, ceiling: int) -> list[bytes]:
    """The content of a section whose extents together have at most ``limit`` bytes, at ``unit``
    bytes for each page or element. They share equally what is left after their minimum sizes. No
    maximum of 32 bits is above ``ceiling``."""
    needed = sum(extent.minimum for extent in extents)
    left = limit // unit - needed
    if left < 0:
        raise LimitExceeded(
            f"the guest needs more memory to start than its {limit} bytes: {needed * unit} bytes"
        )
    content = [leb(len(extents))]
    for kind, flags, minimum, maximum in extents:
        most = minimum + left // len(extents)
        if maximum is not None:
            most = min(most, maximum)
        elif not flags & _WIDE:
            most = min(most, ceiling)
        content += [kind, bytes((flags | _MAXIMUM,)), leb(minimum), leb(most)]
    return content
