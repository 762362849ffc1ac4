"""The deadlines of guests.

One thread waits for all of them, because a thread for each takes longer than a small guest runs.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from time import monotonic

from wasi_nn._host.compiling import StillCompiling
from wasi_nn.errors import DeadlineExceeded, Interrupted

# So many deadlines that nobody waits for any more are kept.
_MAX_OVER = 1000


class Deadline:
    """Calls ``interrupt`` in another thread if the ``with`` block takes longer than ``seconds``,
    and then raises ``DeadlineExceeded`` at the end of the block."""

    def __init__(self, interrupt: Callable[[], None], seconds: float | None) -> None:
        self._interrupt: Callable[[], None] | None = interrupt
        self._seconds = seconds
        self._passed = False

    @property
    def over(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._interrupt is None

    def __enter__(self) -> None:
        if self._seconds is not None:
            _alarms.add(self, monotonic() + self._seconds)

    def pass_by(self) -> None:
        """The time has come."""
        # (The block may end at this moment.)
        interrupt = self._interrupt
        if interrupt is not None:
            self._passed = True
            interrupt()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._interrupt = None
        # A guest that ends by itself after its deadline does so after a cancelled computation.
        if self._passed and (error is None or isinstance(error, Interrupted)):
            compiling = isinstance(error, StillCompiling)
            does = "was still being compiled at" if compiling else "ran past"
            text = f"quota timeout: the guest {does} its deadline of {self._seconds} s"
            raise DeadlineExceeded(text) from None


class _Alarms:
    """The thread that waits. A deadline that is over stays until its time, so that the thread need
    not be started for each guest. It ends when there are none."""

    def __init__(self) -> None:
        self._clear()
        os.register_at_fork(after_in_child=self._clear)

    def _clear(self) -> None:
        # By time, and then by number, because deadlines have no order.
        self._all: list[tuple[float, int, Deadline]] = []
        self._number = 0
        # (Its lock is reentrant: a signal's handler may run a guest.)
        self._earlier = threading.Condition()
        self._runs = False

    def add(self, deadline: Deadline, time: float) -> None:
        with self._earlier:
            self._number += 1
            if len(self._all) > _MAX_OVER:
                self._all = [each for each in self._all if not each[2].over]
                heapify(self._all)
            entry = time, self._number, deadline
            heappush(self._all, entry)
            if not self._runs:
                threading.Thread(target=self._run, name="wasi-nn deadlines", daemon=True).start()
                self._runs = True
            elif self._all[0] is entry:
                self._earlier.notify()

    def _run(self) -> None:
        while True:
            with self._earlier:
                if not self._all:
                    self._runs = False
                    return
                time, _, deadline = self._all[0]
                left = time - monotonic()
                if left > 0:
                    del deadline
                    self._earlier.wait(left)
                    continue
                heappop(self._all)
            if not deadline.over:
                # An interrupt may have to wait, and other deadlines must not.
                threading.Thread(target=deadline.pass_by, daemon=True).start()
            del deadline


_alarms = _Alarms()
