"""What a library writes to the stderr of its worker: a pipe that keeps the end of it.

A library that ends its process says why in its last line. The host reads it only then, and a full
pipe would keep the beginning. So a thread of the worker takes out what is old.
"""

from __future__ import annotations

import array
import fcntl
import os
import select
import termios
import threading
import time
from contextlib import suppress

# Bytes that the pipe holds, those from which on the old ones are taken out, and those that stay.
_HOLDS, _MANY, _KEPT = 256 << 10, 32 << 10, 8 << 10
_MAX_LINE = 4000
# How often the thread looks while a library writes, and at least while it does not, in seconds.
_SHORTEST_WAIT, _LONGEST_WAIT = 0.01, 0.25


def pipe() -> list[int]:
    """The read end and the write end. Raises ``OSError``."""
    ends = list(os.pipe())
    for end in ends:
        # What a library writes must never stop it, nor what the host reads of it the host.
        os.set_blocking(end, False)
    with suppress(AttributeError, OSError):
        fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, _HOLDS)
    return ends


def last_line(reader: int) -> str:
    """The last line that the worker wrote before it ended; empty if there is none."""
    said = b""
    with suppress(OSError):
        said = os.read(reader, _HOLDS)
    lines = [line.strip() for line in said.decode("utf-8", "replace").split("\n")]
    return next((line[:_MAX_LINE] for line in reversed(lines) if line), "")


def keep_end(reader: int) -> None:
    """In the worker: take what is old out of the pipe from now on."""
    threading.Thread(target=_forget, args=(reader,), daemon=True).start()


def _forget(reader: int) -> None:
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    wait, size = _SHORTEST_WAIT, 0
    with suppress(OSError):
        while True:
            poll.poll()
            before, size = size, _waiting(reader)
            if size > _MANY:
                os.read(reader, size - _KEPT)
            wait = _SHORTEST_WAIT if size != before else min(2 * wait, _LONGEST_WAIT)
            time.sleep(wait)


def _waiting(reader: int) -> int:
    count = array.array("i", [0])
    fcntl.ioctl(reader, termios.FIONREAD, count)
    return count[0]
