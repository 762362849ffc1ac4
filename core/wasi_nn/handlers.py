"""Python's signal handlers while native code runs in the main thread.

Python runs a handler in the main thread, between two steps of Python code. While an engine or a
library computes there, no handler runs. So where the program has handlers of its own, the work is
done in another thread, and the main thread waits in Python. A handler that returns lets the work go
on. When a handler raises, the work is interrupted, and the error comes out when it has ended.

Ctrl-C alone (Python's own handler) does not need this for a guest: see ``keyboard``.
"""

from __future__ import annotations

import _thread
import contextvars
import signal
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Generic, TypeVar

T = TypeVar("T")
# A signal can reach another thread than the main one, which then has to look, in seconds.
_SLICE = 0.5
# The signals that programs handle. (SIGCHLD too: its handler may end the program.)
_NAMES = (
    *("SIGTERM", "SIGINT", "SIGALRM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT", "SIGBREAK"),
    *("SIGCHLD", "SIGVTALRM", "SIGPROF", "SIGIO", "SIGWINCH", "SIGTSTP", "SIGCONT", "SIGURG"),
    *("SIGXCPU", "SIGPWR", "SIGINFO", "SIGTTIN", "SIGTTOU", "SIGRTMIN", "SIGRTMAX"),
)
_SIGNALS = tuple(int(getattr(signal, name)) for name in _NAMES if hasattr(signal, name))
_DEFAULT, _IGNORED = int(signal.SIG_DFL), int(signal.SIG_IGN)
# (Without the conversion to an enum: this is asked before every computation.)
_present: Callable[[int], object] = import_module("_signal").getsignal


def attend(work: Callable[[], T], interrupt: Callable[[], None]) -> T:
    """What ``work`` gives or raises; or what a signal handler raises meanwhile, after
    ``interrupt``, which must make ``work`` end soon. In the main thread of a program without
    handlers of its own, and in every other thread, this is ``work()``."""
    if threading.get_ident() != _main() or not _handled():
        return work()
    return _Job(work).attend(interrupt)


def _main() -> int | None:
    return threading.main_thread().ident


def _handled() -> bool:
    for number in _SIGNALS:
        handler = _present(number)
        if handler in (_DEFAULT, _IGNORED, None):
            continue
        if handler is not signal.default_int_handler and not _ours(handler):
            return True
    return False


def _ours(handler: object) -> bool:
    from wasi_nn.keyboard import Keyboard

    return isinstance(getattr(handler, "__self__", None), Keyboard)


class _Job(Generic[T]):
    """Work in a thread of its own, which the main thread waits for."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._context = contextvars.copy_context()
        # Taken by the thread when it begins, or by the main thread when it gives up before.
        self._begun = _thread.allocate_lock()
        self._ended = _thread.allocate_lock()
        self._ended.acquire()
        self._over = False
        self._result: list[T] = []
        self._error: BaseException | None = None

    def attend(self, interrupt: Callable[[], None]) -> T:
        raised: BaseException | None = None
        started = told = False
        while not self._over:
            # A handler can raise between any two lines of this block.
            try:
                if not started:
                    started = True
                    _thread.start_new_thread(self._run, ())
                if raised is not None and not told:
                    if self._begun.acquire(blocking=False):
                        break
                    told = True
                    interrupt()
                self._ended.acquire(timeout=_SLICE)
            except BaseException as error:
                raised = error
        try:
            if raised is not None:
                raise raised
            if self._error is not None:
                raise self._error
            return self._result[0]
        finally:
            # (An error whose traceback holds the frame that holds the error is not freed.)
            raised = self._error = None

    def _run(self) -> None:
        if not self._begun.acquire(blocking=False):
            return
        try:
            self._result.append(self._context.run(self._work))
        except BaseException as error:
            self._error = error
        finally:
            self._over = True
            self._ended.release()
