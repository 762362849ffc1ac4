"""Decodes the texts of many guests together: one step after another, in a thread of its own.

A step has the next token of each text that is being written, and parts of prompts: so many tokens
of them that the others hardly notice. The thread alone touches llama.cpp's context and the state of
the texts. Guests' threads send it requests, and wait for results.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from wasi_nn.errors import RuntimeFailure
from wasi_nn.escaping import logger, trace_of
from wasi_nn_ggml.llama.loader import error_log
from wasi_nn_ggml.llama.native_context import ABORTED, NO_ROOM
from wasi_nn_ggml.room.batch import StepBatch
from wasi_nn_ggml.room.grace import Grace
from wasi_nn_ggml.room.growth import Growth
from wasi_nn_ggml.room.planner import Part, Planner, is_awaited
from wasi_nn_ggml.room.sequence import Logits, Sequence, Text
from wasi_nn_ggml.room.slots import Slots

if TYPE_CHECKING:
    from collections.abc import Callable

log = logger("wasi_nn.ggml")

# Without texts for these seconds, the tokens of those who have gone are freed.
_KEEP_SECONDS = 600.0
# Every so many steps are planned in any case.
_PLANNED = 8
# How soon a step is planned again if nobody could have a slot, in seconds.
_AGAIN = 0.002


class DecodeLoop:
    """The texts of one model and one set of settings."""

    def __init__(self, slots: Slots, most: int, sharing: bool) -> None:
        """Starts the thread. ``slots`` may grow to ``most`` tokens. With ``sharing``, tenants know
        each other's beginnings of prompts."""
        self._slots = slots
        #: Those that have something to compute.
        self._active: dict[Sequence, None] = {}
        slots.is_busy = self._is_busy
        self._model = slots.model
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._members: dict[Sequence, None] = {}
        #: Those that wait until another one needs less room.
        self._parked: dict[Sequence, None] = {}
        self._batch = StepBatch(slots.context.n_batch)
        self._planner = Planner(slots, sharing)
        self._grace = Grace()
        self._growth = Growth(slots, most)
        #: The next step, if it is as the last one.
        self._again: list[Part] = []
        self._step_seconds = 0.0
        self._ended = self._blocked = False
        # What is decoded now, for those who want to abort it.
        self._guard = threading.RLock()
        self._running: list[Sequence] = []
        self._begun = self.steps = self.tokens = 0
        self.queue_seconds = 0.0
        #: How many sequences have come and gone.
        self.joined = self.left = 0
        self._thread = threading.Thread(target=self._run, name="decode loop", daemon=True)
        self._thread.start()

    # For guests' threads

    def join(self, sequence: Sequence) -> None:
        """Add a sequence, which has been counted in ``joined``."""
        self._inbox.put(lambda: self._join(sequence))

    def leave(self, sequence: Sequence) -> None:
        """Remove a sequence."""
        self._inbox.put(lambda: self._leave(sequence))

    def begin(self, sequence: Sequence, text: Text) -> None:
        """Read a text, in place of the sequence's present one."""
        text.waits_since = time.perf_counter()
        self._send(sequence, lambda: self._begin(sequence, text))
        if self._ended:
            text.results.put(RuntimeFailure("the model is being unloaded"))

    def resume(self, sequence: Sequence, text: Text) -> None:
        """Go on with a text that was paused."""
        self._send(sequence, lambda: self._resume(sequence, text))

    def chosen(self, sequence: Sequence, text: Text, token: int) -> None:
        """Go on with a text after its guest has chosen a token."""
        self._send(sequence, lambda: self._chosen(sequence, text, token))

    def abandon(self, sequence: Sequence, text: Text) -> None:
        """Compute no more of a text."""
        self._inbox.put(lambda: self._abandon(sequence, text))
        with self._guard:
            if self._running == [sequence]:
                self._slots.context.stop()

    def end(self) -> None:
        """Fail what is under way, and end the thread, which frees the context. Callable from any
        thread, and while Python collects garbage."""
        self._ended = True
        self._inbox.put(lambda: None)

    def wait(self, seconds: float) -> None:
        """Abort the present step, and wait until the thread has ended."""
        self._slots.context.stop()
        self._thread.join(seconds)

    def statistics(self) -> dict[str, float]:
        """What the loop has done, and has at this moment."""
        return {
            "sequences": float(len(self._members)),
            "steps": float(self.steps),
            "step_tokens": float(self.tokens),
            "queue_seconds": self.queue_seconds,
            "kv_cells": float(self._slots.context.n_ctx),
            "kv_cells_used": float(self._slots.n_cells),
            "prefix_hits": float(self._slots.hits),
        }

    def _send(self, sequence: Sequence, request: Callable[[], None]) -> None:
        self._inbox.put(request)
        running = self._running
        if running and running[0].priority < sequence.priority:
            with self._guard:
                if self._running and self._running[0].priority < sequence.priority:
                    self._slots.context.stop()

    # The thread

    def _run(self) -> None:
        while not self._ended:
            try:
                if not (self._again and self._inbox.empty()):
                    self._receive()
                    self._again = self._plan()
                step, self._again = self._again, []
                if step and not self._ended:
                    self._step(step)
            except Exception as error:
                log.error("the decode loop failed\n  %s", trace_of(error))
                self._fail_all(f"the decode loop failed: {type(error).__name__}: {error}")
        self._fail_all("the model is being unloaded")
        self._growth.end()
        self._slots.context.close()

    def _plan(self) -> list[Part]:
        if self._growth.is_ready:
            self._grow()
        now, size = time.perf_counter(), self._batch.size
        step = self._planner.plan(self._active, self._parked, self._members, now, size)
        self._growth.foresee(self._active)
        self._blocked = not step
        if not step and not is_awaited(self._members, now):
            self._parked.clear()
        return step

    def _receive(self) -> None:
        """Do what was requested. Waits if there is nothing to compute."""
        with suppress(Empty):
            while self._active and (left := self._grace.left(time.perf_counter())) > 0:
                self._inbox.get(timeout=left)()
        if (self._blocked or not self._active) and self._inbox.empty():
            self._wait()
        while not self._inbox.empty():
            self._inbox.get()()

    def _wait(self) -> None:
        patience = _KEEP_SECONDS
        if self._active:
            patience = min(member.due for member in self._active) - time.perf_counter()
            patience = patience if patience > 0 else _AGAIN
        with suppress(Empty):
            self._inbox.get(timeout=patience)()
            return
        if not self._active:
            self._slots.forget_retired()

    def _join(self, sequence: Sequence) -> None:
        self._members[sequence] = None
        self._growth.reserved += sequence.n_ctx

    def _leave(self, sequence: Sequence) -> None:
        if sequence in self._members:
            del self._members[sequence]
            self._growth.reserved -= sequence.n_ctx
            self.left += 1
            sequence.text = None
            self._rest(sequence)
            self._slots.retire(sequence)
            if not any(member.tenant == sequence.tenant for member in self._members):
                self._planner.forget(sequence.tenant)

    def _begin(self, sequence: Sequence, text: Text) -> None:
        if sequence not in self._members:
            return
        self._grace.forget(sequence)
        sequence.text = text
        sequence.placed = False
        self._begun += 1
        sequence.number = -self._begun
        self._active[sequence] = None
        try:
            if text.fresh:
                text.sampler.reset()
        except RuntimeFailure as error:
            self._fail(sequence, error)

    def _resume(self, sequence: Sequence, text: Text) -> None:
        if sequence.text is text and not text.ended:
            self._active[sequence] = None

    def _chosen(self, sequence: Sequence, text: Text, token: int) -> None:
        if sequence.text is text:
            self._grace.answered(sequence, time.perf_counter())
            self._active[sequence] = None
            self._deliver(sequence, text, token)

    def _abandon(self, sequence: Sequence, text: Text) -> None:
        if sequence.text is text:
            sequence.text = None
            self._rest(sequence)

    def _rest(self, sequence: Sequence) -> None:
        """The sequence has nothing to compute for now."""
        self._grace.forget(sequence)
        self._active.pop(sequence, None)
        self._parked.clear()

    # Steps

    def _step(self, step: list[Part]) -> None:
        started = time.perf_counter()
        members = [member for member, _ in step]
        batch, context = self._batch, self._slots.context
        context.set_threads(*map(max, zip(*[member.threads for member in members], strict=True)))
        batch.fill(step)
        with self._guard:
            self._running = members
        for member in members:
            member.stepping(True)
        error_log.lines.clear()
        status = context.decode(batch.native)
        for member in members:
            member.stepping(False)
        with self._guard:
            self._running = []
            if not self._ended:
                context.go_on()
        if status:
            self._failed(step, status)
            return
        self._succeeded(step, started)

    def _succeeded(self, step: list[Part], started: float) -> None:
        self.steps += 1
        at, writing, ready = 0, 0, []
        for member, part in step:
            slot, text = member.slot, member.text
            assert slot is not None
            assert text is not None
            done = len(slot.tokens)
            slot.tokens.extend(text.tokens[done : done + part])
            slot.used = self.steps
            member.alone = False
            at += part
            if text.waits_since:
                self.queue_seconds += started - text.waits_since
                text.waits_since = 0.0
            if text.computed is not None:
                text.computed += part
            if not member.pending:
                ready.append((member, text, at - 1))
                writing += part == 1
        self.tokens += at
        # A guest with a grammar chooses meanwhile.
        ready.sort(key=lambda each: not each[1].sampler.guided)
        for member, text, index in ready:
            try:
                self._continue(member, text, index)
            except RuntimeFailure as error:
                self._fail(member, error)
        steady = len(step) == writing == len(self._active) == len(self._members)
        if steady and self.steps % _PLANNED and not any(member.due for member, _ in step):
            self._again = step
        self._step_seconds = time.perf_counter() - started
        self._planner.pace.note(self._step_seconds, writing, at - writing)

    def _continue(self, sequence: Sequence, text: Text, index: int) -> None:
        """All tokens of a text are decoded: choose the next one."""
        native, context = self._model.native, self._slots.context.pointer
        if text.computed is not None:
            if not native.llama_get_logits_ith(context, index):
                raise RuntimeFailure("the model gives no logits: it is for embeddings")
            computed, text.computed = min(text.computed, text.n_prompt), None
            text.results.put(computed)
        if not text.may_go_on:
            self._pause(sequence, text)
        elif text.sampler.guided:
            self._active.pop(sequence, None)
            self._grace.asked(sequence, time.perf_counter(), self._step_seconds)
            text.results.put(Logits(text.sampler.row(context, index)))
        else:
            token = text.sampler.sample(context, index)
            text.group.append(token)
            self._deliver(sequence, text, token)

    def _deliver(self, sequence: Sequence, text: Text, token: int) -> None:
        """A token was chosen: go on, if there is more to compute now."""
        text.produced += 1
        text.tokens.append(token)
        if sequence.tokens_per_second > 0:
            sequence.due = max(sequence.due, time.perf_counter()) + 1 / sequence.tokens_per_second
        text.ended = (text.ends and self._model.is_end(token)) or len(text.tokens) > sequence.n_ctx
        waits = not text.may_go_on
        if text.ended or waits or text.produced == 1 or len(text.group) >= text.at_once:
            text.flush()
        if text.ended:
            self._rest(sequence)
        elif waits:
            self._pause(sequence, text)

    def _pause(self, sequence: Sequence, text: Text) -> None:
        """Wait until the guest has taken a token. It looks at ``paused`` after that, and this
        thread looks again after it has set it, so that one of them sees the other."""
        text.paused = True
        if text.may_go_on:
            text.paused = False
        else:
            # (Those that wait for room go on waiting: this text comes back soon.)
            self._active.pop(sequence, None)

    # Failures

    def _failed(self, step: list[Part], status: int) -> None:
        for member, _ in step:
            assert member.slot is not None
            self._slots.roll_back(member.slot)
        if status == ABORTED:
            return
        if status == NO_ROOM:
            if self._make_room([member for member, _ in step]):
                return
            reason = f"the memory for texts of all guests is full ({self._slots.context.n_ctx})"
        else:
            tokens, why = self._batch.native.n_tokens, error_log.take("it gives no reason")
            reason = f"llama.cpp could not decode {tokens} tokens ({status}): {why}"
        if len(step) > 1:
            # Find out whose fault it is.
            for member, _ in step:
                member.alone = True
            return
        self._fail(step[0][0], RuntimeFailure(reason))

    def _make_room(self, members: list[Sequence]) -> bool:
        """Make room for a step. Returns whether it may fit now."""
        if self._grow() or self._slots.give_up_one():
            return True
        # All are in use: the one whose prompt was read last waits.
        rivals = [each for each in self._members if each.slot is not None and self._is_busy(each)]
        if len(rivals) < 2:
            return False
        last = min(members, key=lambda member: (member.priority, -member.served))
        assert last.slot is not None
        self._slots.forget(last.slot)
        self._parked[last] = None
        return True

    def _grow(self) -> bool:
        """Make the memory larger. Returns whether it could be."""
        grown = self._growth.finish()
        if grown:
            self._batch = StepBatch(self._slots.context.n_batch)
        return grown

    def _is_busy(self, sequence: Sequence) -> bool:
        return sequence in self._active or is_awaited((sequence,), time.perf_counter())

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        text, sequence.text = sequence.text, None
        self._rest(sequence)
        if sequence.slot is not None:
            self._slots.forget(sequence.slot)
        if text is not None:
            text.flush(error)

    def _fail_all(self, reason: str) -> None:
        for member in [*self._members]:
            if member.text is not None:
                member.text.flush(RuntimeFailure(reason))
                member.text = None
        self._active.clear()
        self._parked.clear()
