"""Tell a user at a terminal what takes so long."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from wasi_nn._cli.messages import write
from wasi_nn._process.compilation import waiting
from wasi_nn.escaping import visible

_QUIET_SECONDS = 1.0
# The most characters of a name to show. The line must fit one row, because only one can be erased.
_MAX_NAME = 28


@contextmanager
def patience(name: str) -> Iterator[None]:
    """Within the block, print a line on a terminal if the compiler takes longer than a second, and
    erase it when the compiler is done."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    name = visible(name)
    short = name if len(name) <= _MAX_NAME else f"{name[:_MAX_NAME]}…"
    token = waiting.set(partial(_line, f"wasi-nn: compiling {short} …"))
    try:
        yield
    finally:
        waiting.reset(token)


@contextmanager
def _line(text: str) -> Iterator[None]:
    # A dumb terminal cannot erase a line.
    end, erase = ("\n", "") if os.environ.get("TERM") == "dumb" else ("", "\r\x1b[K")
    lock = threading.Lock()
    shown = over = False

    def show() -> None:
        nonlocal shown
        with lock:
            if not over:
                shown = True
                write(text + end)

    timer = threading.Timer(_QUIET_SECONDS, show)
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
