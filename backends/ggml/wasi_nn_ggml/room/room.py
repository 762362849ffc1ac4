"""The decode loops over one model's weights."""

from __future__ import annotations

import atexit
import threading
import weakref
from contextlib import suppress
from typing import NamedTuple

from wasi_nn.backend import Reserve, Schedule
from wasi_nn_ggml.guard.estimates import available, fitting, most_tokens, whole_blocks
from wasi_nn_ggml.llama.model import Model
from wasi_nn_ggml.llama.native_context import threads
from wasi_nn_ggml.reservation import Reservation
from wasi_nn_ggml.room.loop import DecodeLoop
from wasi_nn_ggml.room.sequence import Sequence
from wasi_nn_ggml.room.slots import Slots
from wasi_nn_ggml.settings import ContextSettings, SharedSettings

# Loops without guests that are kept for the next ones.
_IDLE = 1
# How long Python's end waits for a loop, in seconds.
_END_SECONDS = 5.0

_loops: weakref.WeakSet[DecodeLoop] = weakref.WeakSet()


class Place(NamedTuple):
    """A sequence, and the reservation of its share of the memory."""

    sequence: Sequence
    reservation: Reservation


class Room:
    """The loops of a model. They end when nothing refers to the room any more."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._loops: dict[object, DecodeLoop] = {}
        self._lock = threading.Lock()
        weakref.finalize(self, _end, self._loops).atexit = False

    def join(
        self,
        settings: ContextSettings,
        shared: SharedSettings,
        schedule: Schedule,
        reserve: Reserve,
    ) -> Place:
        """A sequence in the loop with these settings. The bytes of its context are counted with
        ``reserve``. Raises ``RuntimeFailure`` if they do not fit, or llama.cpp fails."""
        model = self.model
        n_ctx, size = fitting(model.shape, settings, model.n_ctx_train, shared.kv_memory)
        n_ctx = whole_blocks(n_ctx)
        reservation = Reservation(reserve, size)
        try:
            loop = self._loop(settings, shared, n_ctx)
        except BaseException:
            reservation.release()
            raise
        limit = n_ctx if model.positions is None else min(n_ctx, model.positions)
        sequence = Sequence(loop, schedule, limit, threads(settings))
        loop.join(sequence)
        return Place(sequence, reservation)

    def statistics(self) -> dict[str, float]:
        """The sum of what the loops count."""
        total: dict[str, float] = {}
        for loop in [*self._loops.values()]:
            for name, value in loop.statistics().items():
                total[name] = total.get(name, 0.0) + value
        return total

    def _loop(self, settings: ContextSettings, shared: SharedSettings, n_ctx: int) -> DecodeLoop:
        # Every guest has a limit of its own in it, and its own number of threads.
        default = ContextSettings()
        settings = settings._replace(
            n_ctx=0, n_batch=default.n_batch, n_ubatch=default.n_ubatch, threads=-1,
            threads_batch=-1,
        )  # fmt: skip
        key = settings, shared
        with self._lock:
            loop = self._loops.get(key)
            if loop is None:
                self._end_idle()
                shape = self.model.shape
                budget = shared.kv_memory or max(0, int(available() / 4))
                most = max(n_ctx, most_tokens(shape, settings, budget))
                slots = Slots(self.model, settings, n_ctx)
                loop = self._loops[key] = DecodeLoop(slots, most, shared.prefixes)
                _loops.add(loop)
            loop.joined += 1
        return loop

    def _end_idle(self) -> None:
        idle = [key for key, loop in self._loops.items() if loop.joined == loop.left]
        for key in idle[: max(0, len(idle) - _IDLE)]:
            self._loops.pop(key).end()


def _end(loops: dict[object, DecodeLoop]) -> None:
    for loop in loops.values():
        loop.end()


_rooms: weakref.WeakValueDictionary[int, Room] = weakref.WeakValueDictionary()
_lock = threading.RLock()


def room_of(model: Model) -> Room:
    """The room of a model, one for all graphs."""
    with _lock:
        room = _rooms.get(id(model))
        if room is None or room.model is not model:
            room = _rooms[id(model)] = Room(model)
        return room


def _at_exit() -> None:
    # A thread that computes would use llama.cpp while the process takes it down.
    loops = [*_loops]
    for loop in loops:
        loop.end()
    for loop in loops:
        with suppress(RuntimeError):
            loop.wait(_END_SECONDS)


atexit.register(_at_exit)
