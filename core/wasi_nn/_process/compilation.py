"""What a thread compiles, and what waits for it. Engines that compile in another process end that
process if nobody waits any more."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar

#: Makes a context manager for each wait for a compiler. The command shows long waits with it.
waiting: ContextVar[Callable[[], AbstractContextManager[None]]] = ContextVar(
    "waiting", default=nullcontext
)


def _nothing_compiles(end: Callable[[], None]) -> AbstractContextManager[None]:
    return nullcontext()


class _Here(threading.local):
    def __init__(self) -> None:
        #: ``with here.endable(end)``: within the block, ``end`` is called, in another thread, if
        #: nobody waits any more for the compilation that this thread runs.
        self.endable = _nothing_compiles


here = _Here()
