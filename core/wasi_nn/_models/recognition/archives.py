"""Recognise archives: models that are archives, and files that must be unpacked first."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterable, Iterator

from wasi_nn import encodings
from wasi_nn._models.recognition.pickles import EXPORT
from wasi_nn._models.recognition.sample import AGAIN, NO_BACKEND, Look, Sample

_UNPACK = "unpack it, and name what is in it"
_LOCAL, _CENTRAL, _END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
# The offsets of the name's length and of the name, by the kind of header.
_NAMES = {_LOCAL: (26, 30), _CENTRAL: (28, 46)}
_HEADERS = re.compile(b"PK(?:\x03\x04|\x01\x02)")
_TAR_BLOCK = 512
#: The magic bytes of compressed files.
_COMPRESSED: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "a gzip file"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file"),
    (b"\xfd7zXZ\0", "an xz file"),
    (b"BZh", "a bzip2 file"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\x04\x22\x4d\x18", "an LZ4 file"),
    (b"LZIP", "an lzip file"),
    (b"x\x9c", "a zlib file (joblib's, perhaps)"),
    (b"x\xda", "a zlib file (joblib's, perhaps)"),
    (b"\x1f\x9d", "a file of compress (.Z)"),
    (b"!<arch>\n", "an ar archive (a static library or a Debian package)"),
)


def recognise(sample: Sample) -> Look | None:
    """Recognise an archive. None if it is not one."""
    head = sample.head
    if head[:4] in (_LOCAL, _END):
        return _zip(sample)
    for magic, what in _COMPRESSED:
        if head.startswith(magic):
            return Look(f"{what}, still packed", _UNPACK)
    return _tar(head)


def _zip(sample: Sample) -> Look | None:
    end = sample.tail.rfind(_END)
    if end < 0:
        return Look(
            "a zip archive (PyTorch's models are such) that is cut off: its directory, which "
            "comes last, is missing",
            AGAIN,
            cut_off=True,
        )
    # Read the archive's directory if it is within the last bytes. (Entries can be archives too.)
    size = int.from_bytes(sample.tail[end + 12 : end + 16], "little")
    whole = size <= end
    parts = [sample.tail[end - size : end]] if whole else [sample.head, sample.tail]
    names = [name for part in parts for name in _names(part)]
    if not names:
        return Look("an empty zip archive")
    tails = {name.partition("/")[2] for name in names}
    if "data.pkl" in tails and "constants.pkl" not in tails and whole:
        return Look("a PyTorch checkpoint or state dict", EXPORT)
    if any(tail.startswith((".data/extern", ".data/python_version")) for tail in tails):
        return Look("a torch.package archive", EXPORT)
    if encodings.recognise(sample.head) == encodings.PYTORCH:
        return None
    if any(name.endswith(("model.weights.h5", "model.weights.json")) for name in names):
        return Look("a Keras model (.keras)", "convert it to TFLite, or to ONNX (model.export)")
    if all(name.endswith(".npy") for name in names):
        return Look("an archive of numpy arrays (.npz)", "arrays are inputs, not models")
    if any(".mlpackage/" in name or name.endswith(".mlmodel") for name in names):
        return Look("a packed Core ML model", NO_BACKEND)
    return _packed("a zip archive", names)


def _names(part: bytes) -> Iterator[str]:
    """The names of the entries whose headers are in ``part``."""
    for found in _HEADERS.finditer(part):
        length, start = (found.start() + at for at in _NAMES[found[0]])
        size = int.from_bytes(part[length : length + 2], "little")
        name = part[start : start + size]
        if size and len(name) == size:
            yield name.decode("utf-8", "replace")


def _tar(head: bytes) -> Look | None:
    if len(head) < _TAR_BLOCK:
        return None
    try:
        name = tarfile.TarInfo.frombuf(head[:_TAR_BLOCK], "utf-8", "replace").name
    except (tarfile.HeaderError, ValueError):
        return None
    if name in ("sys_info", "pickle", "storages", "tensors"):
        return Look("a PyTorch checkpoint or state dict in the old tar format", EXPORT)
    return _packed("a tar archive", [name])


def _packed(what: str, names: Iterable[str]) -> Look:
    listed = ", ".join(repr(name[:60]) for name in sorted(set(names))[:3])
    return Look(f"{what} ({listed})", _UNPACK)
