"""The memory that the texts of a loop share: which tokens of whom it has decoded.

A slot is one of llama.cpp's sequences. Each text that is computed has a slot. It keeps it between
its guest's turns, and after its guest has gone, as the beginning of later texts of the same tenant.
Whoever needs room takes it from these first, then from guests between two turns. Such a guest's
tokens are decoded again when it comes back.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING

from wasi_nn.errors import RuntimeFailure
from wasi_nn_ggml.llama.kv_cache import common_prefix
from wasi_nn_ggml.llama.model import Model
from wasi_nn_ggml.llama.native_context import NativeContext
from wasi_nn_ggml.settings import ContextSettings

if TYPE_CHECKING:
    from wasi_nn_ggml.room import sequence as sequences

#: llama.cpp has at most 256. Each costs memory for a row of logits.
COUNT = 64
# A text may write so many tokens while others wait for a slot.
_SLICE = 128
# So many tokens of those who have gone are kept, and those of the last one in any case. Each costs
# everybody's steps a look.
_MOST_RETIRED = 2048
# A shorter common beginning is not worth a copy, in tokens.
_MIN_SHARED = 16


class Slot:
    """One of llama.cpp's sequences, with the tokens that it has decoded."""

    __slots__ = ("id", "owner", "shared", "tenant", "tokens", "used")

    def __init__(self, number: int) -> None:
        self.id = number
        self.tokens = array("i")
        #: So many of the first ones are another slot's too.
        self.shared = 0
        self.owner: sequences.Sequence | None = None
        self.tenant = ""
        #: The step in which it was last used.
        self.used = 0

    def empty(self) -> None:
        """It has no tokens any more."""
        self.tokens, self.shared = array("i"), 0


class Slots:
    """All slots of a loop, over one llama.cpp context. Used by one thread."""

    def __init__(self, model: Model, settings: ContextSettings, n_ctx: int) -> None:
        """Room for ``n_ctx`` tokens. Raises ``RuntimeFailure`` if llama.cpp fails."""
        self.model = model
        self._native = model.native
        self._settings = settings
        self.context = NativeContext(model, settings, n_ctx, COUNT)
        if self.context.memory is None or not self.context.causal:
            raise RuntimeFailure(
                "the model writes no text: it is for embeddings (set the config's embedding)"
            )
        self._slots = [Slot(number) for number in range(COUNT)]
        #: Whether a sequence needs its slot now. The loop sets it.
        self.is_busy: Callable[[sequences.Sequence], bool] = _never
        #: Texts that began with tokens that another one had decoded.
        self.hits = 0

    @property
    def n_cells(self) -> int:
        """The memory in use, in tokens. (More, if the first one of those that share has gone.)"""
        return sum(max(0, len(slot.tokens) - slot.shared) for slot in self._slots)

    def place(self, sequence: sequences.Sequence, tokens: array[int], sharing: bool) -> bool:
        """Give a text that begins, or has lost its slot, one with as many of its tokens decoded as
        are known, except the last one. With ``sharing``, these may be another tenant's. Returns
        whether there is a slot."""
        wanted = tokens[:-1]
        own = sequence.slot
        kept = common_prefix(own.tokens, wanted) if own is not None else 0
        source, shared = self._longest(sequence, wanted, kept + _MIN_SHARED, sharing)
        if source is not None and source.owner is None and 2 * shared >= len(source.tokens):
            # Nobody else's, and little of it would be lost: take it over.
            if own is not None:
                self.forget(own)
            own = source
            kept, self.hits = shared, self.hits + 1
        else:
            own = own or self._vacant(sequence, source)
            if own is None:
                return False
            if source is not None:
                self.forget(own)
                self._native.llama_memory_seq_cp(self._memory, source.id, own.id, 0, shared)
                own.tokens = source.tokens[:shared]
                kept = own.shared = shared
                self.hits += 1
        own.owner, own.tenant = sequence, sequence.tenant
        sequence.slot = own
        assert sequence.text is not None
        sequence.placed_at = sequence.text.produced
        self.truncate(own, kept)
        return True

    def _longest(
        self, sequence: sequences.Sequence, wanted: array[int], least: int, sharing: bool
    ) -> tuple[Slot | None, int]:
        """The slot with the most of the wanted tokens, if these are at least ``least``."""
        best, longest = None, least - 1
        for slot in self._slots:
            if slot is sequence.slot or not (sharing or slot.tenant == sequence.tenant):
                continue
            if slot.tokens[: longest + 1] == wanted[: longest + 1] and self._whole(slot):
                length = common_prefix(slot.tokens, wanted)
                if length > longest:
                    best, longest = slot, length
        return best, longest

    def _whole(self, slot: Slot) -> bool:
        """Whether the first tokens are still there. (Layers with a sliding window drop them.)"""
        return bool(self._native.llama_memory_seq_pos_min(self._memory, slot.id) == 0)

    def _vacant(self, sequence: sequences.Sequence, spared: Slot | None) -> Slot | None:
        """A slot for a sequence; None if it must wait."""
        for empty in self._slots:
            if empty.owner is None and not empty.tokens:
                return empty
        slot = self._oldest(spared) or self._ceded(sequence, spared)
        if slot is not None:
            self.forget(slot)
        return slot

    def _ceded(self, sequence: sequences.Sequence, spared: Slot | None) -> Slot | None:
        """The slot in use that its owner must give up for a sequence."""

        def order(slot: Slot) -> tuple[int, int]:
            assert slot.owner is not None
            return slot.owner.priority, -slot.owner.written

        slot = min((each for each in self._slots if each is not spared), key=order)
        owner = slot.owner
        assert owner is not None
        if owner.priority < sequence.priority or owner.written >= _SLICE:
            return slot
        return None

    def _oldest(self, spared: Slot | None = None) -> Slot | None:
        """The slot that is given up first; None if all are in use."""

        def order(slot: Slot) -> tuple[bool, int]:
            return slot.owner is not None, slot.used

        return min(
            (
                slot
                for slot in self._slots
                if slot is not spared
                and (slot.tokens if slot.owner is None else not self.is_busy(slot.owner))
            ),
            key=order,
            default=None,
        )

    def give_up_one(self) -> bool:
        """Free the tokens that have been unused for the longest time. Returns whether there were
        any."""
        slot = self._oldest()
        if slot is not None:
            self.forget(slot)
        return slot is not None

    def truncate(self, slot: Slot, length: int) -> None:
        """Keep the first tokens of a slot, or none if llama.cpp cannot."""
        if length >= len(slot.tokens):
            return
        memory, removed = self._memory, False
        if length and self._whole(slot):
            removed = self._native.llama_memory_seq_rm(memory, slot.id, length, -1)
        if removed:
            del slot.tokens[length:]
            slot.shared = min(slot.shared, length)
        else:
            self._native.llama_memory_seq_rm(memory, slot.id, -1, -1)
            slot.empty()

    def roll_back(self, slot: Slot) -> None:
        """Remove what a failed step may have left."""
        self._native.llama_memory_seq_rm(self._memory, slot.id, len(slot.tokens), -1)

    def retire(self, sequence: sequences.Sequence) -> None:
        """A sequence leaves: keep its tokens for texts that begin as it did."""
        slot, sequence.slot = sequence.slot, None
        if slot is not None:
            slot.owner = None
            if len(slot.tokens) < _MIN_SHARED:
                self.forget(slot)
            kept = len(slot.tokens)
            for other in self._retired():
                tokens = other.tokens
                if other is slot:
                    continue
                known = other.tenant == slot.tenant and slot.tokens[: len(tokens)] == tokens
                if known or kept + len(tokens) > _MOST_RETIRED:
                    self.forget(other)
                else:
                    kept += len(tokens)

    def _retired(self) -> list[Slot]:
        """The slots of those who have gone, the last one first."""
        retired = [slot for slot in self._slots if slot.owner is None and slot.tokens]
        return sorted(retired, key=lambda slot: -slot.used)

    def forget(self, slot: Slot) -> None:
        """Free a slot and its tokens."""
        if slot.owner is not None:
            slot.owner.slot = None
            slot.owner = None
        if slot.tokens:
            self._native.llama_memory_seq_rm(self._memory, slot.id, -1, -1)
            slot.empty()
            if not any(slot.tokens for slot in self._slots):
                # Nobody's data stays behind.
                self._native.llama_memory_clear(self._memory, True)

    def forget_retired(self) -> None:
        """Free the tokens of those who have gone."""
        for slot in self._retired():
            self.forget(slot)

    def larger(self, n_ctx: int) -> NativeContext:
        """A context for more tokens. Callable from any thread. Raises ``RuntimeFailure``."""
        return NativeContext(self.model, self._settings, n_ctx, COUNT)

    def move(self, context: NativeContext) -> None:
        """Go on in a larger context, to which the texts of present guests move."""
        old, self.context = self.context, context
        for slot in self._slots:
            if slot.tokens and not (slot.owner is not None and self._copied(old, slot)):
                # If it has an owner, it is decoded again.
                self._native.llama_memory_seq_rm(self._memory, slot.id, -1, -1)
                slot.empty()
            slot.shared = 0
        old.close()

    def _copied(self, old: NativeContext, slot: Slot) -> bool:
        """Copy the memory of a slot from another context. Returns whether it could be."""
        native = self._native
        size = native.llama_state_seq_get_size(old.pointer, slot.id)
        state = ctypes.create_string_buffer(size)
        address = ctypes.addressof(state)
        native.llama_state_seq_get_data(old.pointer, address, size, slot.id)
        restored = native.llama_state_seq_set_data(self.context.pointer, address, size, slot.id)
        return bool(restored)

    @property
    def _memory(self) -> int:
        memory = self.context.memory
        assert memory is not None
        return memory


def _never(sequence: sequences.Sequence) -> bool:
    return False
