"""An execution context in a worker, as the service calls it for the host."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from wasi_nn._models.checks import checked_journal, counted
from wasi_nn._worker import asking
from wasi_nn._worker import memory as shared_memory
from wasi_nn._worker.messages import (
    COMPUTE,
    COUNT,
    FINISH,
    GENERATION,
    GET,
    GET_SINGLE,
    I64,
    INPUT,
    RESUME,
    SET,
    SHARED,
    SINGLE,
    TURN,
    U32,
    OutputMessage,
    from_json,
)
from wasi_nn._worker.steps import Mark
from wasi_nn.backend import Backend, ExecutionContext, StreamingContext
from wasi_nn.errors import InvalidArgument, WasiNnError
from wasi_nn.types import Tensor, TensorType

_TYPES = {str(kind): kind for kind in TensorType}
# Every turn is below.
_MAX_TURN = 1 << 64


class _Slot:
    """An input that was set before: what it looks like, and whether the library reads it in
    place: from shared memory, or from memory that the bytes in messages are copied to."""

    def __init__(self, key: int | str, tensor: Tensor, in_place: bool) -> None:
        self.key, self.tensor, self.in_place = key, tensor, in_place


#: The key of an output, and what the host is told of it.
_Wanted = dict[int, tuple[int | str, OutputMessage]]


class Served:
    """An execution context, and what the host has said about its inputs and outputs."""

    def __init__(self, backend: Backend, context: ExecutionContext, graph: int, mark: Mark) -> None:
        self._backend = backend
        self.context = context
        #: The number of its graph.
        self.graph = graph
        self._mark = mark
        self.streams = isinstance(context, StreamingContext)
        self._counts = type(context).generation is not ExecutionContext.generation
        # The host may have given up on a call that still runs.
        self._lock = threading.Lock()
        #: Whether the host keeps the text, to go on after this process has died.
        self.journals = (
            mark.shared
            and isinstance(context, StreamingContext)
            and type(context).journal is not StreamingContext.journal
        )
        #: The latest call.
        self._turn = 0
        self._slots: dict[int, _Slot] = {}
        #: The outputs that the host has asked for, by its numbers of them.
        self._wanted: _Wanted = {}
        self._wanted_pieces: _Wanted = {}
        self._handlers: dict[int, Callable[[memoryview, list[int]], bytes]] = {
            SET: self._set,
            COMPUTE: self._compute,
            SINGLE: self._single,
            FINISH: self._finish,
            GET: self._get,
            GET_SINGLE: self._get_single,
            COUNT: self._count,
            RESUME: self._resume,
        }

    def handle(self, kind: int, body: memoryview, fds: list[int]) -> bytes:
        """The answer to a request about the context. Raises what the context raises, and
        ``InvalidArgument`` for a call that the host has given up on."""
        (turn,) = TURN.unpack_from(body)
        with self._lock:
            if turn <= self._turn:
                raise InvalidArgument("the host has given up on this call, and made another one")
            self._turn = turn
            self._mark.request(True)
            try:
                return self._handlers[kind](body[TURN.size :], fds)
            finally:
                self._mark.request(False)
                if self.journals:
                    self._tell_journal()

    def _tell_journal(self) -> None:
        journal = checked_journal(self._stream().journal())
        if journal.data or journal.begins:
            asking.tell_journal(journal)

    def _resume(self, body: memoryview, fds: list[int]) -> bytes:
        self._stream().resume(bytes(body[1:]), bool(body[0]))
        return b""

    def close(self) -> None:
        """Close the context, once no call of it runs."""
        with self._lock:
            self._turn = _MAX_TURN
            self.context.close()

    def _set(self, body: memoryview, fds: list[int]) -> bytes:
        (length,) = U32.unpack_from(body)
        wanted = from_json(body[4 : 4 + length])
        size = wanted["size"]
        key = wanted["key"]
        again = wanted["slot"] is not None
        if fds:
            data = shared_memory.map_shared(fds[0])[:size]
        else:
            data = body[4 + length :]
            # Later ones come in messages too.
            data = memoryview(bytearray(data)) if again else data
        tensor = Tensor(_TYPES[wanted["type"]], tuple(wanted["dims"]), data)
        in_place = again and size > 0 and self.context.read_from(key, tensor)
        if not in_place:
            self.context.set_input(key, tensor)
        if again:
            self._slots[wanted["slot"]] = _Slot(key, tensor, in_place)
        return bytes([bool(self.context.accumulates(key))])

    def _set_again(self, body: memoryview) -> None:
        """Set the inputs that look as they did before."""
        at = 0
        while at < len(body):
            number, length = INPUT.unpack_from(body, at)
            at += INPUT.size
            slot = self._slots[number]
            if length != SHARED:
                slot.tensor.data[:] = body[at : at + length]
                at += length
            if not slot.in_place:
                self.context.set_input(slot.key, slot.tensor)

    def _compute(self, body: memoryview, fds: list[int]) -> bytes:
        self._set_again(self._allowed(body))
        self.context.compute()
        self._mark.computed()
        return self._done(self._wanted, self.context.get_output)

    def _single(self, body: memoryview, fds: list[int]) -> bytes:
        self._set_again(self._allowed(body))
        stream = self._stream()
        stream.compute_single()
        self._mark.computed()
        return self._done(self._wanted_pieces, stream.get_output_single)

    def _finish(self, body: memoryview, fds: list[int]) -> bytes:
        self._stream().fini_single()
        return self._done({}, self.context.get_output)

    def _count(self, body: memoryview, fds: list[int]) -> bytes:
        return self._done({}, self.context.get_output)

    def _done(self, wanted: _Wanted, get: Callable[[int | str], Tensor]) -> bytes:
        """The answer to a computation: what the context has generated, and the outputs that the
        host has asked for before."""
        generation = counted(self._backend, self.context) if self._counts else None
        answer = b"\0" if generation is None else b"\1" + GENERATION.pack(*generation)
        for key, output in wanted.values():
            try:
                answer += output.pack(get(key))
            except WasiNnError:
                # The host asks again, and learns what is wrong.
                continue
        return answer

    def _get(self, body: memoryview, fds: list[int]) -> bytes:
        return _answer(body, fds, self._wanted, self.context.get_output)

    def _get_single(self, body: memoryview, fds: list[int]) -> bytes:
        return _answer(body, fds, self._wanted_pieces, self._stream().get_output_single)

    def _allowed(self, body: memoryview) -> memoryview:
        """Tell a context that streams how many tokens it may generate. Returns the rest of the
        request."""
        if not self.streams:
            return body
        (most,) = I64.unpack_from(body)
        if most >= 0:
            self._stream().allow_tokens(most)
        return body[I64.size :]

    def _stream(self) -> StreamingContext:
        if not isinstance(self.context, StreamingContext):
            raise InvalidArgument("the context does not stream")
        return self.context


def _answer(
    body: memoryview, fds: Sequence[int], wanted: _Wanted, get: Callable[[int | str], Tensor]
) -> bytes:
    asked = from_json(body)
    number, key = asked["number"], asked["key"]
    output = OutputMessage(number, shared_memory.map_shared(fds[0]) if fds else None)
    for obsolete in asked["forget"]:
        wanted.pop(obsolete, None)
    answer = output.pack(get(key))
    if asked["keep"]:
        wanted[number] = key, output
    return answer
