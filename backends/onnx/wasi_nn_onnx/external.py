"""Whether a model keeps weights in files outside itself.

A model of bytes comes from a guest, and a guest must not make the host read files: some releases of
onnxruntime follow an absolute path in such a model. So the model's protobuf is walked, along the
few fields of onnx.proto3 that lead to tensors, before onnxruntime sees it.
"""

from __future__ import annotations

from collections.abc import Iterator

# Fields that hold messages, by the message that has them: {field: the message in it}.
_INNER: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        6: "graph",
        10: "tensor",
        11: "graph",
        22: "sparse",
        23: "sparse",
    },
    "sparse": {1: "tensor", 2: "tensor"},
}
_EXTERNAL_DATA = 13  # TensorProto.external_data
_BYTES = 2  # the wire type of messages and strings
_MOST_DEEP = 64


def has_external_data(model: bytes) -> bool:
    """True when a tensor names a file, and when the bytes are no protobuf that can be walked."""
    # Every such tensor has an entry with the key "location": most models can be told at once.
    if b"location" not in model:
        return False
    try:
        return _walk(memoryview(model), "model", 0)
    except (IndexError, ValueError):
        return True


def _walk(data: memoryview, message: str, depth: int) -> bool:
    if depth > _MOST_DEEP:
        raise ValueError("messages are nested too deeply")
    for field, content in _messages(data):
        if message == "tensor":
            if field == _EXTERNAL_DATA:
                return True
            continue
        inner = _INNER[message].get(field)
        if inner is not None and _walk(content, inner, depth + 1):
            return True
    return False


def _messages(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The length-delimited fields of a message."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        if not 8 <= tag < 1 << 32:
            # Readers cut a longer tag to 32 bits, so it is not the field that it looks like.
            raise ValueError("a tag is out of range")
        wire = tag & 7
        if wire == _BYTES:
            length, at = _varint(data, at)
            # A length that a reader could cut to 32 bits is longer than any model here.
            if length > len(data) - at:
                raise ValueError("a field is longer than its message")
            yield tag >> 3, data[at : at + length]
            at += length
        elif wire == 0:
            _, at = _varint(data, at)
        elif wire == 1:
            at += 8
        elif wire == 5:
            at += 4
        else:
            raise ValueError(f"wire type {wire} is not used by ONNX")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number and the place behind it. Raises for what readers would disagree about."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")
