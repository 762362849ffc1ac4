"""What is made once in a process, for all who want it at the same time."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

from wasi_nn.errors import RuntimeFailure

__all__ = ["Lock", "MadeOnce", "Stopped", "acquire_unless_stopped", "never"]

T = TypeVar("T")
#: Asked while a thread waits: True makes it give up.
Stopped = Callable[[], bool]
# How long a thread waits before it asks again.
_WAIT_SECONDS = 0.05


def never() -> bool:
    """A ``Stopped`` that waits as long as it takes."""
    return False


def _always(found: object) -> bool:
    return True


class Lock(Protocol):
    """What ``threading.Lock`` makes."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...

    def release(self) -> None: ...


def acquire_unless_stopped(lock: Lock, stopped: Stopped) -> None:
    """Acquire a lock, or raise ``RuntimeFailure`` once ``stopped`` says so."""
    while not lock.acquire(timeout=_WAIT_SECONDS):
        if stopped():
            raise RuntimeFailure("the guest was stopped while it waited for another one")


class MadeOnce(Generic[T]):
    """A table of what is made once in a process, by what it was made from.

    The table's references are weak: an object stays as long as it is used. A child process
    starts with an empty table. Make a table once, at the top of a module. Thread-safe."""

    def __init__(self) -> None:
        self._clear()
        os.register_at_fork(after_in_child=self._clear)

    def _clear(self) -> None:
        """Forget everything; nobody holds a lock afterwards."""
        self._lock = threading.Lock()
        self._objects: weakref.WeakValueDictionary[Hashable, T] = weakref.WeakValueDictionary()
        # A lock exists as long as a thread waits for it or has it.
        self._making: weakref.WeakValueDictionary[Hashable, Lock] = weakref.WeakValueDictionary()

    def get(
        self,
        key: Hashable,
        make: Callable[[], T],
        stopped: Stopped = never,
        valid: Callable[[T], bool] = _always,
    ) -> T:
        """The object under ``key``. The first caller makes it while the others wait. If that fails,
        or if the object is not ``valid`` any more, the next one makes it. Raises what ``make``
        raises, and ``RuntimeFailure`` if ``stopped`` returns True during the wait."""
        with self._lock:
            found = self._objects.get(key)
            if found is not None and valid(found):
                return found
            making = self._making.setdefault(key, threading.Lock())
        acquire_unless_stopped(making, stopped)
        try:
            with self._lock:
                found = self._objects.get(key)
            if found is None or not valid(found):
                found = make()
                with self._lock:
                    self._objects[key] = found
            return found
        finally:
            making.release()
