"""Calls into a backend's execution contexts, for guests' sessions and for ``Model`` alike.

The rules for these calls are here and nowhere else:

- The length of a tensor fits its type and dimensions.
- Contexts of a graph run one at a time if the backend says so.
- What a context takes counts against the guest's limits, and so does what it computes.
- A cancelled context starts nothing new, and a context of an unloaded graph can only be read.
- Outputs are checked, and what the backend raises is reported with the backend's name.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NoReturn, TypeVar

from wasi_nn._models.checks import counted
from wasi_nn._models.loading import LoadedGraph
from wasi_nn._models.turns import in_turn
from wasi_nn._process.fork import keep
from wasi_nn._process.signals import raised_by_handler
from wasi_nn._session.cancellation import Cancellation
from wasi_nn._session.ended import EndedContext
from wasi_nn._session.ledger import Ledger, Reservation
from wasi_nn._session.meter import TIMES, Meter
from wasi_nn._worker.offences import Offences
from wasi_nn.backend import ExecutionContext, Generation, Schedule, StreamingContext
from wasi_nn.backend.shared import Stopped, never
from wasi_nn.errors import (
    ForkedProcess,
    InvalidArgument,
    OutOfTokens,
    QuotaExceeded,
    UnsupportedOperation,
)
from wasi_nn.escaping import logger, trace_of
from wasi_nn.types import Tensor, check_length

log = logger("wasi_nn")

T = TypeVar("T")


class Execution:
    """An open execution context. It keeps its graph alive. Used by one thread at a time, but for
    ``cancel``."""

    def __init__(
        self,
        loaded: LoadedGraph,
        ledger: Ledger,
        meter: Meter,
        cancellation: Cancellation,
        stdout: Callable[[bytes], object],
        schedule: Schedule = Schedule(),
        offences: Offences | None = None,
    ) -> None:
        """Open a context, which prints to ``stdout``. Raises ``NnError``, and then nothing stays
        reserved."""
        self.loaded = loaded
        #: Tensors are strings of bytes: their dimensions say nothing about their length.
        self.untyped_bytes = loaded.untyped_bytes
        self._cancellation = cancellation
        self._stopped = cancellation.is_requested
        self._retired = ""
        self._looks = loaded.checked.looks
        #: Bytes of each input that the host keeps.
        self._sizes: dict[int | str, int] = {}
        self._ledger = ledger
        self._meter = meter
        #: The tokens that were counted.
        self._tokens = 0
        self._reservation = Reservation(ledger, loaded.memory)
        reserve = self._reservation.reserve
        try:
            self.context: ExecutionContext = call(
                loaded,
                self._stopped,
                loaded.open_context,
                reserve,
                self._stopped,
                schedule,
                offences,
            )
        except BaseException:
            self._reservation.release()
            raise
        self.context.stdout = stdout
        #: Whether computations are counted against quotas.
        self._measures = meter.timed or isinstance(self.context, StreamingContext)
        if not loaded.survives_fork:
            keep(self)

    def set_input(self, key: int | str, tensor: Tensor) -> None:
        """Set an input; the tensor's bytes are copied before this returns."""
        kind, dims, data = tensor
        size = len(data)
        if size != prod(dims) * kind.size and not self.untyped_bytes:
            check_length(kind, dims, size)
        if self._retired or self._cancellation.requested:
            self._refuse()
        more = size - self._sizes.get(key, 0)
        if more > 0:
            self._ledger.check_tensor(more)
        call(self.loaded, self._stopped, self.context.set_input, key, tensor)
        if more > 0:
            self._sizes[key] = size
            self._reservation.add_tensor(more)

    def compute(self) -> None:
        """Run the graph on the inputs that are set."""
        if self._retired or self._cancellation.requested:
            self._refuse()
        if self._measures:
            call(self.loaded, self._stopped, self._measured, self.context.compute)
        else:
            call(self.loaded, self._stopped, self.context.compute)

    def get_output(self, key: int | str) -> Tensor:
        """An output of the last compute, valid until the next call on the context."""
        output = call(self.loaded, self._stopped, self.context.get_output, key)
        # An output that looks like the last valid one of its key is valid too.
        try:
            kind, dims, size = self._looks[key]
            data = output.data
            same = output.dims == dims and output.type is kind and data.c_contiguous
            if same and data.nbytes == size == len(data) <= self._ledger.tensor_room:
                return output
        except (KeyError, AttributeError, TypeError):
            pass
        return self._checked(key, output)

    def compute_single(self) -> None:
        """Produce the next piece of a streamed output. Raises ``UnsupportedOperation`` for a
        context that does not stream, as the other two do, and ``EndOfSequence``."""
        if self._retired or self._cancellation.requested:
            self._refuse()
        compute_single = self._stream().compute_single
        call(self.loaded, self._stopped, self._measured, compute_single)

    def get_output_single(self, key: int | str) -> Tensor:
        """The newest piece of a streamed output, valid until the next call on the context."""
        get = self._stream().get_output_single
        return self._checked(key, call(self.loaded, self._stopped, get, key))

    def _checked(self, key: int | str, output: Tensor) -> Tensor:
        with self.loaded.blame:
            self.loaded.checked.check(key, output)
        self._ledger.check_output(len(output.data))
        return output

    def _measured(self, compute: Callable[[], None]) -> None:
        """Compute within the guest's quotas of seconds and tokens."""
        context, meter = self.context, self._meter
        if isinstance(context, StreamingContext):
            meter.check_tokens()
            context.allow_tokens(meter.tokens)
        try:
            if meter.timed:
                meter.run(compute, self._expire)
            else:
                compute()
        except QuotaExceeded as error:
            if isinstance(error, OutOfTokens):
                meter.tokens = 0
            elif error.rule in TIMES:
                self.context = EndedContext(context, str(error))
            raise
        finally:
            if isinstance(context, StreamingContext):
                self._count_tokens()

    def _expire(self) -> None:
        """Cancel the present computation alone. (The context cannot be used again.)"""
        try:
            self.context.cancel()
        except Exception as error:
            log.error("%s failed to cancel\n  %s", self.loaded.backend.title, trace_of(error))

    def _count_tokens(self) -> None:
        generation = self.generation()
        # A piece of a context that does not count is a token.
        tokens = self._tokens + 1 if generation is None else int(generation.tokens)
        self._meter.tokens -= tokens - self._tokens
        self._tokens = tokens

    def fini_single(self) -> None:
        """End a stream, early or not."""
        call(self.loaded, self._stopped, self._stream().fini_single)

    def _stream(self) -> StreamingContext:
        if not isinstance(self.context, StreamingContext):
            raise UnsupportedOperation(
                f"backend {self.loaded.backend.name} does not stream: use compute and get_output"
            )
        return self.context

    def retire(self, reason: str) -> None:
        """From now on outputs can be read, and nothing else, for the reason given."""
        self._retired = reason

    def cancel(self) -> None:
        """Make a call that another thread has under way fail soon, where the library can."""
        self._cancellation.requested = True
        self._expire()

    def generation(self) -> Generation | None:
        """What a language model did here. A backend's failure is logged, and then it is None;
        raises only what a signal's handler does."""
        return counted(self.loaded.backend, self.context)

    def close(self) -> None:
        """Close the context, and give back what it reserved. A backend's failure is logged; raises
        only what a signal's handler does."""
        # A cancelled context waits for the lock too.
        self._stopped = never
        try:
            call(self.loaded, self._stopped, self.context.close)
        except ForkedProcess:
            pass  # The context is the parent's.
        except Exception as error:
            if raised_by_handler(error) is not None:
                raise
            title = self.loaded.backend.title
            log.error("%s failed to close a context\n  %s", title, trace_of(error))
        finally:
            self._reservation.release()

    def _refuse(self) -> NoReturn:
        # Within the blame, which keeps a thread that Python's end has cancelled.
        with self.loaded.blame:
            self._cancellation.check()
            raise InvalidArgument(self._retired)


def call(loaded: LoadedGraph, stopped: Stopped, function: Callable[..., T], *arguments: Any) -> T:
    """Call into a graph's context, one context at a time where the graph needs that."""
    try:
        lock = loaded.lock
        if lock is None:
            return function(*arguments)
        return in_turn(lock, stopped, function, *arguments)
    except BaseException as error:
        loaded.blame.report(error)
        raise
