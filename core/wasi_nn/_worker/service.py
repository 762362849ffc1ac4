"""The worker's side: a backend that is driven by messages."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from wasi_nn._models.checks import Blame, checked_context, counted
from wasi_nn._worker import asking, description
from wasi_nn._worker import memory as shared_memory
from wasi_nn._worker.messages import (
    CANCEL,
    CHANNEL,
    CLOSE,
    COMPUTE,
    COUNT,
    DROP,
    ERROR,
    FINISH,
    GENERATION,
    GET,
    GET_SINGLE,
    I64,
    INPUT,
    LOAD,
    OK,
    OPEN,
    SET,
    SHARED,
    SINGLE,
    TURN,
    U32,
    Channel,
    OutputMessage,
    as_json,
    from_json,
)
from wasi_nn.backend import (
    Backend,
    ExecutionContext,
    Graph,
    LoadOptions,
    StreamingContext,
)
from wasi_nn.backend.files import hold
from wasi_nn.errors import InvalidArgument, RuntimeFailure, WasiNnError
from wasi_nn.escaping import logger, trace_of
from wasi_nn.types import ExecutionTarget, Tensor, TensorType

log = logger("wasi_nn")

_TYPES = {str(kind): kind for kind in TensorType}
# The host may send as much as it likes.
_MAX_REQUEST = 1 << 32


class _Slot:
    """An input that was set before: what it looks like, and whether the library reads it in
    place: from shared memory, or from memory that the bytes in messages are copied to."""

    def __init__(self, key: int | str, tensor: Tensor, in_place: bool) -> None:
        self.key, self.tensor, self.in_place = key, tensor, in_place


#: The key of an output, and what the host is told of it.
_Wanted = dict[int, tuple[int | str, OutputMessage]]


class _Opened:
    """An execution context of the host's."""

    def __init__(self, context: ExecutionContext, graph: int) -> None:
        self.context = context
        self.graph = graph
        self.streams = isinstance(context, StreamingContext)
        self.counts = type(context).generation is not ExecutionContext.generation
        # The host may have given up on a call that still runs.
        self.lock = threading.Lock()
        #: The latest call.
        self.turn = 0
        self.slots: dict[int, _Slot] = {}
        #: The outputs that the host has asked for, by its numbers of them.
        self.wanted: _Wanted = {}
        self.wanted_pieces: _Wanted = {}


class Service:
    """Answers the host until the host has gone."""

    def __init__(self, backend: Backend, control: Any) -> None:
        self._backend = backend
        self._control = Channel(control, _MAX_REQUEST)
        self._graphs: dict[int, Graph] = {}
        self._dropped: set[int] = set()
        self._contexts: dict[int, _Opened] = {}
        #: How many contexts each graph has.
        self._users: Counter[int] = Counter()
        self._memories: dict[int, object] = {}
        self._handlers: dict[int, Callable[[int, memoryview, list[int]], bytes]] = {
            LOAD: self._load,
            OPEN: self._open,
            SET: self._set,
            COMPUTE: self._compute,
            SINGLE: self._single,
            FINISH: self._finish,
            GET: self._get,
            GET_SINGLE: self._get_single,
            COUNT: self._count,
            CLOSE: self._close,
        }
        logging.getLogger().handlers = [asking.Forward()]
        # The host drops what it does not log. A model's prints are of this level.
        logging.getLogger("wasi_nn").setLevel(logging.INFO)

    def run(self) -> None:
        """Serve; returns when the host has gone."""
        with suppress(EOFError):
            while True:
                fds: list[int] = []
                kind, subject, _ = self._control.receive(fds)
                try:
                    self._control_one(kind, subject, fds)
                except Exception as error:
                    # It concerns one channel, context or graph.
                    log.error("%s failed\n  %s", self._backend.title, trace_of(error))

    def _control_one(self, kind: int, subject: int, fds: list[int]) -> None:
        if kind == CHANNEL:
            # Without memory for a thread, or a descriptor, the host sees a closed channel.
            channel = Channel(socket.socket(fileno=fds[0]), _MAX_REQUEST)
            threading.Thread(target=self._serve, args=(channel,), daemon=True).start()
        elif kind == CANCEL:
            opened = self._contexts.get(subject)
            if opened is not None:
                opened.context.cancel()
        elif kind == DROP:
            self._dropped.add(subject)
            self._free(subject)

    def _serve(self, channel: Channel) -> None:
        asking.here.channel = channel
        with suppress(EOFError):
            while True:
                fds: list[int] = []
                kind, subject, body = channel.receive(fds)
                asking.here.subject = subject
                try:
                    answer = self._handle(kind, subject, body, fds)
                except EOFError:
                    raise
                except BaseException as error:
                    channel.send(ERROR, subject, as_json(self._explained(error)))
                else:
                    self._answer(channel, kind, subject, answer)
                finally:
                    for descriptor in fds:
                        os.close(descriptor)

    def _handle(self, kind: int, subject: int, body: memoryview, fds: list[int]) -> bytes:
        handler = self._handlers[kind]
        if kind in (LOAD, OPEN):
            return handler(subject, body, fds)
        opened = self._contexts[subject]
        (turn,) = TURN.unpack_from(body)
        with opened.lock:
            if turn <= opened.turn:
                raise InvalidArgument("the host has given up on this call, and made another one")
            opened.turn = turn
            return handler(subject, body[TURN.size :], fds)

    def _answer(self, channel: Channel, kind: int, subject: int, answer: bytes) -> None:
        try:
            channel.send(OK, subject, answer)
        except EOFError:
            # The host has given up, and will never ask for this.
            if kind == LOAD:
                self._dropped.add(subject)
                self._free(subject)
            elif kind == OPEN:
                self._close(subject, memoryview(b""), [])
            raise

    def _explained(self, error: BaseException) -> dict[str, str]:
        if isinstance(error, WasiNnError):
            return {"error": type(error).__name__, "text": str(error)}
        log.error("%s failed\n  %s", self._backend.title, trace_of(error))
        text = f"{self._backend.title} failed: {type(error).__name__}: {error}"
        return {"error": RuntimeFailure.__name__, "text": text}

    # Graphs

    def _load(self, number: int, body: memoryview, fds: list[int]) -> bytes:
        wanted = from_json(body)
        lengths = [one for one in wanted["builders"] if isinstance(one, int)]
        views = shared_memory.unpack(fds[0], lengths) if lengths else []
        if len(views) == 1:
            hold(views[0], fds[0])
        parts = iter(views)
        builders = [
            Path(os.fsdecode(bytes.fromhex(one))) if isinstance(one, str) else next(parts)
            for one in wanted["builders"]
        ]
        options = LoadOptions(
            wanted["encoding"],
            ExecutionTarget(wanted["target"]),
            wanted["config"],
            wanted["allow_fallback"],
        )
        try:
            graph = self._backend.load(builders, options)
        except WasiNnError:
            raise
        except BaseException as error:
            title = self._backend.title
            log.error("%s failed to load a model\n  %s", title, trace_of(error))
            raise RuntimeFailure(
                f"{title} could not load the model: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(graph, Graph):
            raise RuntimeFailure(
                f"{self._backend.title}: load gave {type(graph).__name__}, and must give a Graph"
            )
        with Blame(self._backend):
            described = description.write(graph, self._memory(graph.shared_memory))
        self._graphs[number] = graph
        return described

    def _memory(self, memory: object | None) -> int | None:
        """A number for what takes a graph's memory: the same one for each graph that shares it."""
        if memory is None:
            return None
        # It is kept, so that no other object gets its identity.
        self._memories[id(memory)] = memory
        return id(memory)

    def _free(self, number: int) -> None:
        """Close a graph that the host has dropped, once no context uses it."""
        if number in self._dropped and not self._users[number]:
            self._dropped.discard(number)
            graph = self._graphs.pop(number, None)
            if graph is not None:
                memory = graph.shared_memory
                graph.close()
                del graph
                shared = any(g.shared_memory is memory for g in list(self._graphs.values()))
                if memory is not None and not shared:
                    self._memories.pop(id(memory), None)

    # Contexts

    def _open(self, number: int, body: memoryview, fds: list[int]) -> bytes:
        (graph,) = U32.unpack(body)

        with Blame(self._backend):
            context = checked_context(self._graphs[graph].init_execution_context(asking.reserve))
        context.stdout = asking.write_out
        self._users[graph] += 1
        self._contexts[number] = _Opened(context, graph)
        return as_json(
            {
                "streams": self._contexts[number].streams,
                "generation": counted(self._backend, context),
            }
        )

    def _set(self, number: int, body: memoryview, fds: list[int]) -> bytes:
        (length,) = U32.unpack_from(body)
        wanted = from_json(body[4 : 4 + length])
        size = wanted["size"]
        opened, key = self._contexts[number], wanted["key"]
        again = wanted["slot"] is not None
        if fds:
            data = shared_memory.map_shared(fds[0])[:size]
        else:
            data = body[4 + length :]
            # Later ones come in messages too.
            data = memoryview(bytearray(data)) if again else data
        tensor = Tensor(_TYPES[wanted["type"]], tuple(wanted["dims"]), data)
        in_place = again and size > 0 and opened.context.read_from(key, tensor)
        if not in_place:
            opened.context.set_input(key, tensor)
        if again:
            opened.slots[wanted["slot"]] = _Slot(key, tensor, in_place)
        return b""

    def _set_again(self, opened: _Opened, body: memoryview) -> None:
        """Set the inputs that look as they did before."""
        at = 0
        while at < len(body):
            number, length = INPUT.unpack_from(body, at)
            at += INPUT.size
            slot = opened.slots[number]
            if length != SHARED:
                slot.tensor.data[:] = body[at : at + length]
                at += length
            if not slot.in_place:
                opened.context.set_input(slot.key, slot.tensor)

    def _compute(self, number: int, body: memoryview, fds: list[int]) -> bytes:
        opened = self._contexts[number]
        self._set_again(opened, _allowed(opened, body))
        opened.context.compute()
        return self._done(opened, opened.wanted, opened.context.get_output)

    def _single(self, number: int, body: memoryview, fds: list[int]) -> bytes:
        opened = self._contexts[number]
        self._set_again(opened, _allowed(opened, body))
        stream = _stream(opened)
        stream.compute_single()
        return self._done(opened, opened.wanted_pieces, stream.get_output_single)

    def _finish(self, number: int, body: memoryview, fds: list[int]) -> bytes:
        opened = self._contexts[number]
        _stream(opened).fini_single()
        return self._done(opened, {}, opened.context.get_output)

    def _count(self, number: int, body: memoryview, fds: list[int]) -> bytes:
        opened = self._contexts[number]
        return self._done(opened, {}, opened.context.get_output)

    def _done(
        self,
        opened: _Opened,
        wanted: _Wanted,
        get: Callable[[int | str], Tensor],
    ) -> bytes:
        """The answer to a computation: what the context has generated, and the outputs that the
        host has asked for before."""
        generation = counted(self._backend, opened.context) if opened.counts else None
        answer = b"\0" if generation is None else b"\1" + GENERATION.pack(*generation)
        for key, output in wanted.values():
            try:
                answer += output.pack(get(key))
            except WasiNnError:
                # The host asks again, and learns what is wrong.
                continue
        return answer

    def _get(self, number: int, body: memoryview, fds: list[int]) -> bytes:
        opened = self._contexts[number]
        return _answer(body, fds, opened.wanted, opened.context.get_output)

    def _get_single(self, number: int, body: memoryview, fds: list[int]) -> bytes:
        opened = self._contexts[number]
        return _answer(body, fds, opened.wanted_pieces, _stream(opened).get_output_single)

    def _close(self, number: int, body: memoryview, fds: list[int]) -> bytes:
        opened = self._contexts[number]
        del self._contexts[number]
        try:
            opened.context.close()
        finally:
            self._users[opened.graph] -= 1
            self._free(opened.graph)
        return b""


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


def _allowed(opened: _Opened, body: memoryview) -> memoryview:
    """Tell a context that streams how many tokens it may generate. Returns the rest of the
    request."""
    if not opened.streams:
        return body
    (most,) = I64.unpack_from(body)
    if most >= 0:
        _stream(opened).allow_tokens(most)
    return body[I64.size :]


def _stream(opened: _Opened) -> StreamingContext:
    if not isinstance(opened.context, StreamingContext):
        raise InvalidArgument("the context does not stream")
    return opened.context
