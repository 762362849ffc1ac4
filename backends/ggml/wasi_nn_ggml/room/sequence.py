"""A guest's text among others in a decode loop: the side of the guest's thread."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from wasi_nn.backend import Schedule
from wasi_nn.errors import ContextFull, RuntimeFailure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wasi_nn_ggml.llama.sampler import Sampler
    from wasi_nn_ggml.room.loop import DecodeLoop
    from wasi_nn_ggml.room.slots import Slot


class Logits(NamedTuple):
    """The numbers from which a guest's own thread chooses the next token: a grammar may take its
    time, and the loop does not wait for it."""

    row: NDArray[Any]


class Text:
    """Tokens to read and to continue.

    The loop writes ``tokens`` and ``produced``, and puts results: the number of tokens that it had
    to compute until it could choose the first one, then tokens or ``Logits``, or an exception. It
    puts ``at_once`` tokens together, so that the guest's thread need not wake for each. The guest's
    thread writes ``taken`` and ``limit``. The loop is never more than ``ahead`` tokens before the
    guest, and never beyond ``limit``."""

    def __init__(
        self,
        tokens: array[int],
        sampler: Sampler,
        ends: bool,
        ahead: int,
        at_once: int,
        limit: int,
    ) -> None:
        self.tokens = tokens
        self.sampler = sampler
        self.n_prompt = len(tokens)
        #: Whether a token that ends the generation ends the text.
        self.ends = ends
        self.ahead = ahead
        self.at_once = at_once
        self.limit = limit
        self.results: SimpleQueue[int | list[int] | Logits | Exception] = SimpleQueue()
        #: The tokens that were not put into ``results`` yet.
        self.group: list[int] = []
        #: The tokens that the guest's thread got but has not taken, the next one last.
        self.got: list[int] = []
        #: Tokens that were computed before the first one could be chosen; None once that is told.
        self.computed: int | None = 0
        self.produced = self.taken = 0
        #: Whether the sampler has seen nothing of the text.
        self.fresh = True
        #: Whether the loop waits for the guest.
        self.paused = False
        #: Whether nothing can follow: the model has ended the text, or the context is full.
        self.ended = False
        #: When it began to wait for its first step; 0.0 after that.
        self.waits_since = 0.0

    @property
    def may_go_on(self) -> bool:
        """Whether the next token may be chosen now."""
        return self.produced < min(self.taken + self.ahead, self.limit)

    def flush(self, error: Exception | None = None) -> None:
        """Let the guest have the tokens that were chosen, and then an error."""
        if self.group:
            self.results.put(self.group)
            self.group = []
        if error is not None:
            self.results.put(error)


class Sequence:
    """The place of a guest's execution context in a loop. Used by one thread at a time, except for
    ``stop`` and ``close``. Attributes without an underscore are the loop's."""

    def __init__(
        self, loop: DecodeLoop, schedule: Schedule, n_ctx: int, threads: tuple[int, int]
    ) -> None:
        self.tenant, self.priority, self.tokens_per_second = schedule
        #: The most tokens of a text.
        self.n_ctx = n_ctx
        self.threads = threads
        self.text: Text | None = None
        self.slot: Slot | None = None
        #: Whether the slot has what is known of the present text.
        self.placed = False
        #: The tokens that the text had written when it got its slot.
        self.placed_at = 0
        #: The turn in which its prompt was last read.
        self.served = 0
        #: The seconds in which the guest chooses a token itself.
        self.chooses_in = 0.0
        #: Falls with each text that begins in the loop: the earlier text has the higher number.
        self.number = 0
        #: The time before which it may write no further token.
        self.due = 0.0
        #: Whether its next step must be without others.
        self.alone = False
        self.stepping: Callable[[bool], object] = _nothing
        #: When the guest last asked for a token.
        self.asked = 0.0
        self._loop = loop
        self._text: Text | None = None
        self._stopped = False

    @property
    def pending(self) -> int:
        """The tokens of its text that are not decoded. It has a text and a slot."""
        assert self.text is not None
        assert self.slot is not None
        return len(self.text.tokens) - len(self.slot.tokens)

    @property
    def written(self) -> int:
        """The tokens that its text has written since it got its slot."""
        return self.text.produced - self.placed_at if self.text is not None else 0

    def begin(self, text: Text) -> int:
        """Read a text, in place of the present one. Returns the number of tokens that were
        computed: the loop may know the first ones. Raises ``RuntimeFailure``."""
        self._text = text
        self.asked = time.perf_counter()
        # From now on the loop says when the context is at work.
        self.stepping(False)
        if self._stopped:
            raise _stopped()
        self._loop.begin(self, text)
        computed = text.results.get()
        if isinstance(computed, int):
            return computed
        assert isinstance(computed, Exception)
        raise computed

    def take(self, allowed: int) -> int:
        """The next token of the text that was begun, of at most ``allowed`` that may follow. Raises
        ``ContextFull`` and ``RuntimeFailure``."""
        text = self._text
        assert text is not None
        if text.taken and text.n_prompt + text.taken > self.n_ctx:
            raise ContextFull(f"the context of {self.n_ctx} tokens is full")
        text.limit = text.taken + allowed
        if not text.got:
            self.asked = time.perf_counter()
            self._nudge(text)
            result = text.results.get()
            if isinstance(result, Exception):
                raise result
            if isinstance(result, Logits):
                self.stepping(True)
                token = text.sampler.choose(result.row)
                self.stepping(False)
                text.taken += 1
                self._loop.chosen(self, text, token)
                return token
            assert isinstance(result, list)
            text.got = result[::-1]
        text.taken += 1
        self._nudge(text)
        return text.got.pop()

    def _nudge(self, text: Text) -> None:
        if text.paused and text.may_go_on:
            text.paused = False
            self._loop.resume(self, text)

    def abandon(self) -> None:
        """Compute no more of the present text. Calls nothing native."""
        text, self._text = self._text, None
        if text is not None:
            self._loop.abandon(self, text)

    def stop(self) -> None:
        """Make the present call, and every later one, fail. Callable from any thread."""
        self._stopped = True
        text = self._text
        if text is not None:
            text.results.put(_stopped())
            self._loop.abandon(self, text)

    def close(self) -> None:
        """Leave the loop. Callable from any thread, and while Python collects garbage."""
        self._loop.leave(self)


def _stopped() -> RuntimeFailure:
    return RuntimeFailure("the guest is being stopped")


def _nothing(stepping: bool) -> None:
    pass
