"""Recognise protobuf models by their first fields, because protobufs have no magic bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from wasi_nn._models.recognition.sample import AGAIN, BY_OPENVINO, GIVE, NO_BACKEND, Look, Sample
from wasi_nn.wasm.module import Reader

_NUMBER, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
#: The first ops of TensorFlow's graphs and lists of ops.
_OPS = (b"Placeholder", b"Const", b"VarHandleOp", b"NoOp", b"AssignVariable", b"BiasAdd", b"serve")


class _Field(NamedTuple):
    """A field. ``value`` is its number, or the length of its content, which begins at ``start``."""

    number: int
    wire: int
    value: int
    start: int

    @property
    def end(self) -> int:
        """The offset of the end of the field."""
        return self.start + (self.value if self.wire == _BYTES else 0)


def recognise(sample: Sample) -> Look | None:
    """Recognise a protobuf that is not a complete ONNX model. None for everything else."""
    head = sample.head
    fields = list(_fields(head, 0, sample.size))
    if len(fields) < 2:
        return _of_one(head, fields)
    first, second = fields[:2]
    if first.number == 1 and first.wire == _NUMBER:
        if second.number == 2 and second.wire == _BYTES:
            # Field 2 is the producer's name in an ONNX model, and a message in the others.
            if head[second.start : second.start + 1] > b"\x1f":
                return _cut_off(fields, sample.size)
            if first.value == 1 and any(op in head for op in _OPS):
                return Look("a TensorFlow SavedModel (.pb)", BY_OPENVINO, GIVE)
            return Look("a Core ML model (.mlmodel)", NO_BACKEND)
        kinds = [field.number for field in fields if field.wire == _NUMBER]
        if len(kinds) > 1 and set(kinds) == {1, 2} and kinds[-1] == 2:
            return Look("an ONNX tensor (TensorProto)", "it is an input of a model, and is not one")
        return _cut_off(fields, sample.size)
    return _of_one(head, fields)


def _of_one(head: bytes, fields: list[_Field]) -> Look | None:
    """Recognise a protobuf by its first field, if that is a message."""
    if not fields or fields[0].number != 1 or fields[0].wire != _BYTES:
        return None
    inner = list(_fields(head, fields[0].start, fields[0].end))[:2]
    if [(field.number, field.wire) for field in inner] == [(1, _BYTES), (2, _BYTES)]:
        op = head[inner[1].start : inner[1].end]
        if op[:1].isalpha() and op.replace(b"_", b"").isalnum():
            return Look("a frozen TensorFlow graph (.pb)", BY_OPENVINO, GIVE)
    if [(field.number, field.wire) for field in inner] == [(1, _NUMBER), (2, _NUMBER)]:
        return Look("a PaddlePaddle model (.pdmodel)", BY_OPENVINO, GIVE)
    return None


def _cut_off(fields: list[_Field], size: int) -> Look | None:
    last = fields[-1]
    if last.end <= size:
        return None
    return Look(
        f"an ONNX model that is cut off: its graph ends at byte {last.end:,}, and the file has "
        f"{size:,}",
        AGAIN,
        cut_off=True,
    )


def _fields(data: bytes, at: int, end: int) -> Iterator[_Field]:
    """The fields of the message from ``at`` to ``end`` that begin within ``data``. Stops at the
    first invalid field."""
    reader = Reader(memoryview(data))
    reader.at = at
    try:
        while reader.at < end:
            tag = reader.number()
            number, wire = tag >> 3, tag & 7
            if not 0 < number < 1 << 29 or wire not in (_NUMBER, _EIGHT, _BYTES, _FOUR):
                return
            value = reader.number() if wire in (_NUMBER, _BYTES) else 0
            yield _Field(number, wire, value, reader.at)
            reader.at += {_NUMBER: 0, _EIGHT: 8, _BYTES: value, _FOUR: 4}[wire]
    except (IndexError, ValueError):
        return
