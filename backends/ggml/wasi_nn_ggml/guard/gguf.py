"""Checks a GGUF file before llama.cpp loads it.

For many files llama.cpp's error messages mislead. The check also tells what kind of file it is.
Source: ggml's docs/gguf.md.
"""

from __future__ import annotations

import mmap
import os
from struct import Struct, error
from typing import Any, NamedTuple

from wasi_nn.errors import RuntimeFailure

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_HEADER = Struct("<4sIQQ")
_U32, _U64 = Struct("<I"), Struct("<Q")
_STRING, _ARRAY = 8, 9
# The size of a value of each type, in bytes.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_ARCHITECTURE, _KIND = b"general.architecture", b"general.type"
_PART, _PARTS = b"split.no", b"split.count"
# Of the header: tensors, and keys. Of a tensor: numbers.
_MAX_ENTRIES = 1 << 20
_MAX_ELEMENTS = 1 << 40


class Contents(NamedTuple):
    """The names of the tensors, the architecture and kind, and for a split model the index of this
    part, from 0, and the number of parts."""

    tensors: frozenset[bytes] = frozenset()
    architecture: str = ""
    kind: str = ""
    part: int = 0
    parts: int = 0

    def check_model(self) -> None:
        """Raise ``RuntimeFailure`` for a valid file that is not a language model."""
        if self.other is not None:
            raise RuntimeFailure(f"the GGUF file is {self.other}")

    @property
    def is_projector(self) -> bool:
        """Whether it is a projector for images, to be given beside a model."""
        return self.kind == "mmproj" or self.architecture == "clip"

    @property
    def other(self) -> str | None:
        """What the file is and what to do with it; None for a language model."""
        if self.kind == "adapter":  # prose: allow
            return "a LoRA adapter: merge it into its model first (llama-export-lora)"
        if self.kind == "imatrix":
            return "an importance matrix, which is for quantising models"
        if self.architecture == "controlvector":
            return "a control vector, which no option takes: give only the model"
        if self.is_projector:
            return "a projector for images: give the model first, and this after it"
        return None if self.tensors else "a vocabulary without a model: it has no tensors"

    def joined(self, other: Contents) -> Contents:
        """These contents with the tensors of another part."""
        return self._replace(tensors=self.tensors | other.tensors)


def check(descriptor: int) -> Contents:
    """The contents of a file. Checks the header, keys and values, and the tensor table; raises
    ``RuntimeFailure`` with the reason if one of them is not valid."""
    size = os.fstat(descriptor).st_size
    if size < _HEADER.size:
        raise RuntimeFailure(f"the model is not a GGUF file: it has {size} bytes")
    with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as data:
        try:
            return _Reader(data, size).read()
        except (error, IndexError, OverflowError):
            raise RuntimeFailure("the GGUF file is cut off in its header") from None


class _Reader:
    def __init__(self, data: mmap.mmap, size: int) -> None:
        self._data = data
        self._size = size
        self._at = _HEADER.size
        self._texts = dict.fromkeys((_ARCHITECTURE, _KIND), b"")
        self._parts = dict.fromkeys((_PART, _PARTS), 0)

    def read(self) -> Contents:
        magic, version, tensors, pairs = _HEADER.unpack_from(self._data)
        if magic != MAGIC:
            raise RuntimeFailure(f"the model is not a GGUF file: it begins with {magic!r}")
        if int.from_bytes(version.to_bytes(4, "little"), "big") in _VERSIONS:
            raise RuntimeFailure(
                "the GGUF file is for big-endian machines: get or convert a little-endian one"
            )
        if version not in _VERSIONS:
            raise RuntimeFailure(f"the GGUF file has version {version}; 2 and 3 are supported")
        if tensors > _MAX_ENTRIES or pairs > _MAX_ENTRIES:
            raise RuntimeFailure(f"the GGUF file claims {tensors} tensors and {pairs} keys")
        alignment = 32
        for _ in range(pairs):
            key = self._string()
            if key == b"general.alignment":
                alignment = self._alignment()
            else:
                self._value(key)
        table = dict(self._tensor() for _ in range(tensors))
        ends = table.values()
        start = -(-self._at // alignment) * alignment
        if ends and start + max(ends) > self._size:
            raise RuntimeFailure(
                f"the GGUF file is cut off: a tensor begins at {start + max(ends)}, the file ends "
                f"at {self._size}"
            )
        architecture, kind = (text.decode("utf-8", "replace") for text in self._texts.values())
        return Contents(frozenset(table), architecture, kind, *self._parts.values())

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
            raise RuntimeFailure(f"the GGUF file's alignment is not a power of two: {value}")
        return value

    def _value(self, key: bytes) -> None:
        kind = self._number(_U32)
        if kind == _STRING:
            text = self._string()
            if key in self._texts:
                self._texts[key] = text
        elif kind == _ARRAY:
            self._array(key)
        elif kind in _SIZES:
            start = self._at
            self._skip(_SIZES[kind])
            if key in self._parts:
                self._parts[key] = int.from_bytes(self._data[start : self._at], "little")
        else:
            raise RuntimeFailure(f"the GGUF file's key {key[:80]!r} has the unknown type {kind}")

    def _array(self, key: bytes) -> None:
        kind, count = self._number(_U32), self._number(_U64)
        if kind in _SIZES:
            self._skip(count * _SIZES[kind])
            return
        if kind != _STRING or count > self._size // 8:
            raise RuntimeFailure(
                f"the GGUF file's array {key[:80]!r} is not valid: type {kind}, {count} elements"
            )
        # A vocabulary has 100,000 texts, so this loop makes no calls of its own. Beyond the end of
        # the file, there is no length to unpack.
        at, data, length_at = self._at, self._data, _U64.unpack_from
        for _ in range(count):
            at += 8 + length_at(data, at)[0]
        self._at = at
        self._skip(0)

    def _tensor(self) -> tuple[bytes, int]:
        name = self._string()
        rank = self._number(_U32)
        if rank > 4:
            raise RuntimeFailure(f"tensor {name[:80]!r} of the GGUF file has {rank} dimensions")
        elements = 1
        for _ in range(rank):
            elements *= self._number(_U64)
        if elements > _MAX_ELEMENTS:
            raise RuntimeFailure(
                f"tensor {name[:80]!r} of the GGUF file claims {elements} elements"
            )
        self._number(_U32)
        return name, self._number(_U64)
