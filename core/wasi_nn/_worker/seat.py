"""A context's place in a worker, and the next one if that worker dies."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

from wasi_nn._worker import memory as shared_memory
from wasi_nn._worker.description import checked, generation
from wasi_nn._worker.endings import GivenUp, WorkerEnded, after, later
from wasi_nn._worker.journal import Counted, Input, Journal, Once
from wasi_nn._worker.messages import (
    CLOSE,
    COMPUTE,
    GET,
    INLINE,
    OPEN,
    RESUME,
    SET,
    TURN,
    U32,
    as_json,
    from_json,
)
from wasi_nn._worker.offences import Offences
from wasi_nn.backend import Reserve, Schedule, discard
from wasi_nn.backend.shared import Stopped
from wasi_nn.errors import NnError, RuntimeFailure

if TYPE_CHECKING:
    from wasi_nn._worker.remote import RemoteGraph

T = TypeVar("T")
# Workers that may die during one request, and those that may die while a context is at work: its
# neighbours may be the cause.
_MAX_DEATHS, _MAX_SUSPICIONS = 16, 5
# How often a context that waits for its turn looks again.
_WAIT_SECONDS = 0.005
# How long a worker may take to close a context, in seconds.
_CLOSE_SECONDS = 10.0


class Seat:
    """Where a context of a graph is: a worker, and a number there. One thread uses it at a time,
    but for ``cancel``.

    If a shared worker dies, the next request makes the context again in the graph's next worker,
    and goes on there. A context that was at work when a worker died computes alone at first. If the
    worker dies then too, this context has ended it, and is not made again."""

    def __init__(
        self,
        graph: RemoteGraph,
        reserve: Reserve,
        stopped: Stopped,
        schedule: Schedule,
        offences: Offences,
    ) -> None:
        """Open the context. Raises what the backend raises, and ``RuntimeFailure``."""
        self._graph = graph
        self._schedule = schedule
        self._offences = offences
        self._stopped = stopped
        #: What the worker reserves for the context.
        self._reserve = Counted(reserve)
        self.journal = Journal(reserve, graph.revivable)
        #: Whether the worker may still be busy with a call that the host has given up on.
        self.given_up = False
        #: Whether the context gives its output in pieces too.
        self.streams = False
        #: Whether the outputs are those of the inputs that are set.
        self.computed = False
        self._cancelled = False
        #: Why it is not made again.
        self._guilty = ""
        self._suspicions = 0
        #: Whether it must show that it does not end the worker.
        self._alone = False
        self._turns = count(1)
        #: Whether the worker knows the context, and has it as the journal says.
        self._known = self._ready = False
        self.worker, self._number, self._step = graph.worker, 0, 0
        # What ``cancel`` cancels: the number is another context's in another worker.
        self._cancels = self.worker, self._number
        if graph.revivable:
            offences.check()
        self._survive(OPEN, lambda: None)

    def call(
        self,
        kind: int,
        body: bytes = b"",
        fds: Sequence[int] = (),
        stopped: Stopped | None = None,
        stdout: Callable[[bytes], object] = discard,
    ) -> memoryview:
        """Send a request about the context and return its answer. Raises what the worker answers,
        ``RuntimeFailure``, and ``GivenUp`` once ``stopped`` says so."""
        if not self._graph.revivable:
            return self._ask(kind, body, fds, stopped, stdout)
        once = Once(stdout)

        def ask() -> memoryview:
            once.again()
            return self._ask(kind, body, fds, stopped, once)

        return self._survive(kind, ask)

    def set(self, given: Input, stopped: Stopped | None) -> None:
        """Set an input. Raises as ``call`` does."""
        accumulates = _send(given, lambda body, fds: self.call(SET, body, fds, stopped))
        self.computed = False
        self.journal.set(given, accumulates)

    def cancel(self) -> None:
        """Make a call that is under way fail soon. Callable from any thread."""
        self._cancelled = True
        worker, number = self._cancels
        worker.cancel(number)

    def ask_last(self, kind: int, seconds: float) -> memoryview | None:
        """Send a request that is not worth another worker. None if the worker has ended, or is
        still busy with a call that the host has given up on."""
        if self.worker.lost or not self._ready:
            return None
        try:
            return self._ask(kind, b"", (), after(seconds), discard)
        except RuntimeFailure:
            # What is left in a worker that has ended needs no end.
            if not self.given_up and not self.worker.lost:
                raise
            return None

    def close(self) -> None:
        """Close the context in the worker."""
        try:
            # The worker closes it after a call that is still under way.
            self.ask_last(CLOSE, 0.0 if self.given_up else _CLOSE_SECONDS)
        finally:
            self._known = self._ready = False
            self._give_back()

    def _ask(
        self,
        kind: int,
        body: bytes,
        fds: Sequence[int],
        stopped: Stopped | None,
        stdout: Callable[[bytes], object],
        keep: bool = True,
    ) -> memoryview:
        body = TURN.pack(next(self._turns)) + body
        told: list[bytes] = []

        def tell(text: bytes) -> None:
            if told:
                # It could tell without end.
                raise ValueError("a request has more than one journal")
            told.append(text)

        journal = tell if keep and self.journal.whole else discard
        try:
            answer = self.worker.call(
                kind, self._number, body, fds, self._reserve, stopped, stdout, journal
            )
        except (WorkerEnded, GivenUp) as error:
            self.given_up = self.given_up or isinstance(error, GivenUp)
            raise
        except NnError:
            self.journal.write(told)
            raise
        if told:
            # Only now: if the worker dies before the answer, the request is made again.
            self.journal.write(told)
        return answer

    def _survive(self, kind: int, request: Callable[[], T]) -> T:
        """Make a request; in another worker, if this one dies."""
        if self._guilty:
            raise RuntimeFailure(self._guilty)
        try:
            for _ in range(_MAX_DEATHS):
                try:
                    if not self._ready:
                        self._enter(kind)
                    return request()
                except WorkerEnded as error:
                    ended = error
                    self._mourn(error)
        finally:
            if self._alone and self.worker.steps is not None:
                self._alone = self.worker.steps.over(self._step)
        raise RuntimeFailure(f"{ended}, and {_MAX_DEATHS} workers did during this request")

    def _mourn(self, error: WorkerEnded) -> None:
        """The worker has ended. Raises the error if the context must not be made again."""
        worker, steps = self.worker, self.worker.steps
        if steps is not None and self._known:
            self._known = self._ready = False
            self._reserve.release()
            self.journal.begin_again()
            if steps.at_work(self._step) and not self._cancelled:
                self._suspicions += 1
                if steps.ended_alone(self._step) or self._suspicions >= _MAX_SUSPICIONS:
                    self._offences.add()
                    self._guilty = f"{error}. This guest has ended it, alone or more than once"
                    raise RuntimeFailure(self._guilty) from error
                self._alone = True
        if not self._graph.revivable or self._cancelled or self.given_up or not self.journal.whole:
            raise error
        self._graph.renew(worker, self._is_stopped)

    def _is_stopped(self) -> bool:
        return self._cancelled or self._stopped()

    def _check_stopped(self) -> None:
        if self._is_stopped():
            raise RuntimeFailure("the guest was stopped while it waited for its model")

    def _enter(self, kind: int) -> None:
        """Open the context in the graph's worker, as the journal says."""
        if self._known:
            # Something failed when it was opened.
            with suppress(NnError):
                self._ask(CLOSE, b"", (), after(_CLOSE_SECONDS), discard)
            self._give_back()
        graph = self._graph
        worker, of = graph.place
        self.worker, self._number = worker, worker.number()
        if worker.steps is not None:
            self._step = worker.steps.take()
            while self._alone and not worker.steps.try_alone(self._step):
                self._check_stopped()
                if worker.lost:
                    raise worker.ended()
                time.sleep(_WAIT_SECONDS)
        self._known = True
        self._cancels = worker, self._number
        until = self._stopped if graph.concurrent_contexts else later(self._stopped)
        try:
            self._open(of, until)
            self._replay(kind, until)
        except GivenUp:
            if not graph.concurrent_contexts:
                # No other guest can use the graph meanwhile.
                worker.kill("a context of a graph that has one at a time took too long")
            raise
        # (What was cancelled before the worker knew the context must not be computed.)
        self._check_stopped()
        self._ready = True

    def _replay(self, kind: int, stopped: Stopped) -> None:
        """Bring the context to where the lost one was."""

        def ask(kind: int, body: bytes, fds: Sequence[int] = ()) -> memoryview:
            # What it tells to keep is what the journal has.
            return self._ask(kind, body, fds, stopped, discard, keep=False)

        for given in self.journal.inputs:
            _send(given, lambda body, fds: ask(SET, body, fds))
        if self.journal.text or (self._alone and self.streams):
            ask(RESUME, bytes([self._alone]) + self.journal.text)
        if self.computed and kind == GET and not self.streams:
            ask(COMPUTE, b"")

    def _open(self, graph: int, stopped: Stopped) -> None:
        wanted = {
            "graph": graph,
            "schedule": self._schedule,
            "step": self._step,
            "alone": self._alone,
        }
        worker, body = self.worker, as_json(wanted)
        answer = worker.call(OPEN, self._number, body, reserve=self._reserve, stopped=stopped)

        def read() -> None:
            opened: Any = from_json(answer)
            self.streams = checked(opened["streams"], bool)
            if self.streams and not checked(opened["journals"], bool):
                # Nobody knows how to go on with its text.
                self.journal.forget()
            self.journal.count(generation(opened["generation"]))

        worker.parsed(read)

    def _give_back(self) -> None:
        if self.worker.steps is not None:
            self.worker.steps.give_back(self._step)


def _send(given: Input, send: Callable[[bytes, Sequence[int]], memoryview]) -> bool:
    """Set an input with a request of ``send``. Returns whether its tensors accumulate."""
    size = given.size
    said = as_json(
        {
            "slot": given.number,
            "key": given.key,
            "type": str(given.type),
            "dims": [int(count) for count in given.dims],
            "size": size,
        }
    )
    body = U32.pack(len(said)) + said
    if size <= INLINE:
        return _accumulates(send(body + given.data, ()))
    # New memory: if the worker refuses this tensor, the earlier one must still be there.
    descriptor = shared_memory.make(size)
    try:
        memory = shared_memory.map_shared(descriptor)
        memory[:] = given.data
        accumulates = _accumulates(send(body, [descriptor]))
    finally:
        os.close(descriptor)
    given.data = memory
    return accumulates


def _accumulates(answer: memoryview) -> bool:
    return bytes(answer[:1]) == b"\1"
