"""Find the files that hold an ONNX model's external tensors.

This walks the model's protobuf along the few fields of onnx.proto3 that lead to tensors. It is
needed for two reasons. First, a model in bytes may come from a guest, and a guest must not make the
host read files; some releases of onnxruntime follow an absolute path in such a model. Second, a
model in a file must be loaded again when its external data has changed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import IO, Union

from wasi_nn.backend.files import Version, version

__all__ = ["external_files", "has_external_data"]

# For each message, the fields that contain messages: {field: the message in it}.
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
# TensorProto.external_data with the fields of its entries, and TensorProto.data_location.
_EXTERNAL_DATA, _KEY, _VALUE = 13, 1, 2
_DATA_LOCATION, _EXTERNAL = 14, 1
# The wire types of numbers, and of messages and strings.
_NUMBER, _BYTES = 0, 2
_MAX_DEPTH = 64
# A walk over a model in bytes takes a second at most, because a guest may have made it.
_MAX_FIELDS = 500_000
# The text "location" with its length, in every form of the number that a reader could accept.
_MAY_BE_KEY = re.compile(rb"(?:\x08|\x88[\x80-\xff]{0,8}[\x00-\x7f])location")
# A message of at most this many bytes is read at once. Larger ones are read piece by piece.
_PIECE = 1 << 20


class _File:
    """The bytes of a file, read on demand: most of a model is weights, which are skipped."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._start = 0
        self._buffer = b""

    def __getitem__(self, at: int) -> int:
        if not 0 <= at - self._start < len(self._buffer):
            self._start, self._buffer = at, self.read(at, at + 4096)
        return self._buffer[at - self._start]

    def read(self, start: int, end: int) -> bytes:
        self._file.seek(start)
        return self._file.read(end - start)


_Data = Union[bytes, _File]
# The bytes of a message: the data, the start and the end.
_Part = tuple[_Data, int, int]


def has_external_data(model: bytes) -> bool:
    """Whether a tensor names a file. Also True if the bytes cannot be walked as a protobuf, or have
    so many fields that the walk takes long."""
    # Every such tensor has an entry with the key "location". Hardly any other model has this text.
    if _MAY_BE_KEY.search(model) is None:
        return False
    budget = count(_MAX_FIELDS, -1)
    try:
        return any(
            field == _EXTERNAL_DATA
            for tensor in _tensors((model, 0, len(model)), "model", 0, budget)
            for field, _ in _fields(tensor, budget)
        )
    except (IndexError, ValueError):
        return True


def external_files(model: Path) -> Sequence[Path]:
    """The files of a model's external tensors that are in its folder or below; libraries refuse
    all others. Empty for a file that is not ONNX. An unchanged model is not read again. Raises
    ``ModelNotFound``."""
    try:
        return _external_files(model, version(model))
    except _Changed:
        # Whoever loads it compares versions afterwards, and sees the change then.
        return ()


class _Changed(Exception):
    """The file was changed or replaced after its version was read."""


@lru_cache(maxsize=256)
def _external_files(model: Path, seen: Version) -> tuple[Path, ...]:
    names: dict[str, None] = {}
    if os.path.isfile(seen.path):
        with open(seen.path, "rb") as file:
            if Version.of(seen.path, os.fstat(file.fileno())) != seen:
                raise _Changed
            try:
                for tensor in _tensors((_File(file), 0, seen.size), "model", 0):
                    names.update(dict.fromkeys(map(os.path.normpath, _locations(tensor))))
            except (IndexError, ValueError):
                # The library reports what is wrong with the model.
                return ()
    return tuple(
        model.parent / name
        for name in names
        if not os.path.isabs(name) and Path(name).parts[:1] not in ((), ("..",))
    )


def _locations(tensor: _Part) -> list[str]:
    entries = {}
    external = False
    for field, content in _fields(tensor):
        if field == _DATA_LOCATION:
            external = content == _EXTERNAL
        elif field == _EXTERNAL_DATA and not isinstance(content, int):
            texts = {part: _text(text) for part, text in _fields(content)}
            entries[texts.get(_KEY)] = texts.get(_VALUE, "")
    return [entries["location"]] if external and entries.get("location") else []


def _text(part: int | _Part) -> str:
    if isinstance(part, int):
        raise ValueError("a number stands where a text must")
    data, start, end = part
    content = data.read(start, end) if isinstance(data, _File) else data[start:end]
    return os.fsdecode(content)


def _tensors(
    part: _Part, message: str, depth: int, budget: Iterator[int] | None = None
) -> Iterator[_Part]:
    """The tensors in a message."""
    if depth > _MAX_DEPTH:
        raise ValueError("messages are nested too deeply")
    data, start, end = part
    if isinstance(data, _File) and end - start <= _PIECE:
        part = data.read(start, end), 0, end - start
    if message == "tensor":
        yield part
        return
    inner = _INNER[message]
    for field, content in _fields(part, budget):
        if field in inner and not isinstance(content, int):
            yield from _tensors(content, inner[field], depth + 1, budget)


def _fields(part: _Part, budget: Iterator[int] | None = None) -> Iterator[tuple[int, int | _Part]]:
    """The fields of a message that are numbers or have a length. ``budget`` counts down the fields
    that may still be read."""
    data, at, end = part
    while at < end:
        if budget is not None and not next(budget):
            raise ValueError("there are too many fields")
        tag, at = _varint(data, at)
        if not 8 <= tag < 1 << 32:
            # Readers cut a longer tag to 32 bits, so they would see another field.
            raise ValueError("a tag is out of range")
        wire = tag & 7
        if wire == _BYTES:
            length, at = _varint(data, at)
            # This also excludes a length that a reader could cut to 32 bits.
            if length > end - at:
                raise ValueError("a field is longer than its message")
            yield tag >> 3, (data, at, at + length)
            at += length
        elif wire == _NUMBER:
            value, at = _varint(data, at)
            yield tag >> 3, value
        elif wire == 1:
            at += 8
        elif wire == 5:
            at += 4
        else:
            raise ValueError(f"wire type {wire} is not used by ONNX")
    if at > end:
        raise ValueError("a field is longer than its message")


def _varint(data: _Data, at: int) -> tuple[int, int]:
    """A number and the offset after it. Raises ``ValueError`` for a number that readers read
    differently."""
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
