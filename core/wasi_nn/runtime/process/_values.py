"""The values of a component's calls as bytes, little-endian.

A u32 and a resource take four bytes, an enum the four of its case's number. A string, a list of
bytes and a list begin with the u32 number of their bytes or elements; a tuple is its elements. A
result is the u32 1 or 0 and then its value, if it has one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from wasi_nn.runtime.component import (
    Bytes,
    Enumeration,
    Function,
    Interface,
    ListOf,
    Own,
    Result,
    ResultOf,
    Text,
    TupleOf,
    Type,
)
from wasi_nn.runtime.process._protocol import U32

__all__ = ["functions_of", "read_all", "write"]


def functions_of(interfaces: Iterable[Interface]) -> list[Function]:
    """The functions that a component's process calls by number: of each interface the drops of its
    resources, and then its functions."""
    found: list[Function] = []
    for interface in interfaces:
        for resource in interface.resources:
            name = f"[resource-drop]{resource.name}"
            found.append(Function(name, (Own(resource.name),), None, resource.drop))
        found += interface.functions
    return found


def write(kind: Type | None, value: Any, parts: list[bytes | memoryview]) -> None:
    """Append the bytes of a value. ``None`` is the type of no value."""
    if kind is None:
        return
    if isinstance(kind, Enumeration):
        parts.append(U32.pack(kind.cases.index(value)))
    elif isinstance(kind, (Text, Bytes)):
        data = value.encode() if isinstance(kind, Text) else memoryview(value).cast("B")
        parts += (U32.pack(len(data)), data)
    elif isinstance(kind, ListOf):
        parts.append(U32.pack(len(value)))
        for element in value:
            write(kind.element, element, parts)
    elif isinstance(kind, TupleOf):
        for part, element in zip(kind.elements, value, strict=True):
            write(part, element, parts)
    elif isinstance(kind, ResultOf):
        parts.append(U32.pack(value.ok))
        write(kind.ok if value.ok else kind.error, value.value, parts)
    else:
        parts.append(U32.pack(value))


def read_all(kinds: Sequence[Type | None], data: memoryview, at: int = 0) -> list[Any]:
    """The values that ``data`` holds from ``at`` to its end, without a copy of bytes. Raises one of
    ``GARBLED`` for anything else."""
    reading = _Reading(data, at)
    values = [reading.value(kind) for kind in kinds]
    reading.end()
    return values


class _Reading:
    def __init__(self, data: memoryview, at: int) -> None:
        self._data = data
        self._at = at

    def value(self, kind: Type | None) -> Any:
        if kind is None:
            return None
        if isinstance(kind, TupleOf):
            return tuple(self.value(part) for part in kind.elements)
        number = self._number()
        if isinstance(kind, Enumeration):
            if number >= len(kind.cases):
                raise ValueError(f"there is no case {number}")
            return kind.cases[number]
        if isinstance(kind, Text):
            return str(self._bytes(number), "utf-8")
        if isinstance(kind, Bytes):
            return self._bytes(number)
        if isinstance(kind, ListOf):
            # (Each element has a byte at least, so a wrong number ends soon.)
            return [self.value(kind.element) for _ in range(number)]
        if isinstance(kind, ResultOf):
            return Result(bool(number), self.value(kind.ok if number else kind.error))
        return number

    def end(self) -> None:
        if self._at != len(self._data):
            raise ValueError("a message is too long for its values")

    def _number(self) -> int:
        (number,) = U32.unpack_from(self._data, self._at)
        self._at += U32.size
        return int(number)

    def _bytes(self, length: int) -> memoryview:
        found = self._data[self._at : self._at + length]
        if len(found) != length:
            raise ValueError("a message is too short for its values")
        self._at += length
        return found
