"""Where guests, and contexts that print for them (``ExecutionContext.stdout``), write."""

from __future__ import annotations

import os
import sys
from codecs import getincrementaldecoder
from collections.abc import Callable
from io import BufferedIOBase
from typing import IO, Any, Union

from wasi_nn.runtime import Instance, Stdout, WasiConfig
from wasi_nn.runtime.engine import EngineInstance

#: Where a run's output goes: that of a runtime, or a file object.
Output = Union[Stdout, IO[str], IO[bytes]]


def guest_output(
    wasi: WasiConfig, instance: Instance, descriptor: int = 1
) -> Callable[[bytes], None]:
    """A function that writes to the guest's stdout, or to its stderr (2), after what the guest
    itself has written.

    What the stream's callable raises is raised when the guest has ended, as for the guest's own
    output. Nothing is written after it."""
    stream = wasi.stdout if descriptor == 1 else wasi.stderr
    failures = instance.output_failures if isinstance(instance, EngineInstance) else []

    def write(data: bytes) -> None:
        if isinstance(instance, EngineInstance):
            instance.flush_output()
        if failures or stream is None:
            return
        try:
            if callable(stream):
                stream(data)
            else:
                _write_all(descriptor, data)
        except BaseException as error:
            failures.append(error)

    return write


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def python_output() -> Callable[[bytes], None]:
    """A function that writes to ``sys.stdout``, for a Python caller without a guest."""
    return _writing_to(lambda: sys.stdout)


def runtime_output(given: Output) -> Stdout:
    """The output for a runtime: a file object becomes a function that writes to it."""
    if not hasattr(given, "write"):
        return given
    file: Any = given
    return _writing_to(lambda: file)


def _writing_to(file: Callable[[], IO[Any]]) -> Callable[[bytes], None]:
    """A function that writes to a file. What it is given may end within a character: a file that
    takes only text (notebooks) gets whole characters."""
    decoder = getincrementaldecoder("utf-8")(errors="replace")

    def write(data: bytes) -> None:
        stream = file()
        binary = stream if isinstance(stream, BufferedIOBase) else getattr(stream, "buffer", None)
        if binary is None:
            stream.write(decoder.decode(data))
        else:
            # What the caller has written as text comes first.
            stream.flush()
            binary.write(data)
        stream.flush()

    return write
