"""Python's signal handlers while native code runs in the main thread.

Python runs a handler in the main thread, between two steps of Python code. While an engine or a
library computes there, no handler runs. So where the program has handlers of its own, the work is
done in another thread, and the main thread waits in Python. A handler that returns lets the work go
on. When a handler raises, the work is interrupted, and the error comes out when it has ended.

Ctrl-C alone (Python's own handler) does not need this for a guest: see ``keyboard``.

Short calls (``set_input``, ``get_output``) stay in the main thread. What a handler raises in the
middle of one is not the backend's failure: ``raised_by_handler`` finds it.
"""

from __future__ import annotations

import _thread
import contextvars
import os
import signal
import threading
from collections.abc import Callable
from importlib import import_module
from threading import get_ident
from types import FrameType
from typing import Generic, TypeVar

from wasi_nn._process import exit as python_exit

T = TypeVar("T")
# A signal can reach another thread than the main one, which then has to look, in seconds.
_SLICE = 0.5
# The signals that programs handle, and that cannot wait. (SIGCHLD too: its handler may end the
# program.) Each costs 30 ns before every computation.
_NAMES = (
    *("SIGTERM", "SIGINT", "SIGALRM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT", "SIGBREAK"),
    *("SIGCHLD", "SIGVTALRM", "SIGPROF", "SIGIO", "SIGWINCH", "SIGTSTP", "SIGCONT", "SIGXCPU"),
)
_SIGNALS = tuple(int(getattr(signal, name)) for name in _NAMES if hasattr(signal, name))
_DEFAULT, _IGNORED = int(signal.SIG_DFL), int(signal.SIG_IGN)
# (signal.getsignal would make an enum of each answer.)
_present: Callable[[int], object] = import_module("_signal").getsignal
# What was present when nothing needed attention last.
_plain: list[object] = []
_main = threading.main_thread().ident


def attend(work: Callable[[], T], interrupt: Callable[[], None]) -> T:
    """What ``work`` gives or raises; or what a signal handler raises meanwhile, after
    ``interrupt``, which must make ``work`` end soon. In the main thread of a program without
    handlers of its own, and in every other thread, this is ``work()``."""
    if get_ident() != _main:
        return _elsewhere(work)
    return _Job(work).attend(interrupt) if _handled() else work()


def attend_or_leave(work: Callable[[], T]) -> T:
    """What ``work`` gives or raises; or at once what a signal handler raises meanwhile, Ctrl-C's
    too. The work then goes on in a thread of its own, and nobody waits for it. For long work that
    cannot be interrupted and that nobody misses."""
    if get_ident() != _main:
        return _elsewhere(work)
    return _Job(work).attend(None)


def _elsewhere(work: Callable[[], T]) -> T:
    if python_exit.begun:
        python_exit.stay()
    try:
        return work()
    finally:
        if python_exit.begun:
            python_exit.stay()


def raised_by_handler(error: BaseException) -> BaseException | None:
    """What a signal's handler raised in the main thread, where that is ``error`` or its cause;
    otherwise None."""
    if get_ident() != _main:
        return None
    seen: set[int] = set()
    reason: BaseException | None = error
    while reason is not None and id(reason) not in seen:
        seen.add(id(reason))
        trace = reason.__traceback__
        while trace is not None:
            if _is_of_handler(trace.tb_frame):
                return reason
            trace = trace.tb_next
        # (The context may be what the caller was handling already.)
        reason = reason.__cause__
    return None


def _is_of_handler(frame: FrameType) -> bool:
    # Python gives a handler the frame that it interrupts, which is then the handler's caller.
    code, variables = frame.f_code, frame.f_locals
    for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + 1]:
        value = variables.get(name)
        values = value if type(value) is tuple else (value,)
        if any(each is frame.f_back for each in values if each is not None):
            return True
    return False


def _handled() -> bool:
    # This is asked before every computation: where nothing has changed since, it costs one look at
    # the list. (The list holds no handlers of a program's own, so it keeps nothing alive.)
    global _plain
    handlers = [*map(_present, _SIGNALS)]
    if handlers == _plain:
        return False
    own = [handler for handler in handlers if not _is_plain(handler)]
    if not own:
        _plain = handlers
    return not all(map(_ours, own))


def _is_plain(handler: object) -> bool:
    return handler in (_DEFAULT, _IGNORED, None) or handler is signal.default_int_handler


def _ours(handler: object) -> bool:
    from wasi_nn._process.interrupts import ForwardSigint

    return isinstance(getattr(handler, "__self__", None), ForwardSigint)


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

    def attend(self, interrupt: Callable[[], None] | None) -> T:
        raised: BaseException | None = None
        started = told = False
        waiting = True
        while waiting:
            # A handler can raise between any two lines of this block.
            try:
                if not started:
                    started = True
                    _thread.start_new_thread(self._run, ())
                while waiting and not self._over:
                    if raised is None or told:
                        self._ended.acquire(timeout=_SLICE)
                    elif interrupt is None or self._begun.acquire(blocking=False):
                        waiting = False
                    else:
                        told = True
                        interrupt()
                waiting = False
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


def _after_fork() -> None:
    # Whoever forked is the main thread of the child.
    global _main
    _main = get_ident()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
