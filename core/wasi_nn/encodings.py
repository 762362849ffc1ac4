"""Graph encodings: an open set of names, and how to recognise the well-known ones.

A backend names the encodings that it serves, and a dialect maps a guest's numbers to names. Core
knows the magic bytes below, so it can recognise a model and name the missing extra even if no
backend for it is installed. A backend adds its own formats with ``Backend.sniff``.
"""

from __future__ import annotations

from wasi_nn.backend import Builder
from wasi_nn.errors import UsageError

__all__ = [
    "ALIASES",
    "AUTODETECT",
    "EXTRAS",
    "GGML",
    "ONNX",
    "OPENVINO",
    "PYTORCH",
    "TENSORFLOW",
    "TENSORFLOWLITE",
    "canonical",
    "head",
    "recognise",
]

OPENVINO = "openvino"
ONNX = "onnx"
TENSORFLOW = "tensorflow"
PYTORCH = "pytorch"
TENSORFLOWLITE = "tensorflowlite"
GGML = "ggml"
AUTODETECT = "autodetect"

#: Other spellings that users write on command lines.
ALIASES = {
    "tflite": TENSORFLOWLITE,
    "tensorflow-lite": TENSORFLOWLITE,
    "torch": PYTORCH,
    "torchscript": PYTORCH,
    "gguf": GGML,
    "ov": OPENVINO,
    "auto": AUTODETECT,
}

#: The extra that installs the backend of a well-known encoding.
EXTRAS = {
    OPENVINO: "openvino",
    ONNX: "onnx",
    PYTORCH: "pytorch",
    TENSORFLOWLITE: "tflite",
    GGML: "ggml",
}

_HEAD = 4096
# ModelProto fields that can follow ir_version, as protobuf tags (onnx.proto3, message ModelProto).
_ONNX_SECOND_TAGS = frozenset((0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42, 0x72, 0xA2, 0xCA))
# How the name of a PyTorch archive's first entry continues after the archive's own name.
_TORCH_ENTRIES = (
    b"data/",
    b"data.pkl",
    b"constants.pkl",
    b"code/",
    b"models/",
    b"archive_",
    b".data",
)


def canonical(name: str) -> str:
    """The specification's name of an encoding, from any case or spelling. Raises ``UsageError``
    unless ``name`` is a string."""
    if not isinstance(name, str):
        raise UsageError(f"the encoding must be a name (str), such as 'onnx', not {name!r}")
    lowered = name.strip().lower()
    return ALIASES.get(lowered, lowered)


def head(builder: Builder) -> bytes:
    """The first 4,096 bytes of a graph builder. Raises ``UsageError`` for a path that cannot be
    read: paths come from the operator, never from a guest."""
    from pathlib import Path

    if isinstance(builder, Path):
        try:
            with builder.open("rb") as file:
                return file.read(_HEAD)
        except OSError as error:
            raise UsageError(f"cannot read {builder}: {error.strerror or error}") from error
    return bytes(builder[:_HEAD])


def recognise(first: bytes) -> str | None:
    """The well-known encoding of a file that begins with ``first``, or None."""
    if first[:4] == b"GGUF":
        return GGML
    if first[4:8] == b"TFL3":
        return TENSORFLOWLITE
    if first[4:8] == b"ORTM":
        return ONNX
    if first[:4] == b"PK\x03\x04":
        # The local file header of a zip archive has the name's length at 26 and the name at 30.
        length = int.from_bytes(first[26:28], "little")
        entry = first[30 : 30 + length].partition(b"/")[2]
        return PYTORCH if entry.startswith(_TORCH_ENTRIES) else None
    text = first.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text[:5] == b"<?xml" or text[:4] == b"<net":
        return OPENVINO if b"<net" in text else None
    if (
        len(first) > 2
        and first[0] == 0x08
        and 0 < first[1] < 0x80
        and first[2] in _ONNX_SECOND_TAGS
    ):
        return ONNX
    return None
