"""Standard streams for engines that take file descriptors.

A stream that goes to a Python callable is a pipe. A thread reads it while the guest runs, so that
the guest never waits for a full pipe; ``flush`` delivers the rest when the guest has come back.
For an engine that lets go of the GIL while a guest runs.
"""

from __future__ import annotations

import os
import select
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import Any

from wasi_nn.runtime import Stdin, Stdout, WasiConfig

__all__ = ["Streams"]

_PIECE = 1 << 16


class Streams:
    """Three descriptors of its own for one guest: ``stdin``, ``stdout``, ``stderr``."""

    def __init__(self, wasi: WasiConfig, failures: list[BaseException]) -> None:
        self._failures = failures
        self._owned: list[int] = []
        self._readers: dict[int, Callable[[bytes], Any]] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._wake = -1
        try:
            self.stdin = self._input(wasi.stdin)
            self.stdout = self._output(wasi.stdout, sys.stdout, 1)
            self.stderr = self._output(wasi.stderr, sys.stderr, 2)
            if self._readers:
                self._start()
        except BaseException:
            self.close()
            raise

    def flush(self) -> None:
        """Deliver what the guest has written so far. The guest is not running."""
        with self._lock:
            for reader in list(self._readers):
                while self._deliver(reader):
                    pass

    def close(self) -> None:
        """Close the descriptors; the engine has let go of them. What was not delivered is lost."""
        self._closed = True
        if self._thread is not None:
            os.write(self._wake, b".")
            # (Whoever is collected can be so on that thread.)
            if self._thread is not threading.current_thread():
                self._thread.join()
            self._thread = None
        for descriptor in self._owned:
            os.close(descriptor)
        self._owned.clear()
        self._readers.clear()

    def _own(self, descriptor: int) -> int:
        self._owned.append(descriptor)
        return descriptor

    def _input(self, stdin: Stdin) -> int:
        if stdin == "inherit":
            return self._inherited(0, os.O_RDONLY)
        if isinstance(stdin, int):
            return self._own(os.dup(stdin))
        if not stdin:
            return self._own(os.open(os.devnull, os.O_RDONLY))
        # A file, not a pipe: something would have to write to a pipe while the guest reads.
        with tempfile.TemporaryFile() as file:
            file.write(stdin)
            file.seek(0)
            return self._own(os.dup(file.fileno()))

    def _output(self, stream: Stdout, ours: Any, number: int) -> int:
        if stream == "inherit":
            # What Python has buffered comes before what the guest writes to the same descriptor.
            if ours is not None:
                ours.flush()
            return self._inherited(number, os.O_WRONLY)
        if not callable(stream):
            return self._own(os.open(os.devnull, os.O_WRONLY))
        reader, writer = os.pipe()
        self._own(reader)
        os.set_blocking(reader, False)
        self._readers[reader] = stream
        return self._own(writer)

    def _inherited(self, number: int, flags: int) -> int:
        try:
            return self._own(os.dup(number))
        except OSError:
            # This process has closed it.
            return self._own(os.open(os.devnull, flags))

    def _start(self) -> None:
        end, self._wake = os.pipe()
        self._own(end)
        self._own(self._wake)
        thread = threading.Thread(target=self._pump, args=(end,), daemon=True)
        thread.start()
        self._thread = thread

    def _pump(self, end: int) -> None:
        watched = select.poll()
        for descriptor in (end, *self._readers):
            watched.register(descriptor, select.POLLIN)
        while True:
            ready = [descriptor for descriptor, _ in watched.poll()]
            if end in ready:
                return
            with self._lock:
                for reader in ready:
                    if reader in self._readers:
                        self._deliver(reader)
                    if self._closed:
                        # The callback closed us: these descriptors may already have been reused.
                        return
                    if reader not in self._readers:
                        watched.unregister(reader)

    def _deliver(self, reader: int) -> bool:
        """Hand one piece over; whether there may be more. After a failure the guest finds that
        nobody reads: one that writes on and on would never end."""
        try:
            piece = os.read(reader, _PIECE)
        except BlockingIOError:
            return False
        if not piece:
            return False
        try:
            self._readers[reader](piece)
        except BaseException as error:
            self._failures.append(error)
            del self._readers[reader]
            self._owned.remove(reader)
            os.close(reader)
            return False
        return True
