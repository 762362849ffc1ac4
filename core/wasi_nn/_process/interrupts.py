"""Ctrl-C while a guest runs in the main thread.

Python's own handler raises where Python code goes on next. With a guest that computes this is
never; and otherwise it can be in a function that the engine calls, before any ``try``: nothing
reaches anybody from there, and the engine is given garbage for a result. So the guest is
interrupted by another thread, which hears of the signal at once, and ``KeyboardInterrupt`` is
raised when the guest has come back.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib import import_module
from types import FrameType, TracebackType
from typing import Any

_SIGINT = int(signal.SIGINT)
# (Without the conversion to an enum, which takes longer than all the rest.)
_present: Callable[[int], Any] = import_module("_signal").getsignal
_set: Callable[[int, Any], Any] = import_module("_signal").signal


@contextlib.contextmanager
def shielded_from_sigint() -> Iterator[None]:
    """A process that starts in the block does not hear Ctrl-C. A terminal sends it there too, and
    what it means is ours to say."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class ForwardSigint:
    """Runs ``interrupt``, in another thread, when Ctrl-C is pressed within the ``with`` block,
    which then raises ``KeyboardInterrupt`` at its end. Does nothing in other threads, and where
    Ctrl-C is somebody else's."""

    def __init__(self, interrupt: Callable[[], None]) -> None:
        self._interrupt = interrupt
        self._heard = False
        self._handler: Any = None
        self._wakeup = -1

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        present = _present(_SIGINT)
        within = isinstance(getattr(present, "__self__", None), ForwardSigint)
        if within or present is signal.default_int_handler:
            watcher = _watcher()
            self._handler = _set(_SIGINT, self._hear)
            watcher.begin(self)
            self._wakeup = signal.set_wakeup_fd(watcher.wakeup, warn_on_full_buffer=False)
            if self._heard:
                # (Before the watcher could.)
                self._interrupt()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._handler is not None:
            signal.set_wakeup_fd(self._wakeup)
            _watcher().end(self)
            # (This also runs the handler of a signal that has just come.)
            _set(_SIGINT, self._handler)
            if self._heard:
                if self._within():
                    os.write(self._wakeup, bytes([signal.SIGINT]))
                raise KeyboardInterrupt from None

    def told(self, numbers: bytes) -> None:
        """Signals have come; their Python handlers may have to wait."""
        if signal.SIGINT in numbers:
            self._interrupt()
        if self._wakeup >= 0 and not self._within():
            with contextlib.suppress(OSError):
                os.write(self._wakeup, numbers)

    def _within(self) -> bool:
        """Whether the block is within another one, which is told when this one has ended."""
        return self._wakeup == _watcher().wakeup

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._heard = True


class Interruption:
    """An interrupt that may come before what it is for is there."""

    def __init__(self) -> None:
        self._came = False
        self._targets: list[Callable[[], None]] = []

    def __call__(self) -> None:
        self._came = True
        for target in self._targets:
            target()

    def aim(self, target: Callable[[], None]) -> None:
        """Call ``target``: now, where the interrupt has come, or when it comes."""
        self._targets.append(target)
        if self._came:
            target()


class _Watcher:
    """A thread that hears of signals; the innermost guest is told."""

    def __init__(self) -> None:
        self._listening: list[ForwardSigint] = []
        # (A signal's handler can run a guest while the main thread has it.)
        self._lock = threading.RLock()
        self._reader, self.wakeup = os.pipe()
        for end in (self._reader, self.wakeup):
            os.set_blocking(end, False)
        self._poll = self._new_poll()
        threading.Thread(target=self._watch, name="wasi-nn keyboard", daemon=True).start()

    def begin(self, keyboard: ForwardSigint) -> None:
        """Tell this one of what comes from now on; what came before is not for it."""
        with self._lock:
            self._tell()
            self._listening.append(keyboard)

    def end(self, keyboard: ForwardSigint) -> None:
        """What has come until now was for this one."""
        with self._lock:
            self._tell()
            self._listening.remove(keyboard)

    def _new_poll(self) -> select.poll:
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        return poll

    def _tell(self) -> None:
        if self._poll.poll(0):
            numbers = os.read(self._reader, 64)
            for keyboard in self._listening[-1:]:
                keyboard.told(numbers)

    def _watch(self) -> None:
        poll = self._new_poll()
        while poll.poll():
            with self._lock:
                self._tell()


@lru_cache(maxsize=1)
def _watcher() -> _Watcher:
    return _Watcher()


# Threads do not survive a fork, and the parent's pipe is the parent's.
os.register_at_fork(after_in_child=_watcher.cache_clear)
