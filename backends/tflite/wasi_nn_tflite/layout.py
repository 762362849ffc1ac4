"""What only the model's file tells, and not LiteRT's Python interface.

It calls a 4-bit tensor int8 and gives as many bytes as it has elements, where half as many lie:
writing them all would be past its memory's end. And it gives the inputs and outputs of the main
subgraph alone in their order. So both are read from the flatbuffer itself
(Model.subgraphs[i] of TensorFlow Lite's schema).
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from pathlib import Path
from struct import error, unpack_from
from typing import Any, NamedTuple

#: TensorType's numbers of the types whose elements are smaller than a byte.
PACKED = {17: "int4", 19: "int2", 20: "uint4"}
# Where a field stands in its table.
_SUBGRAPHS, _TENSORS, _INPUTS, _OUTPUTS, _TYPE = 2, 0, 1, 2, 1


class Layout(NamedTuple):
    """A subgraph. ``packed`` has the types of the tensors whose elements are smaller than a byte,
    by index; ``inputs`` and ``outputs`` are the tensors' indices."""

    packed: Mapping[int, str] = {}
    inputs: Sequence[int] = ()
    outputs: Sequence[int] = ()


def layout(source: bytes | Path, subgraph: int = 0) -> Layout:
    """The layout of a subgraph. The model is one that the library has taken; one that cannot be
    read here has an empty one."""
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
    tensors = _offset(data, _field(data, graph, _TENSORS))
    (count,) = unpack_from("<I", data, tensors)
    packed = {}
    for index in range(min(count, len(data) // 4)):
        at = _field(data, _element(data, tensors, index), _TYPE)
        kind = PACKED.get(data[at]) if at else None
        if kind is not None:
            packed[index] = kind
    inputs, outputs = (_numbers(data, _field(data, graph, n)) for n in (_INPUTS, _OUTPUTS))
    return Layout(packed, inputs, outputs)


def _numbers(data: Any, at: int) -> list[int]:
    """A vector of int32, whose field is at ``at``."""
    if not at:
        return []
    vector = _offset(data, at)
    (count,) = unpack_from("<I", data, vector)
    return list(unpack_from(f"<{min(count, len(data) // 4)}i", data, vector + 4))


def _offset(data: Any, at: int) -> int:
    """What a reference points to."""
    return at + int(unpack_from("<I", data, at)[0])


def _element(data: Any, vector: int, index: int) -> int:
    return _offset(data, vector + 4 + 4 * index)


def _field(data: Any, table: int, number: int) -> int:
    """Where a table's field is; 0 where it has its default. Raises ``ValueError`` for a table
    that points outside of the model."""
    back = int(unpack_from("<i", data, table)[0])
    fields = table - back
    if fields < 0:
        raise ValueError("a table lies before the model")
    size = int(unpack_from("<H", data, fields)[0])
    if 4 + 2 * number >= size:
        return 0
    inside = int(unpack_from("<H", data, fields + 4 + 2 * number)[0])
    return table + inside if inside else 0
