"""A user at a terminal is told what takes so long."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from wasi_nn._cli.messages import write
from wasi_nn._host.compiling import waiting
from wasi_nn.escaping import visible

_QUIET = 1.0
# Of a name, so that the line fits a terminal: only one row can be erased.
_MOST = 28


@contextmanager
def patience(name: str) -> Iterator[None]:
    """Within the block, each wait for a compiler is told on a terminal after a second, and the line
    is erased when the wait is over."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    name = visible(name)
    short = name if len(name) <= _MOST else f"{name[:_MOST]}…"
    token = waiting.set(partial(_line, f"wasi-nn: compiling {short} …"))
    try:
        yield
    finally:
        waiting.reset(token)


@contextmanager
def _line(text: str) -> Iterator[None]:
    # (A dumb terminal erases nothing.)
    end, erase = ("\n", "") if os.environ.get("TERM") == "dumb" else ("", "\r\x1b[K")
    lock = threading.Lock()
    shown = over = False

    def show() -> None:
        nonlocal shown
        with lock:
            if not over:
                shown = True
                write(text + end)

    timer = threading.Timer(_QUIET, show)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        with lock:
            over = True
            if shown:
                write(erase)
