"""How the memory of a loop grows with its guests.

A larger llama.cpp context takes as long to make as several tokens. So it is made in a thread of its
own, before the present one is full, and the steps go on meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from threading import Thread
from typing import TYPE_CHECKING

from wasi_nn_ggml.guard.estimates import whole_blocks
from wasi_nn_ggml.room.slots import Slots

if TYPE_CHECKING:
    from wasi_nn_ggml.llama.native_context import NativeContext
    from wasi_nn_ggml.room.sequence import Sequence

# So many tokens before the memory is full, a larger one is begun.
_MARGIN = 128


class Growth:
    """Makes the memory larger, to as much as the guests have reserved. Used by one thread."""

    def __init__(self, slots: Slots, most: int) -> None:
        """``most`` is what the operator gives, in tokens."""
        self._slots = slots
        self._most = most
        #: What the guests have reserved, in tokens.
        self.reserved = 0
        self._larger: Future[NativeContext] | None = None

    def foresee(self, active: Iterable[Sequence]) -> None:
        """Begin, if the texts that are computed will soon need more."""
        slots, coming = self._slots, _MARGIN
        if self._larger is None and self._wanted > slots.context.n_ctx:
            for member in active:
                assert member.text is not None
                known = len(member.slot.tokens) if member.slot is not None else 0
                coming += len(member.text.tokens) - known
            if slots.n_cells + coming > slots.context.n_ctx:
                self._begin()

    @property
    def is_ready(self) -> bool:
        """Whether ``finish`` need not wait."""
        return self._larger is not None and self._larger.done()

    def finish(self) -> bool:
        """Go on in a larger memory. Returns whether there was one to be had."""
        if self._larger is None and self._wanted > self._slots.context.n_ctx:
            self._begin()
        larger, self._larger = self._larger, None
        if larger is None:
            return False
        if larger.exception() is not None:
            # (The log has llama.cpp's reason.)
            self._most = self._slots.context.n_ctx
            return False
        self._slots.move(larger.result())
        return True

    def end(self) -> None:
        """Wait for what was begun, and free it."""
        larger, self._larger = self._larger, None
        if larger is not None and larger.exception() is None:
            larger.result().close()

    @property
    def _wanted(self) -> int:
        return min(self._most, whole_blocks(self.reserved))

    def _begin(self) -> None:
        made: Future[NativeContext] = Future()
        arguments = made, self._wanted
        Thread(target=self._make, args=arguments, name="growth", daemon=True).start()
        self._larger = made

    def _make(self, made: Future[NativeContext], n_ctx: int) -> None:
        try:
            made.set_result(self._slots.larger(n_ctx))
        except Exception as error:
            made.set_exception(error)
