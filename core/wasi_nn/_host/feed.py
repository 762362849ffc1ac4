"""Standard input that Python gives: a file, an iterator or a callable.

A thread asks for a piece and writes it to a pipe, whose other end is the guest's standard input. So
a guest that waits for a slow source can be stopped: the thread alone waits for the source.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from wasi_nn._closing import Closing

_PIECE = 1 << 16


class Feed(Closing):
    """The standard input of one guest. Close it, or use it in a ``with`` block."""

    def __init__(self, source: object) -> None:
        """``source`` has a ``read`` as a file, is iterable, or is called with a number of bytes. A
        text is written as UTF-8."""
        self._source = source
        #: The end of the pipe that the guest reads.
        self.reader, self._writer = os.pipe()
        # A file may be read ahead. What else gives input may depend on what the guest has said: the
        # next piece is asked for when the guest has read the one before. (A pipe of one page can be
        # written to only when it is empty. Only Linux makes pipes so small.)
        self._ahead = hasattr(source, "read")
        if not self._ahead and hasattr(fcntl, "F_SETPIPE_SZ"):
            with suppress(OSError):
                fcntl.fcntl(self._writer, fcntl.F_SETPIPE_SZ, 4096)
        self._thread: threading.Thread | None = None
        self._closed = False
        self._error: BaseException | None = None

    def start(self, interrupt: Callable[[], None]) -> None:
        """Begin to read. ``interrupt`` is called if the source raises: the guest must not take what
        it has read for all of the input."""
        self._thread = threading.Thread(
            target=self._run, args=(interrupt,), name="wasi-nn stdin", daemon=True
        )
        self._thread.start()

    def check(self) -> None:
        """Raise what the source raised."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """The guest has ended. A source that is waited for is left to its thread."""
        self._closed = True
        os.close(self.reader)
        if self._thread is None:
            os.close(self._writer)

    def _run(self, interrupt: Callable[[], None]) -> None:
        # A program may have given this signal its default again, which would end the process.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
        try:
            for piece in self._pieces():
                if self._closed or not self._write(memoryview(piece)):
                    return
        except BaseException as error:
            if not self._closed:
                self._error = error
                interrupt()
        finally:
            os.close(self._writer)

    def _pieces(self) -> Iterator[bytes]:
        source: Any = self._source
        if self._ahead or not isinstance(source, Iterable):
            read = source.read if self._ahead else source
            source = iter(lambda: read(_PIECE), None)
            ends = True
        else:
            ends = False
        for given in source:
            piece = given.encode() if isinstance(given, str) else given
            if not isinstance(piece, (bytes, bytearray, memoryview)):
                raise TypeError(f"stdin gave {given!r}, and must give bytes")
            if piece:
                yield bytes(piece)
            elif ends:
                return

    def _write(self, left: memoryview) -> bool:
        """Write a piece, and wait until more can come. False when nobody reads any more."""
        poll = select.poll()
        poll.register(self._writer, select.POLLOUT)
        try:
            while left:
                left = left[os.write(self._writer, left) :]
        except BrokenPipeError:
            return False
        return self._ahead or not poll.poll()[0][1] & select.POLLERR
