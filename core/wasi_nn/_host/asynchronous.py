"""Guests and models in asyncio. Each runs in its own thread.

A cancelled task interrupts its guest or its computation, waits until that has ended, and only then
raises ``CancelledError``. So everything that took part can be closed afterwards. Nothing is raised
inside a backend's call.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from codecs import getincrementaldecoder
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from wasi_nn._host.many import Crew, Job, Outcome
from wasi_nn._host.options import starting_with
from wasi_nn._process.fork import OfOneProcess
from wasi_nn._process.interrupts import Interruption
from wasi_nn.errors import UsageError

if TYPE_CHECKING:
    from wasi_nn._host.guest import Guest
    from wasi_nn._host.options import Input
    from wasi_nn._host.result import RunResult

T = TypeVar("T")
_Work = Callable[[], None]
# The output that a guest may write before it waits for its reader, in bytes.
_MAX_AHEAD = 1 << 20
# How often a guest that waits for its reader checks whether it was interrupted, in seconds.
_POLL_SECONDS = 0.05


class Worker:
    """A thread that does a task's work, one call at a time. Close it."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()
        threading.Thread(
            target=_serve, args=(self._queue,), name="wasi-nn worker", daemon=True
        ).start()

    async def do(self, work: Callable[[], T], interrupt: Callable[[], None]) -> T:
        """Return what ``work`` returns, or raise what it raises. If the task is cancelled, call
        ``interrupt`` once, and raise ``CancelledError`` when the work has ended."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        context = copy_context()

        def attempt() -> None:
            try:
                tell = partial(done.set_result, context.run(work))
            except BaseException as error:
                tell = partial(done.set_exception, error)
            # The loop may have been closed meanwhile.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(tell)

        self._queue.put(attempt)
        try:
            await asyncio.wait([done])
        except BaseException as error:
            interrupt()
            if isinstance(error, asyncio.CancelledError):
                # (Further cancellations change nothing.)
                await _end_of(done)
            raise
        return done.result()

    def close(self) -> None:
        """End the thread after its present work."""
        self._queue.put(None)


def _serve(queue: SimpleQueue[_Work | None]) -> None:
    while (work := queue.get()) is not None:
        work()


async def _end_of(done: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait for the end, whatever happens. Returns the last cancellation of this wait."""
    cancelled: asyncio.CancelledError | None = None
    while not done.done():
        try:
            await asyncio.wait([done])
        except asyncio.CancelledError as error:
            cancelled = error
    if not done.cancelled():
        # Retrieve the exception, so that asyncio does not report it.
        done.exception()
    return cancelled


async def in_thread(work: Callable[[], T], interrupt: Callable[[], None]) -> T:
    """``Worker.do`` in its own thread."""
    worker = Worker()
    try:
        return await worker.do(work, interrupt)
    finally:
        worker.close()


async def run_guest(
    run: Callable[..., RunResult], args: Sequence[str], options: Mapping[str, Any]
) -> RunResult:
    """``run(args, **options)`` in a thread; a cancelled task interrupts the guest. Its standard
    input may be asynchronous."""
    stop = Interruption()
    options = starting_with(options, lambda guest: stop.aim(guest.interrupt))
    stdin: Any = options.get("stdin")
    pieces = None
    if isinstance(stdin, AsyncIterable):
        options["stdin"] = pieces = _Inputs(stdin)
        pieces.loop = asyncio.get_running_loop()
    try:
        return await in_thread(partial(run, args, **options), stop)
    finally:
        if pieces is not None:
            pieces.cancel()


async def each(
    items: Generator[T, None, None], interrupt: Callable[[], None]
) -> AsyncGenerator[T, None]:
    """The items of a generator that runs in a thread, each made when it is asked for."""
    worker = Worker()
    try:
        while (item := await worker.do(partial(next, items, None), interrupt)) is not None:
            yield item
    finally:
        try:
            await worker.do(items.close, interrupt)
        finally:
            worker.close()


class Running:
    """A guest that runs while its output is read. Made by ``Program.start``:

        async with program.start(["name:net"], timeout=5) as running:
            async for piece in running:  # bytes of stdout, or running.text() for str
                ...
            result = await running.wait()

    Leaving the block interrupts a guest that still runs, and waits until it has ended. A guest that
    is a megabyte ahead of its reader waits. There may be one reader at a time."""

    def __init__(
        self, run: Callable[..., RunResult], args: Sequence[str], options: Mapping[str, Any]
    ) -> None:
        if options.get("stdout") is not None:
            raise UsageError("stdout is what the loop reads: leave it out, or use run_async")
        self._run, self._args, self._options = run, args, options
        self._pieces: deque[bytes] = deque()
        self._ahead = 0
        self._room = threading.Condition()
        self._guest: Guest | None = None
        self._task: asyncio.Task[RunResult] | None = None

    async def __aenter__(self) -> Running:
        if self._task is not None:
            raise UsageError("this guest was started before: call Program.start for each run")
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        options = starting_with({**self._options, "stdout": self._write}, self._begin)
        self._task = asyncio.ensure_future(run_guest(self._run, self._args, options))
        self._task.add_done_callback(lambda task: self._news.set())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        task = self._started()
        task.cancel()
        cancelled = await _end_of(task)
        if cancelled is not None:
            raise cancelled

    async def wait(self) -> RunResult:
        """Wait for the guest's end, and return the result. Raises what ``Program.run`` raises. Read
        the output first, because the guest waits for its reader."""
        task = self._started()
        await asyncio.wait([task])
        return task.result()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        task = self._started()
        while True:
            ended = task.done()
            piece = self._take()
            if piece is not None:
                yield piece
            elif ended:
                task.result()
                return
            else:
                self._news.clear()
                await self._news.wait()

    async def text(self) -> AsyncIterator[str]:
        """The output as text, in whole characters. Bytes that are not UTF-8 become U+FFFD."""
        decoder = getincrementaldecoder("utf-8")(errors="replace")
        async for piece in self:
            if text := decoder.decode(piece):
                yield text
        if text := decoder.decode(b"", final=True):
            yield text

    def _begin(self, guest: Guest) -> None:
        self._guest = guest

    def _write(self, piece: bytes) -> None:
        with self._room:
            while self._ahead >= _MAX_AHEAD and not (self._guest and self._guest.interrupted):
                self._room.wait(_POLL_SECONDS)
            self._pieces.append(bytes(piece))
            self._ahead += len(piece)
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._news.set)

    def _take(self) -> bytes | None:
        with self._room:
            if not self._pieces:
                return None
            piece = self._pieces.popleft()
            self._ahead -= len(piece)
            self._room.notify_all()
            return piece

    def _started(self) -> asyncio.Task[RunResult]:
        if self._task is None:
            raise UsageError("the guest was not started: use 'async with program.start(…)'")
        return self._task


class AsyncRuns(OfOneProcess, Generic[T]):
    """The outcomes of a program's runs, as ``Runs``, for asyncio. Made by ``run_many_async``:

        async with program.run_many_async(requests(), prepare, jobs=8) as runs:
            async for outcome in runs:
                ...

    Leaving the block interrupts the runs that are under way, and waits until they have ended. If
    the inputs are asynchronous, the loop gives them; others are read in the runs' threads."""

    def __init__(
        self,
        run: Callable[..., RunResult],
        inputs: Iterable[T] | AsyncIterable[T],
        prepare: Callable[[T], Input] | None,
        jobs: int | None,
        ordered: bool,
        common: Mapping[str, Any],
    ) -> None:
        self._later = _Inputs(inputs) if isinstance(inputs, AsyncIterable) else None
        given: Iterable[T] = self._later or inputs  # type: ignore[assignment]
        self._crew = Crew(Job(run, prepare, common), given, jobs, ordered)
        self._news = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        weakref.finalize(self, self._crew.interrupt)

    async def __aenter__(self) -> AsyncRuns[T]:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    def __aiter__(self) -> AsyncIterator[Outcome[T]]:
        return self

    async def __anext__(self) -> Outcome[T]:
        self._begin()
        while not self._crew.ended():
            self._news.clear()
            outcome = self._crew.poll()
            if outcome is not None:
                return outcome
            if not self._crew.ended():
                await self._news.wait()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Interrupt the runs that are under way, begin no others, and wait until they have
        ended."""
        self._crew.interrupt()
        if self._later is not None:
            self._later.cancel()
        await in_thread(self._crew.wait, self._crew.interrupt)

    def _begin(self) -> None:
        if self._loop is None:
            loop = self._loop = asyncio.get_running_loop()
            wake = self._news.set
            if self._later is not None:
                self._later.loop = loop

            def tell() -> None:
                # The loop may have been closed meanwhile.
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(wake)

            self._crew.on_news = tell


class _Inputs(Generic[T]):
    """Asynchronous inputs, for a thread that reads them one at a time."""

    def __init__(self, inputs: AsyncIterable[T]) -> None:
        self._inputs = inputs.__aiter__()
        self._next: Future[T] | None = None
        self._cancelled = False
        self.loop: asyncio.AbstractEventLoop | None = None

    def __iter__(self) -> Iterator[T]:
        while not self._cancelled and self.loop is not None:
            following = self._next = asyncio.run_coroutine_threadsafe(self._following(), self.loop)
            if self._cancelled:
                following.cancel()
            try:
                yield following.result()
            except (StopAsyncIteration, CancelledError):
                return

    async def _following(self) -> T:
        return await self._inputs.__anext__()

    def cancel(self) -> None:
        """Let the thread that waits for an input go."""
        self._cancelled = True
        if self._next is not None:
            self._next.cancel()
