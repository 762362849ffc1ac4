"""Python's exit while other threads run native code.

When Python exits, daemon threads continue in native code. If one of them returns to Python, Python
ends it by unwinding its stack, and C++ and Rust abort the process when that happens. So before
Python exits, guests and computations in other threads are stopped, and their threads sleep here for
good: they report nothing and start nothing.
"""

from __future__ import annotations

import atexit
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import FrameType

# How long the exit waits for threads that cannot be stopped, and how often it looks, in seconds.
_MAX_SECONDS, _POLL_SECONDS = 2.0, 0.01
# The modules that call guests and libraries.
_CALLERS = frozenset(
    (
        "wasi_nn._host.guest",
        "wasi_nn._host.model",
        "wasi_nn._models.loading",
        "wasi_nn._session.session",
        "wasi_nn._session.execution",
    )
)
#: Whether Python is exiting.
begun = False
_last: list[Callable[[], None]] = []


def at_end(end: Callable[[], None]) -> None:
    """Call ``end`` when Python exits, after the other threads have stopped."""
    _last.append(end)


def stay() -> None:
    """Keep this thread here for good, unless it is the main thread. Call it when Python is exiting
    (``begun``)."""
    if threading.get_ident() != threading.main_thread().ident:
        while True:
            time.sleep(3600)


def _end() -> None:
    global begun
    begun = True
    _stop_all()
    for end in _last:
        end()


def _stop_all() -> None:
    until = time.monotonic() + _MAX_SECONDS
    stopped: set[int] = set()
    while time.monotonic() < until:
        within = dict(_within())
        if not within:
            return
        for thread, frames in within.items():
            if thread not in stopped:
                stopped.add(thread)
                _stop(frames)
        # Give them the GIL.
        time.sleep(_POLL_SECONDS)


def _within() -> Iterator[tuple[int, list[FrameType]]]:
    """The other threads that run a guest or a library, or that one of them called.

    They are found by their frames. A registry would cost time in every call of a guest and of a
    model, and would not know the threads of a library that call back."""
    for thread, top in sys._current_frames().items():
        frames = [top]
        while (caller := frames[-1].f_back) is not None:
            frames.append(caller)
        names = [frame.f_globals.get("__name__", "") for frame in frames]
        if thread == threading.get_ident() or top.f_code is stay.__code__:
            continue
        # A thread that Python did not start begins with one of our callbacks.
        if names[-1].startswith("wasi_nn") or not _CALLERS.isdisjoint(names):
            yield thread, frames


def _stop(frames: list[FrameType]) -> None:
    for frame in frames:
        # An object that is still being created has nothing to stop yet.
        made = frame.f_code.co_name != "__init__"
        if made and frame.f_globals.get("__name__") in _CALLERS:
            owner = frame.f_locals.get("self")
            stop = getattr(owner, "interrupt", None) or getattr(owner, "cancel", None)
            if stop is not None:
                with suppress(Exception):
                    stop()


atexit.register(_end)
