"""Who is at work in a worker: one byte for each context, which the host can read after the worker
has died."""

from __future__ import annotations

import os
import threading
from collections import deque
from contextlib import suppress
from itertools import count

from wasi_nn._worker import memory as shared_memory
from wasi_nn._worker.messages import STEPS, Channel
from wasi_nn.errors import RuntimeFailure

#: The values of a context's byte. A context that is ``alone`` may have ended an earlier worker, and
#: no step of it has succeeded since.
WAITING, AT_WORK, WAITING_ALONE, AT_WORK_ALONE = range(4)
# Contexts of one worker at one time. (The kernel gives memory only for what is written.)
_MAX_CONTEXTS = 1 << 20


class Steps:
    """The bytes of all contexts of a worker, as the host sees them. Thread-safe."""

    def __init__(self, control: Channel) -> None:
        """Share them over a worker's control connection. Raises ``RuntimeFailure`` if there is no
        memory."""
        descriptor = shared_memory.make(_MAX_CONTEXTS)
        try:
            self._bytes = shared_memory.map_shared(descriptor)
            # If the worker has ended, the first request finds out.
            with suppress(EOFError):
                control.send(STEPS, 0, b"", [descriptor])
        finally:
            os.close(descriptor)
        self._lock = threading.Lock()
        #: The context whose turn it is to show that it does not end the worker.
        self._alone: int | None = None
        self._most = 0
        self._free: deque[int] = deque()
        self._next = count()

    def try_alone(self, number: int) -> bool:
        """Let one context at a time show that it does not end the worker. Returns whether it is
        this one's turn, until a step of it has succeeded or ``over`` is called."""
        with self._lock:
            other = self._alone
            if other is not None and self._bytes[other] >= WAITING_ALONE:
                return False
            self._alone = number
            self._bytes[number] = WAITING_ALONE
            return True

    def over(self, number: int) -> bool:
        """The request is over in which the context was to show it. Returns whether it has not."""
        with self._lock:
            if self._alone == number:
                self._alone = None
        return self._bytes[number] >= WAITING_ALONE

    def at_work(self, number: int) -> bool:
        """Whether the context was at work when the worker ended."""
        return self._bytes[number] in (AT_WORK, AT_WORK_ALONE)

    def ended_alone(self, number: int) -> bool:
        """Whether the context, which had to show that it does not end the worker, was the only one
        at work when the worker ended."""
        others = bytes(self._bytes[: self._most])
        working = sum(byte in (AT_WORK, AT_WORK_ALONE) for byte in others)
        return self._bytes[number] == AT_WORK_ALONE and working == 1

    def take(self) -> int:
        """The number of a context's byte. Raises ``RuntimeFailure`` if there is none left."""
        try:
            number = self._free.popleft()
        except IndexError:
            number = next(self._next)
            self._most = max(self._most, number + 1)
        if number >= _MAX_CONTEXTS:
            raise RuntimeFailure(f"the worker has {_MAX_CONTEXTS} contexts, the most that it may")
        return number

    def give_back(self, number: int) -> None:
        """Let another context have the byte."""
        self._bytes[number] = WAITING
        self._free.append(number)


class Mark:
    """The byte of one context in the worker: the ``stepping`` of the context. It also tells of the
    requests that the service works on, for libraries that compute each context by itself."""

    __slots__ = ("_bytes", "_in_step", "_number", "_offset", "_stepped", "shared")

    def __init__(self, steps: memoryview | None, number: int, alone: bool) -> None:
        self._bytes = memoryview(bytearray(1)) if steps is None else steps
        self._number = 0 if steps is None else number
        self._offset = WAITING_ALONE if alone else WAITING
        self._stepped = self._in_step = False
        #: Whether the host looks.
        self.shared = steps is not None

    def __call__(self, at_work: bool) -> None:
        """See ``ExecutionContext.stepping``."""
        self._in_step = at_work
        if at_work:
            self._stepped = True
        elif self._stepped:
            self._offset = WAITING
        self._bytes[self._number] = self._offset + at_work

    def request(self, at_work: bool) -> None:
        """The service works on a request of the context. A step may go on without one: it computes
        ahead."""
        self._bytes[self._number] = self._offset + (at_work or self._in_step)

    def computed(self) -> None:
        """A computation has succeeded."""
        self._offset = WAITING
