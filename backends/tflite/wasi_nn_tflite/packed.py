"""Tensors whose elements are smaller than a byte.

LiteRT's Python interface calls a 4-bit tensor int8 and gives as many bytes as it has elements,
where half as many lie: writing them all would be past its memory's end. So the types are read from
the flatbuffer itself (Model.subgraphs[0].tensors[i].type of TensorFlow Lite's schema).
"""

from __future__ import annotations

import mmap
from pathlib import Path
from struct import error, unpack_from
from typing import Any

#: TensorType's numbers of them.
PACKED = {17: "int4", 19: "int2", 20: "uint4"}
# Where a field stands in its table.
_SUBGRAPHS, _TENSORS, _TYPE = 2, 0, 1


def packed_tensors(source: bytes | Path) -> dict[int, str]:
    """The tensors of a model whose elements are smaller than a byte: their types by index. The
    model is one that the library has taken; one that cannot be read here has none."""
    try:
        if isinstance(source, bytes):
            return _read(source)
        with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as m:
            return _read(m)
    except (error, IndexError, OSError, ValueError):
        return {}


def _read(data: Any) -> dict[int, str]:
    subgraphs = _field(data, _offset(data, 0), _SUBGRAPHS)
    graph = _element(data, _offset(data, subgraphs), 0)
    tensors = _offset(data, _field(data, graph, _TENSORS))
    (count,) = unpack_from("<I", data, tensors)
    found = {}
    for index in range(min(count, len(data) // 4)):
        at = _field(data, _element(data, tensors, index), _TYPE)
        kind = PACKED.get(data[at]) if at else None
        if kind is not None:
            found[index] = kind
    return found


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
