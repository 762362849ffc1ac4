"""Graphs and execution contexts that live in a worker."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from wasi_nn._worker import memory as shared_memory
from wasi_nn._worker.messages import (
    CLOSE,
    COMPUTE,
    COUNT,
    FINISH,
    GENERATION,
    GET,
    GET_SINGLE,
    I64,
    INLINE,
    INPUT,
    OPEN,
    SET,
    SHARED,
    SINGLE,
    U32,
    as_json,
    from_json,
    unpack_outputs,
)
from wasi_nn._worker.process import Memory, Worker
from wasi_nn.backend import (
    Builder,
    ExecutionContext,
    Generation,
    Graph,
    LoadOptions,
    Reserve,
    StreamingContext,
    position,
)
from wasi_nn.backend.shared import Stopped, never
from wasi_nn.errors import InvalidArgument, RuntimeFailure
from wasi_nn.types import Quantization, Tensor, TensorInfo, TensorType

# How long a library of a shared worker may take to end a computation, in seconds.
_CANCEL_SECONDS = 2.0
_MAX_WANTED = 64
_TYPES = {str(kind): kind for kind in TensorType}


class RemoteGraph(Graph):
    """A graph in a worker."""

    inputs: Sequence[TensorInfo]
    outputs: Sequence[TensorInfo]
    concurrent_contexts: bool
    untyped_bytes: bool
    choices: Mapping[str, Sequence[str]]
    shared_memory: object | None

    def __init__(self, worker: Worker, number: int, described: dict[str, Any]) -> None:
        self.worker = worker
        self.number = number
        self.inputs = [_info(**one) for one in described["inputs"]]
        self.outputs = [_info(**one) for one in described["outputs"]]
        self.concurrent_contexts = described["concurrent_contexts"]
        self.untyped_bytes = described["untyped_bytes"]
        self.choices = described["choices"]
        memory = described["memory"]
        self.shared_memory = (
            None if memory is None else worker.memories.setdefault(int(memory), Memory())
        )

    def init_execution_context(self, reserve: Reserve) -> ExecutionContext:
        number = self.worker.number()
        answer = self.worker.call(OPEN, number, U32.pack(self.number), reserve=reserve)

        def context() -> ExecutionContext:
            found = from_json(answer)
            kind = RemoteStream if found["streams"] else RemoteContext
            return kind(self, number, reserve, _generation(found["generation"]))

        opened: ExecutionContext = self.worker.parsed(context)
        return opened

    def close(self) -> None:
        self.worker.drop(self.number)


def load(
    worker: Worker, builders: Sequence[Builder], options: LoadOptions, stopped: Stopped = never
) -> RemoteGraph:
    """Load a graph in a worker. Raises what ``Backend.load`` raises, and ``RuntimeFailure`` if the
    worker ends."""
    number, described = worker.load(builders, options, stopped)
    graph: RemoteGraph = worker.parsed(lambda: RemoteGraph(worker, number, described))
    return graph


class _Slot:
    """An input as the worker last accepted it. ``memory`` is what both processes share; None if the
    bytes travel in messages."""

    __slots__ = ("dims", "memory", "number", "type")

    def __init__(self, number: int, tensor: Tensor, memory: memoryview | None) -> None:
        self.number = number
        self.type, self.dims = tensor.type, tensor.dims
        self.memory = memory


class _Wanted:
    """The outputs that the host has asked for, by key. The worker sends them with the answer to
    each computation."""

    def __init__(self, kind: int) -> None:
        self.kind = kind
        self.numbers: dict[int | str, int] = {}
        self.memory: dict[int, memoryview] = {}
        #: The outputs of the last computation.
        self.known: dict[int, Tensor] = {}


class RemoteContext(ExecutionContext):
    """A context in a worker.

    An input that looks like the last one of its key is kept here until the computation, in shared
    memory if it is large. So a cycle of set_input, compute and get_output is one round trip."""

    def __init__(
        self, graph: RemoteGraph, number: int, reserve: Reserve, generation: Generation | None
    ) -> None:
        self._graph = graph
        self._worker = graph.worker
        self._number = number
        self._reserve = reserve
        self._slots: dict[int | str, _Slot] = {}
        #: The inputs that the worker does not have yet.
        self._dirty: dict[int, bytes | None] = {}
        self._outputs = _Wanted(GET)
        self._generation = generation
        #: Whether the worker has counted more: a computation has failed.
        self._stale = False
        self._calling = False

    def set_input(self, key: int | str, tensor: Tensor) -> None:
        described = True
        if not (type(key) is int and key in self._slots):
            try:
                key = position(key, self._graph.inputs, "input")
            except InvalidArgument:
                # The backend may know more than it describes, and says what is wrong.
                described = False
        slot = self._slots.get(key) if described else None
        kind, dims, data = tensor
        if slot is None or slot.type is not kind or slot.dims != dims or self._graph.untyped_bytes:
            self._set(key, tensor, described)
        elif slot.memory is None:
            self._dirty[slot.number] = bytes(data)
        else:
            slot.memory[:] = data
            self._dirty[slot.number] = None

    def _set(self, key: int | str, tensor: Tensor, described: bool) -> None:
        kind, dims, data = tensor
        size = data.nbytes
        number = key if isinstance(key, int) and described else len(self._slots)
        said = as_json(
            {
                "slot": number,
                "key": key,
                "described": described,
                "type": str(kind),
                "dims": dims,
                "size": size,
            }
        )
        if size <= INLINE:
            self._call(SET, U32.pack(len(said)) + said + bytes(data))
            memory = None
        else:
            # New memory: if the worker refuses this tensor, the earlier one must still be there.
            descriptor = shared_memory.make(size)
            try:
                memory = shared_memory.map_shared(descriptor)[:size]
                memory[:] = data
                self._call(SET, U32.pack(len(said)) + said, [descriptor])
            finally:
                os.close(descriptor)
        if described:
            self._dirty.pop(number, None)
            self._slots[key] = _Slot(number, tensor, memory)

    def compute(self) -> None:
        self._compute(COMPUTE, self._outputs)

    def get_output(self, key: int | str) -> Tensor:
        return self._get(self._outputs, key)

    def _compute(self, kind: int, wanted: _Wanted) -> None:
        wanted.known.clear()
        dirty, self._dirty = self._dirty, {}
        parts = [self._allowance()]
        for number, data in dirty.items():
            parts.append(INPUT.pack(number, SHARED if data is None else len(data)))
            if data:
                parts.append(data)
        self._stale = True
        answer = self._call(kind, b"".join(parts))
        self._stale = False
        self._worker.parsed(lambda: self._read(answer, wanted))

    def _allowance(self) -> bytes:
        """The beginning of a request to compute."""
        return b""

    def _read(self, answer: memoryview, wanted: _Wanted) -> None:
        at = 1
        if answer[0]:
            numbers = GENERATION.unpack_from(answer, at)
            at += GENERATION.size
            self._generation = _generation(numbers)
        for number, output in unpack_outputs(answer[at:], wanted.memory.get):
            if isinstance(output, Tensor):
                wanted.known[number] = output

    def _get(self, wanted: _Wanted, key: int | str) -> Tensor:
        number = wanted.numbers.get(key)
        if number is None:
            number = len(wanted.numbers)
        else:
            known = wanted.known.get(number)
            if known is not None:
                return known
        output = self._ask(wanted, number, key, ())
        if isinstance(output, int):
            descriptor = shared_memory.make(output)
            try:
                wanted.memory[number] = shared_memory.map_shared(descriptor)
                output = self._ask(wanted, number, key, [descriptor])
            finally:
                os.close(descriptor)
        if isinstance(output, int):
            raise self._worker.nonsense()
        if len(wanted.numbers) < _MAX_WANTED:
            wanted.numbers[key] = number
        wanted.known[number] = output
        return output

    def _ask(
        self, wanted: _Wanted, number: int, key: int | str, fds: Sequence[int]
    ) -> Tensor | int:
        answer = self._call(wanted.kind, as_json({"number": number, "key": key}), fds)
        ((_, output),) = self._worker.parsed(lambda: unpack_outputs(answer, wanted.memory.get))
        found: Tensor | int = output
        return found

    def cancel(self) -> None:
        self._worker.cancel(self._number)
        if self._calling and not self._worker.private:
            timer = threading.Timer(_CANCEL_SECONDS, self._give_up)
            timer.daemon = True
            timer.start()

    def _give_up(self) -> None:
        if self._calling:
            self._worker.kill()

    def generation(self) -> Generation | None:
        if self._stale and not self._calling and not self._worker.lost:
            self._stale = False
            answer = self._call(COUNT, b"")
            self._worker.parsed(lambda: self._read(answer, self._outputs))
        return self._generation

    def close(self) -> None:
        self._slots.clear()
        self._outputs = _Wanted(GET)
        if not self._worker.lost:
            try:
                self._call(CLOSE, b"")
            except RuntimeFailure:
                # It has ended, and nothing is left to close.
                if not self._worker.lost:
                    raise

    def _call(self, kind: int, body: bytes, fds: Sequence[int] = ()) -> memoryview:
        self._calling = True
        try:
            return self._worker.call(kind, self._number, body, fds, self._reserve)
        finally:
            self._calling = False


class RemoteStream(RemoteContext, StreamingContext):
    """A context in a worker that also gives its output in pieces."""

    def __init__(
        self, graph: RemoteGraph, number: int, reserve: Reserve, generation: Generation | None
    ) -> None:
        super().__init__(graph, number, reserve, generation)
        self._pieces = _Wanted(GET_SINGLE)
        self._tokens = -1

    def allow_tokens(self, most: int) -> None:
        self._tokens = most

    def _allowance(self) -> bytes:
        return I64.pack(self._tokens)

    def compute_single(self) -> None:
        self._compute(SINGLE, self._pieces)

    def get_output_single(self, key: int | str) -> Tensor:
        return self._get(self._pieces, key)

    def fini_single(self) -> None:
        self._compute(FINISH, self._pieces)


def _info(
    name: str,
    type: str | None,
    dims: list[int] | None,
    native_type: str,
    quantization: list[Any] | None,
    aliases: list[str],
) -> TensorInfo:
    return TensorInfo(
        name,
        None if type is None else _TYPES[type],
        None if dims is None else tuple(dims),
        native_type,
        None if quantization is None else Quantization(*quantization),
        tuple(aliases),
    )


def _generation(numbers: Sequence[float] | None) -> Generation | None:
    """The worker's numbers: those of tokens and texts are whole ones."""
    if numbers is None:
        return None
    whole = ("tokens" in name or name == "texts" for name in Generation._fields)
    return Generation._make(
        int(value) if is_whole else value for value, is_whole in zip(numbers, whole, strict=True)
    )
