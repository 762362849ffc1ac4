"""Execution contexts that live in a worker."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING

from wasi_nn._worker import memory as shared_memory
from wasi_nn._worker.description import generation
from wasi_nn._worker.endings import CANCEL_SECONDS
from wasi_nn._worker.journal import Input
from wasi_nn._worker.messages import (
    COMPUTE,
    COUNT,
    FINISH,
    GENERATION,
    GET,
    GET_SINGLE,
    I64,
    INPUT,
    SHARED,
    SINGLE,
    as_json,
    unpack_outputs,
)
from wasi_nn._worker.process import GARBLED
from wasi_nn._worker.seat import Seat
from wasi_nn.backend import (
    ExecutionContext,
    Generation,
    Reserve,
    StreamingContext,
    position,
)
from wasi_nn.backend.shared import Stopped
from wasi_nn.errors import InvalidArgument, NnError
from wasi_nn.types import Tensor, TensorType

if TYPE_CHECKING:
    from wasi_nn._worker.remote import RemoteGraph

# How long a worker may take to say what it has counted, in seconds.
_COUNT_SECONDS = 10.0
_MAX_WANTED = 64


class _Wanted:
    """The outputs that the host has asked for, by key. The worker sends them with the answer to
    each computation."""

    def __init__(self, kind: int) -> None:
        self.kind = kind
        self.numbers: dict[int | str, int] = {}
        self.memory: dict[int, memoryview] = {}
        self.count = count()
        #: The numbers of questions that the worker may still answer, and must forget.
        self.obsolete: list[int] = []
        #: The outputs of the last computation.
        self.known: dict[int, Tensor] = {}


class RemoteContext(ExecutionContext):
    """A context in a worker.

    An input that looks like the last one of its key is kept here until the computation, in shared
    memory if it is large. So a cycle of set_input, compute and get_output is one round trip."""

    def __init__(self, graph: RemoteGraph, seat: Seat, reserve: Reserve, stopped: Stopped) -> None:
        self._graph = graph
        self._seat = seat
        # (If contexts run one at a time, the next one must not start: ``cancel`` ends the worker.)
        self._stopped = stopped if graph.concurrent_contexts else None
        self._reserve = reserve
        self._slots: dict[int, Input] = {}
        #: The inputs that the worker does not have yet.
        self._dirty: dict[int, bytes | None] = {}
        self._outputs = _Wanted(GET)
        #: Whether the worker has counted more: a computation has failed.
        self._stale = False
        self._calling = False

    def set_input(self, key: int | str, tensor: Tensor) -> None:
        number: int | None = key if type(key) is int and key in self._slots else None
        if number is None:
            try:
                number = position(key, self._graph.inputs, "input")
            except InvalidArgument:
                if not isinstance(key, (int, str)):
                    raise
                # The backend may know more than it describes, and says what is wrong.
        slot = None if number is None else self._slots.get(number)
        kind, dims, data = tensor
        known = slot is not None and slot.type is kind and slot.dims == dims
        if number is None or slot is None or not known or self._graph.untyped_bytes:
            self._set(key, tensor, number)
            return
        self._seat.computed = False
        if isinstance(slot.data, bytes):
            slot.data = self._dirty[number] = bytes(data)
        else:
            slot.data[:] = data
            self._dirty[number] = None

    def input_memory(
        self, key: int | str, kind: TensorType, dims: tuple[int, ...]
    ) -> memoryview | None:
        slot = self._slots.get(key) if isinstance(key, int) else None
        if slot is None or slot.type is not kind or slot.dims != dims:
            return None
        if isinstance(slot.data, bytes):
            return None
        self._seat.computed = False
        self._dirty[int(key)] = None
        return slot.data

    def _set(self, key: int | str, tensor: Tensor, number: int | None) -> None:
        # Until the answer has come, nobody knows which tensor is set.
        earlier = None if number is None else self._slots.pop(number, None)
        waiting = number in self._dirty
        data = None if number is None else self._dirty.pop(number, None)
        given = Input(key, number, tensor)
        self._calling = True
        try:
            self._seat.set(given, self._stopped)
        except NnError:
            if earlier is not None and number is not None:
                self._slots[number] = earlier
                if waiting:
                    self._dirty[number] = data
            raise
        finally:
            self._calling = False
        if number is not None:
            self._slots[number] = given

    def compute(self) -> None:
        self._compute(COMPUTE, self._outputs)
        self._seat.computed = True

    def get_output(self, key: int | str) -> Tensor:
        return self._get(self._outputs, key)

    def _compute(self, kind: int, wanted: _Wanted) -> None:
        parts = [self._allowance()]
        for number, data in self._dirty.items():
            parts.append(INPUT.pack(number, SHARED if data is None else len(data)))
            if data:
                parts.append(data)
        # After a failure they are sent again: the worker may not have set all of them.
        self._run(kind, b"".join(parts), wanted)
        self._dirty.clear()

    def _run(self, kind: int, body: bytes, wanted: _Wanted) -> None:
        self._forget()
        self._stale = True
        answer = self._call(kind, body)
        self._stale = False
        try:
            self._read(answer, wanted)
        except GARBLED:
            raise self._seat.worker.nonsense() from None

    def _allowance(self) -> bytes:
        """The beginning of a request to compute."""
        return b""

    def _forget(self) -> None:
        """Forget the outputs of earlier computations."""
        self._outputs.known.clear()

    def _read(self, answer: memoryview, wanted: _Wanted) -> None:
        at = 1
        if answer[0]:
            numbers = GENERATION.unpack_from(answer, at)
            at += GENERATION.size
            self._seat.journal.count(generation(numbers))
        for number, output in unpack_outputs(answer[at:], wanted.memory.get):
            if isinstance(output, Tensor):
                wanted.known[number] = output

    def _get(self, wanted: _Wanted, key: int | str) -> Tensor:
        if not isinstance(key, (int, str)):
            key = position(key, self._graph.outputs, "output")
        number = wanted.numbers.get(key)
        if number is not None:
            known = wanted.known.get(number)
            if known is not None:
                return known
            # Its memory is too small, or the computation did not give it.
            wanted.obsolete.append(number)
            del wanted.numbers[key]
        output = self._ask(wanted, key)
        if isinstance(output, int):
            output = self._ask(wanted, key, output)
        if isinstance(output, int):
            raise self._seat.worker.nonsense()
        return output

    def _ask(self, wanted: _Wanted, key: int | str, size: int = 0) -> Tensor | int:
        """Ask for an output, with memory for ``size`` bytes. Each question has a number of its own,
        so that both sides mean the same memory by it, even if this is interrupted anywhere."""
        number = next(wanted.count)
        obsolete = list(wanted.obsolete)
        wanted.obsolete.append(number)
        keep = len(wanted.numbers) < _MAX_WANTED
        said = {"number": number, "key": key, "keep": keep, "forget": obsolete}
        fds = [self._make(wanted, number, size)] if size else []
        try:
            answer = self._call(wanted.kind, as_json(said), fds)
        finally:
            for descriptor in fds:
                os.close(descriptor)

        def read() -> Tensor | int:
            ((about, output),) = unpack_outputs(answer, wanted.memory.get)
            if about != number:
                raise ValueError("an output that nobody has asked for")
            return output

        output: Tensor | int = self._seat.worker.parsed(read)
        for earlier in obsolete:
            memory = wanted.memory.pop(earlier, None)
            if memory is not None:
                self._reserve(-len(memory))
        wanted.obsolete = [number]
        if isinstance(output, Tensor) and keep:
            wanted.known[number] = output
            wanted.numbers[key] = number
            wanted.obsolete = []
        return output

    def _make(self, wanted: _Wanted, number: int, size: int) -> int:
        """Make memory for an output, and return its descriptor. It counts against the guest's
        limit: the worker chooses its size, and could fill it."""
        self._reserve(size)
        try:
            descriptor = shared_memory.make(size)
            try:
                wanted.memory[number] = shared_memory.map_shared(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
        except BaseException:
            self._reserve(-size)
            raise
        return descriptor

    def cancel(self) -> None:
        self._seat.cancel()
        if self._calling:
            timer = threading.Timer(CANCEL_SECONDS, self._give_up)
            timer.daemon = True
            timer.start()

    def _give_up(self) -> None:
        if self._calling:
            self._seat.worker.kill()

    def generation(self) -> Generation | None:
        if self._stale and not self._calling and not self._seat.given_up:
            self._stale = False
            # If it has ended, what it told last holds.
            answer = self._seat.ask_last(COUNT, _COUNT_SECONDS)
            if answer is not None:
                self._seat.worker.parsed(lambda: self._read(answer, self._outputs))
        return self._seat.journal.generation

    def close(self) -> None:
        self._slots.clear()
        self._outputs = _Wanted(GET)
        self._seat.close()

    def _call(self, kind: int, body: bytes, fds: Sequence[int] = ()) -> memoryview:
        self._calling = True
        try:
            return self._seat.call(kind, body, fds, None, self.stdout)
        finally:
            self._calling = False


class RemoteStream(RemoteContext, StreamingContext):
    """A context in a worker that also gives its output in pieces."""

    def __init__(self, graph: RemoteGraph, seat: Seat, reserve: Reserve, stopped: Stopped) -> None:
        super().__init__(graph, seat, reserve, stopped)
        self._pieces = _Wanted(GET_SINGLE)
        self._tokens = -1

    def allow_tokens(self, most: int) -> None:
        self._tokens = most

    def _allowance(self) -> bytes:
        return I64.pack(self._tokens)

    def _forget(self) -> None:
        super()._forget()
        self._pieces.known.clear()

    def compute_single(self) -> None:
        self._compute(SINGLE, self._pieces)

    def get_output_single(self, key: int | str) -> Tensor:
        return self._get(self._pieces, key)

    def fini_single(self) -> None:
        self._run(FINISH, b"", self._pieces)
