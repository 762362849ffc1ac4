"""Ctrl-C while a guest runs in the main thread.

Python's own handler raises ``KeyboardInterrupt`` where Python code runs next. While a guest
computes, no Python code runs. If the guest is in a host function, the handler can raise before any
``try``: then the exception is lost, and the engine gets garbage for a result. So another thread,
which learns of the signal at once, interrupts the guest, and ``KeyboardInterrupt`` is raised after
the guest has returned.
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
from types import FrameType
from typing import Any

from wasi_nn._process.signals import in_main_thread

_SIGINT = int(signal.SIGINT)
# Without signal's conversion to an enum, which takes longer than everything else here.
_present: Callable[[int], Any] = import_module("_signal").getsignal
_set: Callable[[int, Any], Any] = import_module("_signal").signal


@contextlib.contextmanager
def shielded_from_sigint() -> Iterator[None]:
    """A process started within the block does not receive Ctrl-C. A terminal sends SIGINT to the
    whole process group, but only the host decides what it means."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class ForwardSigint:
    """Calls ``interrupt`` in another thread if Ctrl-C is pressed within the ``with`` block. The
    block then raises ``KeyboardInterrupt`` when it ends. Does nothing outside of the main thread,
    or if the program has its own SIGINT handler."""

    def __init__(self, interrupt: Callable[[], None]) -> None:
        self._interrupt = interrupt
        self._heard = False
        self._handler: Any = None
        self._wakeup = -1

    def __enter__(self) -> None:
        if not in_main_thread():
            return
        present = _present(_SIGINT)
        within = isinstance(getattr(present, "__self__", None), ForwardSigint)
        if within or present is signal.default_int_handler:
            watcher = _watcher()
            self._handler = _set(_SIGINT, self._hear)
            watcher.begin(self)
            self._wakeup = signal.set_wakeup_fd(watcher.wakeup, warn_on_full_buffer=False)
            if self._heard:
                # The signal came before the watcher was ready.
                self._interrupt()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._handler is not None:
            signal.set_wakeup_fd(self._wakeup)
            _watcher().end(self)
            # This also runs the handler of a signal that has just arrived.
            _set(_SIGINT, self._handler)
            if self._heard:
                if self._within():
                    os.write(self._wakeup, bytes([signal.SIGINT]))
                raise KeyboardInterrupt from None

    def told(self, numbers: bytes) -> None:
        """Handle the numbers of signals that arrived. Their Python handlers may run later."""
        if signal.SIGINT in numbers:
            self._interrupt()
        if self._wakeup >= 0 and not self._within():
            with contextlib.suppress(OSError):
                os.write(self._wakeup, numbers)

    def _within(self) -> bool:
        """Whether this block is nested in another one. The outer block is told when this ends."""
        return self._wakeup == _watcher().wakeup

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._heard = True


class Interruption:
    """An interrupt that may come before its target exists."""

    def __init__(self) -> None:
        self._came = False
        self._targets: list[Callable[[], None]] = []

    def __call__(self) -> None:
        self._came = True
        for target in self._targets:
            target()

    def aim(self, target: Callable[[], None]) -> None:
        """Call ``target`` when the interrupt comes, or now if it has come already."""
        self._targets.append(target)
        if self._came:
            target()


class _Watcher:
    """A thread that waits for signals and tells the innermost guest."""

    def __init__(self) -> None:
        self._listening: list[ForwardSigint] = []
        # Reentrant: a signal handler can run a guest while the main thread holds the lock.
        self._lock = threading.RLock()
        self._reader, self.wakeup = os.pipe()
        for end in (self._reader, self.wakeup):
            os.set_blocking(end, False)
        self._poll = self._new_poll()
        threading.Thread(target=self._watch, name="wasi-nn interrupts", daemon=True).start()

    def begin(self, block: ForwardSigint) -> None:
        """Tell ``block`` about signals from now on. Earlier ones are not for it."""
        with self._lock:
            self._tell()
            self._listening.append(block)

    def end(self, block: ForwardSigint) -> None:
        """Tell ``block`` about the signals until now, and about no later ones."""
        with self._lock:
            self._tell()
            self._listening.remove(block)

    def _new_poll(self) -> select.poll:
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        return poll

    def _tell(self) -> None:
        if self._poll.poll(0):
            numbers = os.read(self._reader, 64)
            for block in self._listening[-1:]:
                block.told(numbers)

    def _watch(self) -> None:
        poll = self._new_poll()
        while poll.poll():
            with self._lock:
                self._tell()


@lru_cache(maxsize=1)
def _watcher() -> _Watcher:
    return _Watcher()


# A fork does not copy the thread, and the pipe belongs to the parent.
os.register_at_fork(after_in_child=_watcher.cache_clear)
