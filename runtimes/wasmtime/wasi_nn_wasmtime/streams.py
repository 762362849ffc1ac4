"""Output streams that call Python functions.

wasmtime writes to them from its own thread. That thread also drops them, some time after the store
is closed. If Python ends at that moment, the process crashes (seen once in about 180 programs with
wasmtime-py's own streams). So closing an instance waits for its streams.

The two C callbacks are created once and never freed: a thread may still return from one.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import threading
from collections.abc import Callable
from typing import Any

from wasi_nn_wasmtime.capi import POINTER, lean

_WRITE: Any = ctypes.CFUNCTYPE(ctypes.c_ssize_t, POINTER, POINTER, ctypes.c_size_t)
_DROP: Any = ctypes.CFUNCTYPE(None, POINTER)
_SETTERS = {
    name: lean(f"wasi_config_set_{name}_custom", None, POINTER, _WRITE, POINTER, _DROP)
    for name in ("stdout", "stderr")
}
# Closing waits this long for a stream. Only a thread of wasmtime that hangs takes longer.
_WAIT_SECONDS = 2.0

_numbers = itertools.count(1)
_streams: dict[int, OutputStream] = {}


class OutputStream:
    """One stream of one guest. If ``take`` raises, the exception is added to ``failures``, and the
    guest gets an I/O error."""

    def __init__(self, take: Callable[[bytes], Any], failures: list[BaseException]) -> None:
        self._take = take
        self._failures = failures
        self._dropped = threading.Event()
        self._number = next(_numbers)

    def attach(self, config: int, name: str) -> None:
        """Set it as the guest's ``stdout`` or ``stderr``, in the configuration at this address."""
        _streams[self._number] = self
        _SETTERS[name](config, _write, self._number, _drop)

    def write(self, piece: bytes) -> int:
        try:
            self._take(piece)
        except BaseException as error:
            self._failures.append(error)
            return -errno.EIO
        return len(piece)

    def drop(self) -> None:
        """wasmtime does not use it any more."""
        self._dropped.set()

    def wait(self) -> None:
        """Wait until wasmtime has dropped it, after the store is closed."""
        if self._dropped.wait(_WAIT_SECONDS):
            _streams.pop(self._number, None)


_write = _WRITE(lambda number, data, size: _streams[number].write(ctypes.string_at(data, size)))
_drop = _DROP(lambda number: _streams[number].drop())
