"""A look at a GGUF file before llama.cpp gets it.

llama.cpp aborts the whole process on some damaged files (a vocabulary that names one token twice)
and gives odd reasons for others. Source of the layout: ggml's docs/gguf.md.
"""

from __future__ import annotations

import mmap
import os
from struct import Struct, error
from typing import Any

from wasi_nn.errors import RuntimeFailure

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_HEADER = Struct("<4sIQQ")
_U32, _U64 = Struct("<I"), Struct("<Q")
_STRING, _ARRAY = 8, 9
# Bytes of a value of each type.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_TOKENS = b"tokenizer.ggml.tokens"
_MOST_ENTRIES = 1 << 20
_MOST_ELEMENTS = 1 << 40


def check(descriptor: int) -> None:
    """Raise ``RuntimeFailure`` with the reason for a file that is no sound GGUF: its header, its
    keys and values, the vocabulary, and the table of tensors."""
    size = os.fstat(descriptor).st_size
    if size < _HEADER.size:
        raise RuntimeFailure(f"the model is no GGUF file: it has {size} bytes")
    with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as data:
        try:
            _Reader(data, size).read()
        except (error, IndexError, OverflowError):
            raise RuntimeFailure("the GGUF file is cut off in its header") from None


class _Reader:
    def __init__(self, data: mmap.mmap, size: int) -> None:
        self._data = data
        self._size = size
        self._at = _HEADER.size

    def read(self) -> None:
        magic, version, tensors, pairs = _HEADER.unpack_from(self._data)
        if magic != MAGIC:
            raise RuntimeFailure(f"the model is no GGUF file: it begins with {magic!r}")
        if version not in _VERSIONS:
            raise RuntimeFailure(f"the GGUF file is of version {version}; 2 and 3 are read here")
        if tensors > _MOST_ENTRIES or pairs > _MOST_ENTRIES:
            raise RuntimeFailure(f"the GGUF file claims {tensors} tensors and {pairs} keys")
        alignment = 32
        for _ in range(pairs):
            key = self._string()
            if key == b"general.alignment":
                alignment = self._alignment()
            else:
                self._value(key)
        ends = [self._tensor() for _ in range(tensors)]
        start = -(-self._at // alignment) * alignment
        if ends and start + max(ends) > self._size:
            raise RuntimeFailure(
                f"the GGUF file is cut off: a tensor begins at {start + max(ends)}, the file ends "
                f"at {self._size}"
            )

    def _number(self, kind: Struct) -> int:
        value: int = kind.unpack_from(self._data, self._at)[0]
        self._at += kind.size
        return value

    def _string(self) -> bytes:
        length = self._number(_U64)
        end = self._at + length
        if end > self._size:
            raise RuntimeFailure("the GGUF file is cut off in its header")
        text: Any = self._data[self._at : end]
        self._at = end
        return bytes(text)

    def _skip(self, length: int) -> None:
        self._at += length
        if self._at > self._size:
            raise RuntimeFailure("the GGUF file is cut off in its header")

    def _alignment(self) -> int:
        kind, value = self._number(_U32), self._number(_U32)
        if kind != 4 or value < 1 or value & (value - 1) or value > 1 << 20:
            raise RuntimeFailure(f"the GGUF file's alignment is no power of two: {value}")
        return value

    def _value(self, key: bytes) -> None:
        kind = self._number(_U32)
        if kind == _STRING:
            self._string()
        elif kind == _ARRAY:
            self._array(key)
        elif kind in _SIZES:
            self._skip(_SIZES[kind])
        else:
            raise RuntimeFailure(f"the GGUF file's key {key[:80]!r} has the unknown type {kind}")

    def _array(self, key: bytes) -> None:
        kind, count = self._number(_U32), self._number(_U64)
        if kind in _SIZES:
            self._skip(count * _SIZES[kind])
            return
        if kind != _STRING or count > self._size // 8:
            raise RuntimeFailure(f"the GGUF file's array {key[:80]!r} cannot be right")
        if key != _TOKENS:
            for _ in range(count):
                self._skip(self._number(_U64))
            return
        tokens = [self._string() for _ in range(count)]
        named = [token for token in tokens if token]
        if len(set(named)) != len(named):
            raise RuntimeFailure("the GGUF file's vocabulary names a token twice")

    def _tensor(self) -> int:
        name = self._string()
        rank = self._number(_U32)
        if rank > 4:
            raise RuntimeFailure(f"tensor {name[:80]!r} of the GGUF file has {rank} dimensions")
        elements = 1
        for _ in range(rank):
            elements *= self._number(_U64)
        if elements > _MOST_ELEMENTS:
            raise RuntimeFailure(
                f"tensor {name[:80]!r} of the GGUF file claims {elements} elements"
            )
        self._number(_U32)
        return self._number(_U64)
