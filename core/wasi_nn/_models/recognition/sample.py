"""The little that is read of a file, or of a guest's bytes, to tell what it is."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

from wasi_nn.backend import Builder

#: What to do with a model where a guest is expected.
GIVE = "give it with --graph NAME=PATH (from Python, with Host.add_model), and the guest here"
#: What to do with a file that is not whole.
AGAIN = "download or copy it again"
#: What to do with a model of TensorFlow or PaddlePaddle.
BY_OPENVINO = "OpenVINO reads it: name its encoding, openvino. Or convert it to ONNX or TFLite"
#: What to do with a model of another library.
NO_BACKEND = "no backend reads it: export the model that it was made from to ONNX"

_MOST = 4096


class Sample(NamedTuple):
    """The first and the last bytes (4,096 at most), and the size in bytes. ``path`` is None for
    bytes of a guest or an embedder."""

    head: bytes
    tail: bytes
    size: int
    path: Path | None = None

    @classmethod
    def of(cls, source: Builder) -> Sample | None:
        """Look at a source; None for what cannot be read, and for what is no regular file: a pipe
        gives its bytes only once."""
        if not isinstance(source, Path):
            return cls(bytes(source[:_MOST]), bytes(source[-_MOST:]), len(source))
        try:
            with open(os.open(source, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    return None
                head = file.read(_MOST)
                file.seek(max(0, status.st_size - _MOST))
                return cls(head, file.read(_MOST), status.st_size, source)
        except (OSError, ValueError):
            return None


class Look(NamedTuple):
    """What something is, as a noun with its article, and what to do about it.

    ``advice`` is for those who expected a model; ``for_guest`` for those who expected a guest,
    where that is something else. ``stands_in`` says that the file itself is somewhere else: nothing
    of the kind is a part of any model. ``cut_off`` is a file that is shorter than it says. One that
    is not ``certain`` may be a model of a format that nobody here knows."""

    what: str
    advice: str = ""
    for_guest: str | None = None
    stands_in: bool = False
    cut_off: bool = False
    certain: bool = True
