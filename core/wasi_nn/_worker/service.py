"""The worker's side: a backend that is driven by messages."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from wasi_nn._models.checks import (
    Blame,
    checked_context,
    checked_graph,
    checked_statistics,
    counted,
)
from wasi_nn._worker import asking, description
from wasi_nn._worker import memory as shared_memory
from wasi_nn._worker.messages import (
    CANCEL,
    CHANNEL,
    CLOSE,
    DROP,
    ERROR,
    LOAD,
    OK,
    OPEN,
    STATISTICS,
    STEPS,
    Channel,
    as_json,
    from_json,
)
from wasi_nn._worker.served import Served
from wasi_nn._worker.steps import Mark
from wasi_nn.backend import Backend, Graph, LoadOptions, Schedule
from wasi_nn.backend.files import hold
from wasi_nn.escaping import logger, trace_of
from wasi_nn.types import ExecutionTarget

log = logger("wasi_nn")

# The host may send as much as it likes.
_MAX_REQUEST = 1 << 32


class Service:
    """Answers the host until the host has gone."""

    def __init__(self, backend: Backend, control: Any) -> None:
        self._backend = backend
        self._blame = Blame(backend)
        self._control = Channel(control, _MAX_REQUEST)
        self._graphs: dict[int, Graph] = {}
        self._dropped: set[int] = set()
        self._contexts: dict[int, Served] = {}
        #: How many contexts each graph has.
        self._users: Counter[int] = Counter()
        self._memories: dict[int, object] = {}
        self._steps: memoryview | None = None
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
        if kind == STEPS:
            try:
                self._steps = shared_memory.map_shared(fds[0])
            finally:
                os.close(fds[0])
        elif kind == CHANNEL:
            # Without memory for a thread, or a descriptor, the host sees a closed channel.
            channel = Channel(socket.socket(fileno=fds[0]), _MAX_REQUEST)
            threading.Thread(target=self._serve, args=(channel,), daemon=True).start()
        elif kind == CANCEL:
            served = self._contexts.get(subject)
            if served is not None:
                served.context.cancel()
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
                    with self._blame:
                        answer = self._handle(kind, subject, body, fds)
                except BaseException as error:
                    said = {"error": type(error).__name__, "text": str(error)}
                    channel.send(ERROR, subject, as_json(said))
                else:
                    self._answer(channel, kind, subject, answer)
                finally:
                    for descriptor in fds:
                        os.close(descriptor)

    def _handle(self, kind: int, subject: int, body: memoryview, fds: list[int]) -> bytes:
        if kind == LOAD:
            return self._load(subject, body, fds)
        if kind == OPEN:
            return self._open(subject, body)
        if kind == CLOSE:
            self._close(subject)
            return b""
        if kind == STATISTICS:
            return as_json(checked_statistics(self._graphs[subject].statistics()))
        return self._contexts[subject].handle(kind, body, fds)

    def _answer(self, channel: Channel, kind: int, subject: int, answer: bytes) -> None:
        try:
            channel.send(OK, subject, answer)
        except EOFError:
            # The host has given up, and will never ask for this.
            if kind == LOAD:
                self._dropped.add(subject)
                self._free(subject)
            elif kind == OPEN:
                self._close(subject)
            raise

    # Graphs

    def _load(self, number: int, body: memoryview, fds: list[int]) -> bytes:
        wanted = from_json(body)
        lengths = [one for one in wanted["builders"] if isinstance(one, int)]
        views = shared_memory.unpack(fds[0], lengths) if lengths else []
        # (The file of an empty model has a byte.)
        if len(views) == 1 and len(views[0]):
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
        graph = checked_graph(self._backend, builders, options)
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

    def _open(self, number: int, body: memoryview) -> bytes:
        wanted = from_json(body)
        graph = wanted["graph"]
        mark = Mark(self._steps, wanted["step"], wanted["alone"])
        mark.request(True)
        try:
            reserve = asking.Account().reserve
            context = checked_context(self._graphs[graph].init_execution_context(reserve))
            context.stdout = asking.write_out
            context.schedule = Schedule(*wanted["schedule"])
            context.stepping = mark
            generation = counted(self._backend, context)
        finally:
            mark.request(False)
        self._users[graph] += 1
        served = self._contexts[number] = Served(self._backend, context, graph, mark)
        told = {"streams": served.streams, "journals": served.journals, "generation": generation}
        return as_json(told)

    def _close(self, number: int) -> None:
        served = self._contexts[number]
        try:
            served.close()
        finally:
            del self._contexts[number]
            self._users[served.graph] -= 1
            self._free(served.graph)
