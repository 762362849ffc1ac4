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
import signal
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from types import FrameType, TracebackType
from typing import Any

_SECONDS = 1.0


@contextlib.contextmanager
def spared() -> Iterator[None]:
    """A process that starts in the block does not hear Ctrl-C. A terminal sends it there too, and
    what it means is ours to say."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Keyboard:
    """Runs ``interrupt``, in another thread, when Ctrl-C is pressed within the ``with`` block,
    which then raises ``KeyboardInterrupt`` at its end. Does nothing in other threads, and where
    Ctrl-C is somebody else's."""

    def __init__(self, interrupt: Callable[[], None]) -> None:
        self._interrupt = interrupt
        self._heard = False
        self._interrupted = threading.Event()
        self._handler: Any = None
        self._wakeup = -1

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        present = signal.getsignal(signal.SIGINT)
        within = isinstance(getattr(present, "__self__", None), Keyboard)
        if within or present is signal.default_int_handler:
            watcher = _watcher()
            watcher.listening.append(self)
            self._wakeup = signal.set_wakeup_fd(watcher.wakeup, warn_on_full_buffer=False)
            self._handler = signal.signal(signal.SIGINT, self._hear)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._handler is not None:
            # (This also runs the handler of a signal that has just come.)
            signal.signal(signal.SIGINT, self._handler)
            signal.set_wakeup_fd(self._wakeup)
            if self._heard:
                # The watcher is not to find the next guest here.
                self._interrupted.wait(_SECONDS)
            _watcher().listening.remove(self)
            if self._heard:
                raise KeyboardInterrupt from None

    def told(self, numbers: bytes) -> None:
        """Signals have come; their Python handlers may have to wait."""
        if signal.SIGINT in numbers:
            self._interrupt()
            self._interrupted.set()
        if self._wakeup >= 0:
            with contextlib.suppress(OSError):
                os.write(self._wakeup, numbers)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._heard = True


class _Watcher:
    """A thread that hears of signals; the innermost guest is told."""

    def __init__(self) -> None:
        self.listening: list[Keyboard] = []
        self._reader, self.wakeup = os.pipe()
        os.set_blocking(self.wakeup, False)
        threading.Thread(target=self._watch, name="wasi-nn keyboard", daemon=True).start()

    def _watch(self) -> None:
        while numbers := os.read(self._reader, 64):
            for keyboard in self.listening[-1:]:
                keyboard.told(numbers)


@lru_cache(maxsize=1)
def _watcher() -> _Watcher:
    return _Watcher()


# Threads do not survive a fork, and the parent's pipe is the parent's.
os.register_at_fork(after_in_child=_watcher.cache_clear)
