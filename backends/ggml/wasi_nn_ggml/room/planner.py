"""Whose tokens are in the next step: tenants take turns, and then their guests."""

from __future__ import annotations

from collections.abc import Container, Iterable
from itertools import count
from typing import TYPE_CHECKING

from wasi_nn_ggml.room.pace import Pace

if TYPE_CHECKING:
    from wasi_nn_ggml.room.sequence import Sequence
    from wasi_nn_ggml.room.slots import Slots

#: A sequence, and how many of its tokens are in a step.
Part = tuple["Sequence", int]

# A guest that has asked for a token within these seconds is waiting for the next ones.
_RECENT = 1.0
# So long lower classes wait for a guest that reads its text as fast as it can, in seconds.
_MOMENT = 0.005
_LOWEST = -(1 << 62)
# One prompt waits for another that has so many more tokens in common with it.
_IN_COMMON = 16


class Planner:
    """Plans steps. Used by one thread."""

    def __init__(self, slots: Slots, sharing: bool) -> None:
        """With ``sharing``, tenants know each other's beginnings of prompts."""
        self.pace = Pace()
        self._slots, self._sharing = slots, sharing
        self._turns = count(1)
        #: The turn in which a prompt of each tenant was last read.
        self._served: dict[str, int] = {}

    def plan(
        self,
        active: Iterable[Sequence],
        parked: Container[Sequence],
        members: Iterable[Sequence],
        now: float,
        size: int,
    ) -> list[Part]:
        """A step of at most ``size`` tokens for those of ``active`` that are not ``parked``; empty
        if none can compute. ``members`` are all sequences of the loop."""
        ready = [each for each in active if each.due <= now and each not in parked]
        if not ready:
            return []
        highest = max([each.priority for each in ready])
        if is_awaited(members, now, highest + 1):
            # A guest of a higher class has just got a token, and asks for the next one at once.
            return []
        ready = [each for each in ready if each.priority == highest and self._place(each)]
        # (One that is placed may take the slot of another one.)
        ready = [each for each in ready if each.slot is not None]
        for member in ready:
            if member.alone:
                return [(member, min(member.pending, size))]
        step = [(member, 1) for member in ready if member.pending == 1][:size]
        reading = [member for member in ready if member.pending > 1]
        room = size - len(step)
        if reading and room:
            if step or is_awaited(members, now, highest, _RECENT):
                room = min(room, self.pace.most(room, len(step)))
            step += self._parts(reading, room)
        return step

    def forget(self, tenant: str) -> None:
        """The last sequence of a tenant has left."""
        self._served.pop(tenant, None)

    def _place(self, sequence: Sequence) -> bool:
        """Whether a text has a slot, and so can be in a step."""
        text = sequence.text
        assert text is not None
        if sequence.slot is None or not sequence.placed:
            if not self._slots.place(sequence, text.tokens, self._sharing):
                return False
            sequence.placed = True
        elif not sequence.pending:
            # The guest had no quota for a token when it could have been chosen.
            self._slots.truncate(sequence.slot, len(text.tokens) - 1)
        return True

    def _parts(self, reading: list[Sequence], room: int) -> list[Part]:
        parts = []
        reading.sort(key=lambda each: (self._served.get(each.tenant, 0), each.served))
        for member in reading:
            if not room:
                break
            if len(reading) > 1 and any(self._follows(member, other) for other in reading):
                # Look again, when that one has read what both begin with.
                member.placed = False
                continue
            part = min(member.pending, room)
            room -= part
            parts.append((member, part))
            member.served = self._served[member.tenant] = next(self._turns)
        return parts

    def _follows(self, member: Sequence, other: Sequence) -> bool:
        """Whether a prompt goes on as another one, which is ahead."""
        assert member.text is not None
        assert other.text is not None
        assert member.slot is not None
        assert other.slot is not None
        known, ahead = len(member.slot.tokens), len(other.slot.tokens)
        if other is member or (member.tenant != other.tenant and not self._sharing):
            return False
        if (ahead, other.number) <= (known, member.number):
            return False
        end = known + _IN_COMMON
        return len(member.text.tokens) > end and member.text.tokens[:end] == other.text.tokens[:end]


def is_awaited(
    members: Iterable[Sequence], now: float, priority: int = _LOWEST, seconds: float = _MOMENT
) -> bool:
    """Whether a guest of at least this priority, which has asked for a token within these seconds,
    may want the next one soon."""
    for member in members:
        text = member.text
        if text is None or text.ended or text.computed is not None:
            continue
        if member.priority >= priority and now - member.asked < seconds:
            return True
    return False
