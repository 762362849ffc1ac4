"""Memories and tables that cannot grow beyond a limit, for engines that hold none.

A module says the most that its memory and its tables may have; the engine holds them to that. So
the limit is written there.
"""

from __future__ import annotations

from wasi_nn.adapter.instance import PAGE
from wasi_nn.errors import LimitExceeded
from wasi_nn.wasmfile import Reader, leb, section_bytes

_TABLE, _MEMORY = 4, 5
_HEADER = 8
# Bits of a memory's or table's flags: a maximum, shared, of 64 bits.
_MAXIMUM, _KNOWN = 1, 7


def bounded(wasm: bytes, limit: int, element: int = 8) -> bytes:
    """A valid core module whose memory stays within ``limit`` bytes, and each table too, of
    ``element`` bytes for each of its elements. Raises ``LimitExceeded`` for one that needs more to
    start, and for one with several memories."""
    reader = Reader(memoryview(wasm))
    out: list[bytes | memoryview] = [wasm[:_HEADER]]
    for section, end in reader.sections():
        start = reader.at
        if section == _MEMORY:
            count = reader.count()
            if count > 1:
                raise LimitExceeded(f"a limit on memory holds for one; the guest has {count}")
            content = [_limits(reader, limit // PAGE, PAGE, limit) for _ in range(count)]
            out += section_bytes(section, leb(count), *content)
        elif section == _TABLE:
            count = reader.count()
            content = []
            for _ in range(count):
                kind = reader.byte()
                if kind < 0x65:
                    # A type that is written out, or a first value for every element.
                    raise LimitExceeded("a limit on memory holds for no table of a new kind")
                most = limit // element
                content += [bytes((kind,)), _limits(reader, most, element, limit)]
            out += section_bytes(section, leb(count), *content)
        else:
            out += section_bytes(section, reader.data[start:end])
    return b"".join(out)


def _limits(reader: Reader, most: int, unit: int, limit: int) -> bytes:
    """A memory's or table's limits, with a maximum of ``most`` units."""
    flags = reader.byte()
    if flags & ~_KNOWN:
        raise LimitExceeded("a limit on memory holds for no memory of a new kind")
    minimum = reader.number()
    if minimum > most:
        raise LimitExceeded(
            f"the guest needs more memory to start than its {limit} bytes: {minimum * unit} bytes"
        )
    if flags & _MAXIMUM:
        most = min(most, reader.number())
    return bytes((flags | _MAXIMUM,)) + leb(minimum) + leb(most)
