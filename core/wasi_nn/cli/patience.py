"""Who looks at a terminal is told what takes so long."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from wasi_nn.cli.complaint import complain
from wasi_nn.program import Program

_QUIET = 1.0


@contextmanager
def patience(program: Program) -> Iterator[None]:
    """Say so where the program is still being compiled within the block after a second."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield
        return

    def tell() -> None:
        if not program.compile_seconds:
            complain(f"compiling {program.name} …")

    timer = threading.Timer(_QUIET, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
