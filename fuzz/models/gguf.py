"""Read and write GGUF files, sound or not."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

_ALIGNMENT = 32
#: The types of values that are not numbers, and the formats of those that are.
STRING, ARRAY = 8, 9
FORMATS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}


class Gguf(NamedTuple):
    """A file's header: keys with their type and value (arrays as element type and list), tensors
    with name, dimensions, type and offset; and the tensors' bytes."""

    keys: list[tuple[bytes, int, Any]]
    tensors: list[tuple[bytes, list[int], int, int]]
    data: bytes


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 24

    def number(self, form: str) -> Any:
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return value

    def text(self) -> bytes:
        length = self.number("<Q")
        self.at += length
        return self.data[self.at - length : self.at]

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            element, count = self.number("<I"), self.number("<Q")
            return element, [self.value(element) for _ in range(count)]
        return self.number(FORMATS[kind])


def read(data: bytes) -> Gguf:
    """A sound file."""
    reader = _Reader(data)
    tensors, keys = struct.unpack_from("<QQ", data, 8)
    found = Gguf([], [], b"")
    for _ in range(keys):
        name, kind = reader.text(), reader.number("<I")
        found.keys.append((name, kind, reader.value(kind)))
    for _ in range(tensors):
        name = reader.text()
        dims = [reader.number("<Q") for _ in range(reader.number("<I"))]
        found.tensors.append((name, dims, reader.number("<I"), reader.number("<Q")))
    start = -(-reader.at // _ALIGNMENT) * _ALIGNMENT
    return found._replace(data=data[start:])


def _text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def _number(form: str, value: Any) -> bytes:
    if form in ("<f", "<d"):
        return struct.pack(form, float(value) if abs(value) < 1e38 else 0.0)
    size = struct.calcsize(form)
    return (int(value) & ((1 << 8 * size) - 1)).to_bytes(size, "little")


def _value(kind: int, value: Any) -> bytes:
    if kind == STRING:
        return _text(value)
    if kind == ARRAY:
        element, items = value
        packed = b"".join(_value(element, item) for item in items)
        return struct.pack("<IQ", element, len(items)) + packed
    return _number(FORMATS[kind], value)


def write(
    model: Gguf, version: int = 3, tensors: int | None = None, keys: int | None = None
) -> bytes:
    """A file. The numbers of keys and tensors can be other ones."""
    out = bytearray(b"GGUF" + struct.pack("<I", version & 0xFFFFFFFF))
    for count in (
        len(model.tensors) if tensors is None else tensors,
        len(model.keys) if keys is None else keys,
    ):
        out += (count & (1 << 64) - 1).to_bytes(8, "little")
    for name, kind, value in model.keys:
        out += _text(name) + struct.pack("<I", kind) + _value(kind, value)
    for name, dims, kind, offset in model.tensors:
        out += _text(name) + struct.pack("<I", len(dims))
        out += b"".join(_number("<Q", dim) for dim in dims)
        out += _number("<I", kind) + _number("<Q", offset)
    out += bytes(-len(out) % _ALIGNMENT)
    return bytes(out) + model.data
