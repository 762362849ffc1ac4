"""A graph whose contexts are batched, in front of the backend's own or of one in a worker."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Union

from wasi_nn._models.batching.context import BatchedContext
from wasi_nn._models.batching.instance import MAX_OUTPUTS, Instance, alone_in, opened
from wasi_nn._models.batching.queue import Queue
from wasi_nn._models.batching.request import Key
from wasi_nn._models.batching.settings import KEY, Settings
from wasi_nn.backend import ExecutionContext, Graph, Reserve, StreamingContext, position
from wasi_nn.errors import InvalidArgument, NnError
from wasi_nn.escaping import logger
from wasi_nn.types import Tensor, TensorInfo, TensorType

if TYPE_CHECKING:
    from wasi_nn._models.loading import LoadedGraph

log = logger("wasi_nn")
# The tensors that a graph was seen to take, that are remembered.
_MAX_TAKEN = 256
_Taken = tuple[Key, TensorType, tuple[int, ...]]


class BatchingGraph(Graph):
    """It describes itself as ``loaded`` does.

    Raises ``InvalidArgument`` for a graph that cannot be batched, and says why."""

    def __init__(self, loaded: LoadedGraph, settings: Settings) -> None:
        self._loaded = loaded
        self._check_graph(settings)
        self._outputs: list[Key] = list(range(len(loaded.outputs)))
        self._described_outputs = bool(loaded.outputs)
        # What a guest sets is tried here first, so that its mistakes are its own.
        self._probe = alone_in(loaded, lambda: opened(loaded))
        self._probing = threading.Lock()
        self._taken: set[_Taken] = set()
        if isinstance(self._probe, StreamingContext):
            alone_in(loaded, self._probe.close)
            raise self._refusal("its contexts stream")
        self.queue = Queue(
            settings,
            loaded.lock is None,
            lambda: Instance(loaded, self._outputs),
            self._report,
        )

    def _check_graph(self, settings: Settings) -> None:
        loaded = self._loaded
        if loaded.untyped_bytes:
            raise self._refusal("its tensors are texts or bytes, which have no rows")
        if not loaded.stateless:
            raise self._refusal(
                "it keeps something between two computations, or prints (Graph.stateless)"
            )
        if settings.instances > 1 and loaded.lock is not None:
            raise self._refusal("its contexts compute one at a time: leave 'instances' out")
        fixed = [info for info in loaded.inputs if not _is_open(info)]
        if fixed and len(fixed) == len(loaded.inputs):
            raise self._refusal(
                f"input {fixed[0].describe()} has a fixed first dimension, and only an open one "
                "can be the rows of several guests"
            )
        for info in fixed:
            log.warning(
                "input %s has a fixed first dimension: what sets it is not batched", info.describe()
            )

    def _refusal(self, why: str) -> InvalidArgument:
        return InvalidArgument(
            f"config {KEY!r}: {self._loaded.backend.title} cannot batch this graph: {why}"
        )

    def _report(self, reason: str) -> None:
        files = self._loaded.files
        log.warning(
            "%s is not separable along the first dimension, so its inputs are computed one by one "
            "from now on: %s. Leave %r out of its config",
            files[0].path if files else f"a model of {self._loaded.backend.title}",
            reason,
            KEY,
        )

    @property
    def inputs(self) -> Sequence[TensorInfo]:
        return self._loaded.inputs

    @property
    def outputs(self) -> Sequence[TensorInfo]:
        return self._loaded.outputs

    @property
    def choices(self) -> Mapping[str, Sequence[str]]:
        return self._loaded.choices

    @property
    def shared_memory(self) -> object | None:
        return self._loaded.memory

    def statistics(self) -> Mapping[str, float]:
        return self.queue.counts

    def init_execution_context(self, reserve: Reserve) -> ExecutionContext:
        return BatchedContext(self, reserve)

    def close(self) -> None:
        with self._loaded.blame:
            self.queue.close()
            alone_in(self._loaded, self._probe.close)

    def input_key(self, key: int | str) -> tuple[Key, bool]:
        """The key of an input, the same one for all its names, and whether the graph describes it.
        Only the backend knows whether it takes one that the graph does not describe."""
        inputs = self._loaded.graph.inputs
        if type(key) is int and 0 <= key < len(inputs):
            return key, True
        try:
            return position(key, inputs, "input"), True
        except InvalidArgument:
            return key, False

    def output_key(self, key: int | str) -> Key:
        """The same for an output. Raises ``InvalidArgument`` for one that is not described, if the
        graph describes its outputs."""
        if self._described_outputs:
            return position(key, self._loaded.graph.outputs, "output")
        return key

    def check(self, key: Key, tensor: Tensor) -> None:
        """Raise what the backend raises for an input of this type and these dimensions."""
        taken = key, tensor.type, tuple(tensor.dims)
        if taken not in self._taken:
            with self._probing:
                alone_in(self._loaded, lambda: self._probe.set_input(key, tensor))
            if len(self._taken) < _MAX_TAKEN:
                self._taken.add(taken)

    def want(self, key: Key, found: Union[Tensor, NnError]) -> None:
        """Read an output in each batch, now that a context has asked for it."""
        known = isinstance(found, InvalidArgument) or key in self._outputs
        if not known and len(self._outputs) < MAX_OUTPUTS:
            self._outputs.append(key)

    def look(self, inputs: Mapping[Key, Tensor]) -> tuple[Hashable | None, int]:
        """What the inputs of two contexts must have in common, to be one batch, and their rows.
        None for inputs that cannot be joined."""
        described = self._loaded.graph.inputs
        items = list(inputs.items())
        if all(isinstance(key, int) for key in inputs):
            items.sort(key=lambda item: int(item[0]))
        rows = {tensor.dims[0] if tensor.dims else 0 for _, tensor in items}
        if len(rows) != 1 or rows == {0}:
            return None, 1
        for key in inputs:
            if isinstance(key, int) and key < len(described) and not _is_open(described[key]):
                return None, 1
        return tuple((key, tensor.type, tensor.dims[1:]) for key, tensor in items), rows.pop()


def _is_open(info: TensorInfo) -> bool:
    return info.dims is None or info.dims[:1] == (-1,)
