"""Who waits, who computes, and when.

There is no thread of its own. The oldest request that waits is the leader: its thread gathers a
batch and computes it, while the threads of the other members sleep. A batch starts when it is full,
when nobody else can be expected, or when its leader has waited for the delay.

Triton always waits for the delay. Here a thread is expected only if it used a context of the graph
a moment ago and is not waiting itself, so a guest that is alone never waits. The delay begins when
the batch could start: requests that came during another batch wait for its members, who often come
back at once. If they did not wait, two groups would take turns forever.

A batch that takes much longer than usual does not hold the others up: they are computed beside it,
if contexts of the graph may compute at the same time. Its guests' own limits end it.
"""

from __future__ import annotations

import _thread
import os
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from time import monotonic

from wasi_nn._models.batching.instance import Instance
from wasi_nn._models.batching.request import Batch, NotSeparable, Request, Trial
from wasi_nn._models.batching.settings import Settings
from wasi_nn.errors import WasiNnError

# A thread is expected for this many delays after it used a context.
_EXPECTED_DELAYS = 10
# A batch that takes this many times as long as usual, and this many seconds, is a slow one.
_SLOW_TIMES, _SLOW_SECONDS = 4, 0.1
# The most looks whose requests are computed one by one. With more, all requests are.
_MAX_SINGLE = 64


class Queue:
    """The requests of one graph, whose batches are computed by instances that ``make`` makes.

    ``concurrent``: contexts of the graph may compute at the same time. ``report`` is told why
    requests are computed one by one from then on."""

    def __init__(
        self,
        settings: Settings,
        concurrent: bool,
        make: Callable[[], Instance],
        report: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._concurrent = concurrent
        self._most = (os.cpu_count() or 1) if concurrent else 1
        self._instances = min(settings.instances, self._most)
        self._make = make
        self._report = report
        self._mutex = _thread.allocate_lock()
        #: Oldest first. The leader is one of them.
        self._waiting: deque[Request] = deque()
        self._leader: Request | None = None
        self._due = 0.0
        #: The rows that the leader's batch has now, and whether it is complete.
        self._rows = 0
        self._complete = False
        self._running: list[Batch] = []
        #: The seconds that a batch takes, on average.
        self._usual = 0.0
        #: The instances that do not compute.
        self._idle: list[Instance] = []
        self._separable = True
        self._single: set[Hashable] = set()
        #: What was computed until now.
        self.counts = {"batches": 0, "requests": 0, "rows": 0, "queue_seconds": 0.0}
        #: When each thread used a context last, if it is not waiting. Changed without the mutex.
        self._used: dict[int, float] = {}

    def use(self, thread: int) -> None:
        """A context was used, and may soon compute."""
        self._used.pop(thread, None)
        self._used[thread] = monotonic()

    def leave(self, thread: int) -> None:
        """The thread has closed its context."""
        self._used.pop(thread, None)

    def run(self, request: Request) -> None:
        """Have a request computed. Raises what the computation raises for this request alone."""
        with self._mutex:
            self._used.pop(request.thread, None)
            self._waiting.append(request)
            self._joined(request)
            self._arrange()
        while not request.done:
            with self._mutex:
                batch = self._take(request)
                leads, left = self._leader is request, self._due - monotonic()
            if batch is not None:
                self._lead(batch)
            elif not leads:
                if not request.woken.acquire(timeout=self._patience()):
                    with self._mutex:
                        self._arrange()
            elif left > 0:
                request.woken.acquire(timeout=left)
        if request.error is not None:
            raise request.error

    def cancel(self, request: Request, error: Exception) -> None:
        """Take a request out, from any thread. What others compute is not lost."""
        with self._mutex:
            if request.done:
                return
            batch = request.batch
            if batch is not None:
                # Its input may be the reason why the batch takes so long. The others are computed
                # again.
                batch.stop()
                if batch.members[0] is request:
                    # Its thread is in the library.
                    request.error = error
                    return
            else:
                self._remove(request)
            request.finish(error)
            self._arrange()

    def _remove(self, request: Request) -> None:
        self._waiting.remove(request)
        if self._leader is request:
            self._leader = None
        elif self._leader is not None:
            self._gather(self._leader)

    def close(self) -> None:
        """Free the instances, when nobody computes."""
        while self._idle:
            self._idle.pop().close()

    def _alone(self, request: Request) -> bool:
        return not self._separable or request.look is None or request.look in self._single

    def _joined(self, request: Request) -> None:
        """Look whether a new request completes the leader's batch."""
        leader = self._leader
        if leader is not None and not self._complete and leader.look == request.look:
            if self._rows + request.rows <= self._settings.rows:
                self._rows += request.rows
            else:
                self._complete = True

    def _gather(self, leader: Request) -> list[Request]:
        """The batch of a leader, and those who would be in it if there were room."""
        members, rows, complete = [leader], leader.rows, self._alone(leader)
        for request in self._waiting:
            if complete:
                break
            if request is not leader and leader.look == request.look:
                if rows + request.rows > self._settings.rows:
                    complete = True
                else:
                    members.append(request)
                    rows += request.rows
        self._rows, self._complete = rows, complete
        return members

    def _ready(self) -> bool:
        return (
            self._complete
            or self._rows >= self._settings.rows
            or not self._expected()
            or monotonic() >= self._due
        )

    def _expected(self) -> bool:
        """Whether a thread that is not waiting may come soon."""
        since = monotonic() - _EXPECTED_DELAYS * self._settings.delay
        for thread, at in self._used.copy().items():
            if at > since:
                return True
            self._used.pop(thread, None)
        return False

    def _patience(self) -> float:
        """The seconds after which a batch is a slow one."""
        return max(_SLOW_SECONDS, _SLOW_TIMES * self._usual)

    def _busy(self) -> int:
        """The instances that are computing, without those of slow batches."""
        if not self._concurrent:
            return len(self._running)
        since = monotonic() - self._patience()
        return sum(batch.began > since for batch in self._running)

    def _arrange(self) -> None:
        """Wake the thread that must do something. (Called with the mutex, after each change.)"""
        leader = self._leader
        if leader is None:
            if not self._waiting or self._busy() >= self._instances:
                return
            leader = self._leader = self._waiting[0]
            self._due = monotonic() + self._settings.delay
            self._gather(leader)
            leader.wake()
        elif self._ready():
            leader.wake()

    def _take(self, request: Request) -> Batch | None:
        """The batch of this request, if it leads one that can start."""
        if self._leader is not request or not self._ready():
            return None
        instance = self._idle.pop() if self._idle else self._make()
        batch = Batch(self._gather(request), instance)
        for member in batch.members:
            member.batch = batch
        self._waiting = deque(other for other in self._waiting if other.batch is None)
        self._leader = None
        self._running.append(batch)
        self._count(batch)
        self._arrange()
        return batch

    def _count(self, batch: Batch) -> None:
        now, counts = batch.began, self.counts
        counts["batches"] += 1
        counts["requests"] += len(batch.members)
        counts["rows"] += sum(member.rows for member in batch.members)
        counts["queue_seconds"] += sum(now - member.came for member in batch.members)

    def _lead(self, batch: Batch) -> None:
        error: BaseException | None = None
        try:
            batch.instance.compute(batch)
        except BaseException as raised:
            error = raised
        with self._mutex:
            self._running.remove(batch)
            if error is None:
                seconds = monotonic() - batch.began
                self._usual += (seconds - self._usual) / 8 if self._usual else seconds
            usable = not batch.stopped and isinstance(error, (WasiNnError, type(None)))
            # (There were more of them while slow batches ran.)
            keep = usable and len(self._idle) < self._instances
            if keep:
                self._idle.append(batch.instance)
            self._settle(batch, error)
            self._arrange()
        if not keep:
            batch.instance.close()

    def _settle(self, batch: Batch, error: BaseException | None) -> None:
        leader = batch.members[0]
        interrupted = not isinstance(error, (Exception, type(None)))
        if leader.error is not None or interrupted:
            leader.finish(leader.error or error)
        left = [member for member in batch.members if not member.done]
        if error is None:
            for member in left:
                # Not in its own thread: the first one back must know that the others come too.
                self.use(member.thread)
                member.finish(None)
        elif batch.stopped or interrupted:
            self._again(left, None)
        elif isinstance(error, NotSeparable):
            self._turn_off(None, str(error))
            self._again(left, None)
        elif len(batch.members) > 1:
            # Only the request that is the reason must fail.
            self._again(left, Trial(leader.look, len(left), error))
        else:
            leader.finish(error)
        trial = leader.trial
        if leader.done and trial is not None and trial.was_wrong(leader.error):
            self._turn_off(trial.look, trial.reason)

    def _again(self, requests: Sequence[Request], trial: Trial | None) -> None:
        """Let requests wait again, in front of all others: one by one in a trial."""
        for request in reversed(requests):
            request.batch = None
            if trial is not None:
                request.trial, request.look = trial, None
            self._waiting.appendleft(request)

    def _turn_off(self, look: Hashable | None, reason: str) -> None:
        """From now on compute requests one by one: those of a look, or all."""
        if not self._separable or look in self._single:
            return
        self._report(reason)
        if look is not None and len(self._single) < _MAX_SINGLE:
            self._single.add(look)
        else:
            self._separable = False
            self._instances = self._most
