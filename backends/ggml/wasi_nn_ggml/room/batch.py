"""The arrays of a ``llama_batch`` with tokens of several sequences."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from wasi_nn_ggml.llama.bindings import Batch

if TYPE_CHECKING:
    from wasi_nn_ggml.room.sequence import Sequence


class StepBatch:
    """Room for ``size`` tokens, allocated once."""

    def __init__(self, size: int) -> None:
        self.size = size
        numbers = ctypes.c_int32 * size
        self._token, self._position, self._sequence = numbers(), numbers(), numbers()
        self._ones = numbers(*[1] * size)
        self._wanted = (ctypes.c_int8 * size)()
        first = ctypes.addressof(self._sequence)
        self._pointers = (ctypes.c_void_p * size)(*range(first, first + 4 * size, 4))
        self.native = Batch(
            0,
            ctypes.addressof(self._token),
            None,
            ctypes.addressof(self._position),
            ctypes.addressof(self._ones),
            ctypes.addressof(self._pointers),
            ctypes.addressof(self._wanted),
        )

    def fill(self, step: list[tuple[Sequence, int]]) -> None:
        """Put the next tokens of each sequence in, and ask for logits after a text's last one."""
        at = 0
        for member, part in step:
            slot, text = member.slot, member.text
            assert slot is not None
            assert text is not None
            done, tokens = len(slot.tokens), text.tokens
            if part == 1:
                self._token[at] = tokens[done]
                self._position[at] = done
                self._sequence[at] = slot.id
                self._wanted[at] = 0
            else:
                end = at + part
                self._token[at:end] = [*tokens[done : done + part]]
                self._position[at:end] = [*range(done, done + part)]
                self._sequence[at:end] = [slot.id for _ in range(part)]
                self._wanted[at:end] = [0 for _ in range(part)]
            at += part
            if done + part == len(tokens):
                self._wanted[at - 1] = 1
        self.native.n_tokens = at
