"""The end of Python while other threads are in native code.

At its end Python lets daemon threads go on in native code. One that comes back then is ended where
it stands, by unwinding its stack; C++ and Rust end the process for that, with an abort. So before,
guests and computations of other threads are stopped. Their threads stay here: they tell nobody of
it, and begin nothing else.
"""

from __future__ import annotations

import atexit
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from types import FrameType

# How long the end of Python waits for what cannot be stopped, and how long between two looks, in
# seconds.
_MOST, _SLICE = 2.0, 0.01
# Who calls guests and libraries.
_CALLERS = frozenset(
    (
        "wasi_nn._host.guest",
        "wasi_nn._host.model",
        "wasi_nn._models.loading",
        "wasi_nn._session.session",
        "wasi_nn._session.context",
    )
)
#: Whether Python is ending.
begun = False


def stay() -> None:
    """Python is ending (``begun``): keep this thread here for good, unless it is the main one."""
    if threading.get_ident() != threading.main_thread().ident:
        while True:
            time.sleep(3600)


def _end() -> None:
    global begun
    begun = True
    until = time.monotonic() + _MOST
    stopped: set[int] = set()
    while time.monotonic() < until:
        within = dict(_within())
        if not within:
            return
        for thread, frames in within.items():
            if thread not in stopped:
                stopped.add(thread)
                _stop(frames)
        # They need the interpreter's lock.
        time.sleep(_SLICE)


def _within() -> Iterator[tuple[int, list[FrameType]]]:
    """The other threads that are in a guest or a library, or were called by one."""
    for thread, top in sys._current_frames().items():
        frames = [top]
        while (caller := frames[-1].f_back) is not None:
            frames.append(caller)
        names = [frame.f_globals.get("__name__", "") for frame in frames]
        if thread == threading.get_ident() or top.f_code is stay.__code__:
            continue
        # (A thread that Python did not start begins with a callback of ours.)
        if names[-1].startswith("wasi_nn") or not _CALLERS.isdisjoint(names):
            yield thread, frames


def _stop(frames: list[FrameType]) -> None:
    for frame in frames:
        # (What is being made has nothing to stop yet.)
        made = frame.f_code.co_name != "__init__"
        if made and frame.f_globals.get("__name__") in _CALLERS:
            owner = frame.f_locals.get("self")
            stop = getattr(owner, "interrupt", None) or getattr(owner, "cancel", None)
            if stop is not None:
                with suppress(Exception):
                    stop()


atexit.register(_end)
