"""The few bytes of a file, or of a guest's bytes, that recognition looks at."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

from wasi_nn.backend import Builder

#: What to do with a model where a guest is expected.
GIVE = "give it with --graph NAME=PATH (from Python, with Host.add_model), and the guest here"
#: What to do with an incomplete file.
AGAIN = "download or copy it again"
#: What to do with a model of TensorFlow or PaddlePaddle.
BY_OPENVINO = "OpenVINO reads it: name its encoding, openvino. Or convert it to ONNX or TFLite"
#: What to do with a model of another library.
NO_BACKEND = "no backend reads it: export the model that it was made from to ONNX"

_MAX_BYTES = 4096


class Sample(NamedTuple):
    """The first and the last 4,096 bytes, and the size in bytes. ``path`` is None for bytes from a
    guest or an embedder."""

    head: bytes
    tail: bytes
    size: int
    path: Path | None = None

    @classmethod
    def of(cls, source: Builder) -> Sample | None:
        """Read a sample. None if the source cannot be read or is not a regular file: the bytes of a
        pipe can be read only once."""
        if not isinstance(source, Path):
            return cls(bytes(source[:_MAX_BYTES]), bytes(source[-_MAX_BYTES:]), len(source))
        try:
            with open(os.open(source, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    return None
                head = file.read(_MAX_BYTES)
                file.seek(max(0, status.st_size - _MAX_BYTES))
                return cls(head, file.read(_MAX_BYTES), status.st_size, source)
        except (OSError, ValueError):
            return None


class Look(NamedTuple):
    """What something is, as a noun with its article, and what to do about it.

    ``advice`` is for a user who expected a model, and ``for_guest`` for one who expected a guest,
    if the advice differs. ``stands_in`` marks a placeholder for a file that is elsewhere; it is
    never part of a model. ``cut_off`` marks a file that is shorter than its header says. If
    ``certain`` is False, it may be a model of an unknown format."""

    what: str
    advice: str = ""
    for_guest: str | None = None
    stands_in: bool = False
    cut_off: bool = False
    certain: bool = True
