"""Graph encodings: an open set of names, and how the well-known ones are recognised.

A backend names the encodings that it serves; a dialect maps a guest's numbers to names. The magic
bytes below are core's knowledge, so that a model is recognised (and the missing extra named) even
where no backend for it is installed. A backend adds its own through ``Backend.sniff``.
"""

from __future__ import annotations

from pathlib import Path

from wasi_nn.backend import Builder
from wasi_nn.errors import UsageError

OPENVINO = "openvino"
ONNX = "onnx"
TENSORFLOW = "tensorflow"
PYTORCH = "pytorch"
TENSORFLOWLITE = "tensorflowlite"
GGML = "ggml"
AUTODETECT = "autodetect"

#: Other spellings that people use on command lines.
ALIASES = {
    "tflite": TENSORFLOWLITE,
    "tensorflow-lite": TENSORFLOWLITE,
    "torch": PYTORCH,
    "torchscript": PYTORCH,
    "gguf": GGML,
    "ov": OPENVINO,
    "auto": AUTODETECT,
}

#: The extra that brings the backend of a well-known encoding.
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
# How the name of the first entry of a PyTorch archive goes on after the archive's own name.
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
    """The specification's word for an encoding, whatever the case or spelling. Raises
    ``UsageError`` for what is no text."""
    if not isinstance(name, str):
        raise UsageError(f"the encoding is {name!r}, and must be a name (str), such as 'onnx'")
    lowered = name.strip().lower()
    return ALIASES.get(lowered, lowered)


def head(builder: Builder) -> bytes:
    """The first bytes of a graph builder (4,096 at most). A path that cannot be read raises
    ``UsageError``: paths come from the person, never from a guest."""
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
        # A local file header of a zip archive: the name's length is at 26, the name at 30.
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
