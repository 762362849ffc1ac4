"""Python's signal handlers while native code runs in the main thread.

Python runs a handler in the main thread, between two steps of Python code. While an engine or a
library computes in the main thread, no handler runs. So if the program has its own handlers, the
work is done in another thread, and the main thread waits in Python. If a handler returns, the work
continues. If a handler raises, the work is interrupted, and the exception is raised after the work
has ended.

A guest does not need this for Ctrl-C with Python's own handler: see ``interrupts``.

Short calls (``set_input``, ``get_output``) stay in the main thread. If a handler raises during one,
that is not a failure of the backend: ``raised_by_handler`` tells them apart.
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
# The system may deliver a signal to another thread, so the main thread must look, this often.
_POLL_SECONDS = 0.5
# The signals that programs handle and that cannot wait. (SIGCHLD too: its handler may end the
# program.) Each costs 30 ns before every computation. SIGINT has a handler of our own while a guest
# runs, so it is looked at alone.
_NAMES = (
    *("SIGTERM", "SIGALRM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT", "SIGBREAK"),
    *("SIGCHLD", "SIGVTALRM", "SIGPROF", "SIGIO", "SIGWINCH", "SIGTSTP", "SIGCONT", "SIGXCPU"),
)
_SIGNALS = tuple(int(getattr(signal, name)) for name in _NAMES if hasattr(signal, name))
_SIGINT = int(signal.SIGINT)
_DEFAULT, _IGNORED = int(signal.SIG_DFL), int(signal.SIG_IGN)
# Without signal.getsignal's conversion of each answer to an enum.
_present: Callable[[int], object] = import_module("_signal").getsignal
# The handlers at the last time when none of them was the program's own.
_plain: list[object] = []
_main = threading.main_thread().ident


def attend(work: Callable[[], T], interrupt: Callable[[], None]) -> T:
    """Do ``work`` and return what it returns. If a signal handler raises meanwhile, call
    ``interrupt``, which must make ``work`` end soon, and then raise the handler's exception. In the
    main thread of a program without its own handlers, and in every other thread, this is
    ``work()``."""
    if get_ident() != _main:
        return _elsewhere(work)
    return _Job(work).attend(interrupt) if _handled() else work()


def in_main_thread() -> bool:
    """Whether this is the main thread, in which alone Python runs handlers."""
    return get_ident() == _main


def shielded(work: Callable[[], T], interrupt: Callable[[], None]) -> T:
    """Do ``work``, which must not be left half done, and return what it returns. Where Python's own
    handler of Ctrl-C could raise within it, it is done in another thread, as in ``attend``."""
    if get_ident() != _main or _present(_SIGINT) is not signal.default_int_handler:
        return work()
    return _Job(work).attend(interrupt)


def attend_or_leave(work: Callable[[], T]) -> T:
    """Do ``work`` and return what it returns. If a signal handler raises meanwhile, Ctrl-C's
    included, raise that at once. The work then continues in its own thread and its result is
    dropped. For long work that cannot be interrupted."""
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
    """``error`` or one of its causes, if a signal handler raised it in the main thread; otherwise
    None."""
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
        # Not __context__: that may be an exception that the caller was already handling.
        reason = reason.__cause__
    return None


def _is_of_handler(frame: FrameType) -> bool:
    # Python passes to a handler the frame that it interrupts. That frame is the handler's caller.
    code, variables = frame.f_code, frame.f_locals
    for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + 1]:
        value = variables.get(name)
        values = value if type(value) is tuple else (value,)
        if any(each is frame.f_back for each in values if each is not None):
            return True
    return False


def _handled() -> bool:
    # This runs before every computation. If no handler has changed, it costs one comparison of
    # lists. The kept list has no handlers of the program's own, so it keeps nothing alive.
    global _plain
    interrupt = _present(_SIGINT)
    if not _is_plain(interrupt) and not _ours(interrupt):
        return True
    handlers = [*map(_present, _SIGNALS)]
    if handlers != _plain:
        if not all(map(_is_plain, handlers)):
            return True
        _plain = handlers
    return False


def _is_plain(handler: object) -> bool:
    return handler in (_DEFAULT, _IGNORED, None) or handler is signal.default_int_handler


def _ours(handler: object) -> bool:
    from wasi_nn._process.interrupts import ForwardSigint

    return isinstance(getattr(handler, "__self__", None), ForwardSigint)


class _Job(Generic[T]):
    """Work in its own thread, while the main thread waits for it."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._context = contextvars.copy_context()
        # The thread takes this when it begins, or the main thread takes it to cancel the work.
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
                        self._ended.acquire(timeout=_POLL_SECONDS)
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
            # Take the result away from the thread, which may not have left yet.
            return self._result.pop()
        finally:
            # Break the cycle between the error and this frame, so that both are freed.
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
    # The thread that forked is the main thread of the child.
    global _main
    _main = get_ident()


os.register_at_fork(after_in_child=_after_fork)
