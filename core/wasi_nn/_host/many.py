"""One program over many inputs: runs in threads, with the outcomes as they come.

A thread that is free reads the next input and runs it, and before that starts a further thread, up
to the number of jobs. So an input is read only when its run can begin, and a thread that waits for
the next input (from a queue, for example) keeps no outcome from its reader.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from wasi_nn._closing import Closing
from wasi_nn._host.options import (
    RunInput,
    RunOptions,
    check_args,
    check_options,
    starting_with,
)
from wasi_nn._process import exit as python_exit
from wasi_nn._process.fork import OfOneProcess, keep, refusal
from wasi_nn._process.interrupts import Interruption
from wasi_nn.backend import cores
from wasi_nn.errors import UsageError

if TYPE_CHECKING:
    from wasi_nn._host.options import Input
    from wasi_nn._host.result import RunResult

T = TypeVar("T")
# How many outcomes may wait for their reader, for each job.
_MAX_AHEAD = 2
# The system may deliver a signal to another thread, so the main thread must look, this often.
_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What became of one input of ``run_many``.

    ``index`` counts the inputs from 0. ``result`` is None if the guest did not start; ``error`` is
    then what kept it from starting, and otherwise what ended it (``RunResult.error``)."""

    index: int
    input: T
    result: RunResult | None
    error: BaseException | None

    def check(self) -> RunResult:
        """Return the result. Raises ``error`` if there is one."""
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result


class Runs(OfOneProcess, Closing, Generic[T]):
    """The outcomes of a program's runs, one for each input, as they come. Made by ``run_many``:

        with program.run_many(paths, lambda path: {"stdin": path.read_bytes()}, jobs=8) as runs:
            for outcome in runs:
                print(outcome.input, outcome.check().stdout)

    An iterator and a context manager; several threads may read it. The first ``next`` starts the
    runs. Leaving the block interrupts those that are under way, and waits until they have ended.
    After Ctrl-C, or another exception of a signal's handler, ``next`` does the same, and then
    raises it. If no reference is left, the runs are interrupted too."""

    def __init__(
        self,
        run: Callable[..., RunResult],
        inputs: Iterable[T],
        prepare: Callable[[T], Input] | None,
        jobs: int | None,
        ordered: bool,
        common: Mapping[str, Any],
    ) -> None:
        self._crew = Crew(Job(run, prepare, common), inputs, jobs, ordered)
        weakref.finalize(self, self._crew.interrupt)

    def __iter__(self) -> Iterator[Outcome[T]]:
        return self

    def __next__(self) -> Outcome[T]:
        try:
            outcome = self._crew.take()
        except BaseException:
            self.close()
            raise
        if outcome is None:
            raise StopIteration
        return outcome

    def interrupt(self) -> None:
        """Interrupt the runs that are under way, and begin no others; there are no further
        outcomes. Callable from any thread."""
        self._crew.interrupt()

    def close(self) -> None:
        """``interrupt``, and wait until the runs have ended."""
        self._crew.interrupt()
        self._crew.wait()


class Job(Generic[T]):
    """How one input is run. Raises ``TypeError`` and ``UsageError`` for common options that no run
    has."""

    def __init__(
        self,
        run: Callable[..., RunResult],
        prepare: Callable[[T], Input] | None,
        common: Mapping[str, Any],
    ) -> None:
        check_args(common["args"])
        check_options({name: value for name, value in common.items() if name != "args"}, RunOptions)
        self._run = run
        self._prepare = prepare
        self._common = common

    def __call__(self, given: T, stop: Interruption) -> RunResult:
        """Run the input; ``stop`` interrupts its guest."""
        prepared: object = given if self._prepare is None else self._prepare(given)
        options = {**self._common, **_options(prepared)}
        return self._run(**starting_with(options, lambda guest: stop.aim(guest.interrupt)))


def _options(given: object) -> Mapping[str, Any]:
    """The options of one input."""
    if isinstance(given, Mapping):
        check_options(given, RunInput)
        return given
    if isinstance(given, (bytes, bytearray, memoryview)):
        return {"stdin": given}
    if isinstance(given, Sequence) and not isinstance(given, str):
        return {"args": given}
    raise UsageError(
        f"an input is {given!r}, and must be bytes (its standard input), a list of texts (its "
        "arguments), or a mapping of the run's options; prepare=… makes one of something else"
    )


class Crew(Generic[T]):
    """The threads that run the inputs. They hold it, and it does not hold its ``Runs``."""

    def __init__(
        self,
        job: Callable[[T, Interruption], RunResult],
        inputs: Iterable[T],
        jobs: int | None,
        ordered: bool,
    ) -> None:
        jobs = cores() if jobs is None else jobs
        if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
            raise UsageError(f"jobs is {jobs!r}, and must be a number from 1, or None")
        self._job = job
        self._jobs = jobs
        self._ordered = ordered
        self._inputs = iter(inputs)
        self._context = copy_context()
        #: Called in any thread when an outcome has come, and at the end.
        self.on_news: Callable[[], None] = _nothing
        # For everything below. Reentrant: a finalizer may interrupt.
        self._news = threading.Condition()
        # Whoever has it reads the next input.
        self._turn = threading.Lock()
        self._threads = self._read = self._taken = 0
        #: The runs that are under way, with their threads.
        self._present: dict[Interruption, int] = {}
        self._done: dict[int, Outcome[T]] = {}
        #: There are no further inputs.
        self._over = False
        self._closed = self._forked = False
        self._error: BaseException | None = None
        keep(self)

    def forked(self) -> None:
        """This is a child process now, and the threads stayed in the parent."""
        self._news, self._turn = threading.Condition(), threading.Lock()
        self._closed = self._forked = True
        self._present = {}

    def take(self) -> Outcome[T] | None:
        """Wait for the next outcome. None after the last one. Raises what the inputs raise, after
        the outcomes of the inputs before that."""
        with self._news:
            while not self.ended():
                outcome = self.poll()
                if outcome is not None:
                    return outcome
                self._news.wait(_POLL_SECONDS)
            return None

    def poll(self) -> Outcome[T] | None:
        """The next outcome, if it is there. Begins the runs."""
        with self._news:
            if not self._threads:
                self._start()
            key = self._taken if self._ordered else next(iter(self._done), -1)
            outcome = self._done.pop(key, None)
            if outcome is not None:
                self._taken += 1
                self._news.notify_all()
            return outcome

    def ended(self) -> bool:
        """Whether there are no further outcomes. Raises what the inputs raise."""
        with self._news:
            if self._forked:
                raise refusal("a program's run_many")
            over = self._over and self._read == self._taken
            if over and self._error is not None:
                error, self._error = self._error, None
                raise error
            return over or self._closed

    def interrupt(self) -> None:
        """End what is under way, and begin nothing more. Waits for nothing."""
        with self._news:
            self._closed = True
            self._done.clear()
            present = list(self._present)
        for stop in present:
            stop()
        self._tell()

    def wait(self) -> None:
        """Wait until nothing is under way, except what this thread itself runs."""
        with self._news:
            while set(self._present.values()) - {threading.get_ident()}:
                self._news.wait(_POLL_SECONDS)
        # A generator can end now. (A thread that waits in it ends when that gives an input.)
        if self._turn.acquire(blocking=False):
            self._inputs = iter(())
            self._turn.release()

    def _tell(self) -> None:
        with self._news:
            self._news.notify_all()
        self.on_news()

    def _start(self) -> None:
        with self._news:
            if self._threads == self._jobs or self._over or self._closed:
                return
            self._threads += 1
            name = f"wasi-nn run {self._threads}"
            work = self._context.copy().run
            try:
                threading.Thread(target=work, args=(self._work,), name=name, daemon=True).start()
            except RuntimeError:
                self._threads -= 1
                # Those that there are suffice.
                if not self._threads:
                    raise

    def _work(self) -> None:
        while (numbered := self._next()) is not None:
            self._start()
            self._attempt(*numbered)
            if python_exit.begun:
                python_exit.stay()

    def _next(self) -> tuple[int, T] | None:
        """The next input, with its number, when there is room for its outcome."""
        with self._turn:
            with self._news:
                most = _MAX_AHEAD * self._jobs
                while self._read - self._taken >= most and not self._closed:
                    self._news.wait()
                if self._over or self._closed:
                    return None
            try:
                given = next(self._inputs)
            except StopIteration:
                self._finish(None)
                return None
            except BaseException as error:
                self._finish(error)
                return None
            index, self._read = self._read, self._read + 1
            return index, given

    def _attempt(self, index: int, given: T) -> None:
        stop = Interruption()
        with self._news:
            if self._closed:
                return
            self._present[stop] = threading.get_ident()
        try:
            result = self._job(given, stop)
            outcome = Outcome(index, given, result, result.error)
        except BaseException as error:
            outcome = Outcome(index, given, None, error)
        with self._news:
            del self._present[stop]
            if not self._closed:
                self._done[index] = outcome
        self._tell()

    def _finish(self, error: BaseException | None) -> None:
        """There are no further inputs."""
        with self._news:
            self._over = True
            self._error = self._error or error
        self._tell()


def _nothing() -> None:
    """Nobody waits."""
