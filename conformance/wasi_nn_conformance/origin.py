"""Where results come from: when they were made, how, and on what machine."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from wasi_nn_conformance.printing import program

#: What decides results besides the host: the libraries of the backends, and of the engines.
_LIBRARIES = (
    *("llama-cpp-python", "xllamacpp", "onnxruntime", "openvino", "ai-edge-litert", "torch"),
    *("wasmtime", "wasmer", "numpy"),
)


class Origin(NamedTuple):
    """The origin of a run's results. ``date`` is in ISO 8601, with the time and its zone."""

    date: str
    command: str
    system: str
    processors: int
    python: str
    libraries: dict[str, str]

    @classmethod
    def here(cls) -> Origin:
        """This program's, now."""
        libraries = {}
        for name in _LIBRARIES:
            try:
                libraries[name] = version(name)
            except PackageNotFoundError:
                continue
        return cls(
            datetime.now().astimezone().isoformat(timespec="seconds"),
            shlex.join([program().partition(" ")[0], *sys.argv[1:]]),
            platform.platform(),
            os.cpu_count() or 1,
            platform.python_version(),
            libraries,
        )

    @property
    def day(self) -> str:
        return self.date.partition("T")[0]
