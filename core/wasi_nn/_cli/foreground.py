"""Guests in another thread, so that the main thread can handle Ctrl-C."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from typing import NoReturn, TypeVar, cast

from wasi_nn._cli.messages import complain

T = TypeVar("T")
# No engine can interrupt a guest in a system call. After this many seconds the process exits.
_GRACE_SECONDS = 2.0
_POLL_SECONDS = 0.25


def in_thread(
    work: Callable[[], T], interrupt: Callable[[], None], timeout: float | None = None
) -> T:
    """Do ``work`` in another thread. Ctrl-C calls ``interrupt``, which must make it end soon. If it
    does not, or ``timeout`` seconds have passed, the process exits."""
    outcome: list[tuple[T | None, BaseException | None]] = []
    # Not Thread.join: up to Python 3.12, a join that Ctrl-C interrupts marks the thread as ended.
    ended = threading.Event()

    def attempt() -> None:
        try:
            outcome.append((work(), None))
        except BaseException as error:
            outcome.append((None, error))
        ended.set()

    try:
        threading.Thread(target=attempt, name="guest", daemon=True).start()
        # A Ctrl-C just before a wait is handled only after the wait, so the waits are short.
        latest = math.inf if timeout is None else time.monotonic() + timeout + _GRACE_SECONDS
        while not ended.wait(_POLL_SECONDS) and time.monotonic() < latest:
            pass
    except KeyboardInterrupt:
        interrupt()
        ended.wait(_GRACE_SECONDS)
        # (The terminal tells child processes too, and what they end for is no other error.)
        if not outcome or outcome[0][1] is not None:
            _leave(130, "interrupted")
    if not outcome:
        _leave(
            124, f"the guest ran past its deadline of {timeout} s, in a call that cannot be stopped"
        )
    result, error = outcome[0]
    if error is not None:
        raise error
    return cast("T", result)


def _leave(code: int, text: str) -> NoReturn:
    complain(text)
    os._exit(code)
