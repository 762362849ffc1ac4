"""Facts that LiteRT's Python interface does not tell, read from the model's flatbuffer.

The interface reports a 4-bit tensor as int8, with one byte for each element. The memory has only
half as many bytes, so writing them all would write past its end. The interface also tells the order
of inputs and outputs only for the main subgraph, and not whether a tensor is a variable. So these
are read from the flatbuffer (Model.subgraphs[i] of TensorFlow Lite's schema).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from struct import error, unpack_from
from typing import Any, NamedTuple

#: The types with elements smaller than a byte, by their number in TensorType.
PACKED = {17: "int4", 19: "int2", 20: "uint4"}
# The numbers of fields in their tables.
_SUBGRAPHS, _TENSORS, _INPUTS, _OUTPUTS, _TYPE, _IS_VARIABLE = 2, 0, 1, 2, 1, 5
# The type of a tensor that refers to a variable.
_RESOURCE = 13


class Layout(NamedTuple):
    """A subgraph. ``packed`` has the types of tensors with elements smaller than a byte, by tensor
    index. ``inputs`` and ``outputs`` are tensor indexes. ``stateless``: the model has no variables,
    which would keep their values between two computations."""

    packed: Mapping[int, str] = {}
    inputs: Sequence[int] = ()
    outputs: Sequence[int] = ()
    stateless: bool = False


def layout(source: bytes | Path, subgraph: int = 0) -> Layout:
    """The layout of a subgraph of a model that the library has accepted. Empty if the flatbuffer
    cannot be read here."""
    try:
        if isinstance(source, bytes):
            return _read(source, subgraph)
        with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as m:
            return _read(m, subgraph)
    except (error, IndexError, OSError, ValueError):
        return Layout()


def _read(data: Any, subgraph: int) -> Layout:
    subgraphs = _offset(data, _field(data, _offset(data, 0), _SUBGRAPHS))
    if subgraph >= unpack_from("<I", data, subgraphs)[0]:
        raise IndexError(subgraph)
    graph = _element(data, subgraphs, subgraph)
    packed = {}
    for index, tensor in enumerate(_tensors(data, graph)):
        kind = PACKED.get(_byte(data, tensor, _TYPE))
        if kind is not None:
            packed[index] = kind
    inputs, outputs = (_numbers(data, _field(data, graph, n)) for n in (_INPUTS, _OUTPUTS))
    (count,) = unpack_from("<I", data, subgraphs)
    stateless = not any(
        _byte(data, tensor, _IS_VARIABLE) or _byte(data, tensor, _TYPE) == _RESOURCE
        for number in range(min(count, len(data) // 4))
        for tensor in _tensors(data, _element(data, subgraphs, number))
    )
    return Layout(packed, inputs, outputs, stateless)


def _tensors(data: Any, subgraph: int) -> Iterator[int]:
    """The tables of a subgraph's tensors."""
    tensors = _offset(data, _field(data, subgraph, _TENSORS))
    (count,) = unpack_from("<I", data, tensors)
    return (_element(data, tensors, index) for index in range(min(count, len(data) // 4)))


def _byte(data: Any, table: int, number: int) -> int:
    """A field of one byte, 0 by default."""
    at = _field(data, table, number)
    return int(data[at]) if at else 0


def _numbers(data: Any, at: int) -> list[int]:
    """The vector of int32 in the field at ``at``."""
    if not at:
        return []
    vector = _offset(data, at)
    (count,) = unpack_from("<I", data, vector)
    return list(unpack_from(f"<{min(count, len(data) // 4)}i", data, vector + 4))


def _offset(data: Any, at: int) -> int:
    """The target of the reference at ``at``."""
    return at + int(unpack_from("<I", data, at)[0])


def _element(data: Any, vector: int, index: int) -> int:
    return _offset(data, vector + 4 + 4 * index)


def _field(data: Any, table: int, number: int) -> int:
    """The offset of a table's field, or 0 if the field has its default. Raises ``ValueError`` for a
    table that points outside of the model."""
    back = int(unpack_from("<i", data, table)[0])
    fields = table - back
    if fields < 0:
        raise ValueError("a table lies before the model")
    size = int(unpack_from("<H", data, fields)[0])
    if 4 + 2 * number >= size:
        return 0
    inside = int(unpack_from("<H", data, fields + 4 + 2 * number)[0])
    return table + inside if inside else 0
