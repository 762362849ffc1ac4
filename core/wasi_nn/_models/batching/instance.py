"""An instance: a context of the backend's own that computes batches, one after another.

A tensor is copied twice on its way in: to its own context, because the guest may reuse its buffer
at once, and to its rows of the library's buffer, because it is known who is in a batch only when
the batch starts. An output is copied twice too, because the next batch overwrites the library's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar, Union

from wasi_nn._models.batching.request import Batch, Key, NotSeparable, Request
from wasi_nn._models.turns import in_turn
from wasi_nn.backend import ExecutionContext, Schedule, unlimited
from wasi_nn.backend.shared import never
from wasi_nn.errors import InvalidArgument, NnError, RuntimeFailure, UnsupportedOperation
from wasi_nn.types import Tensor

if TYPE_CHECKING:
    from wasi_nn._models.loading import LoadedGraph

T = TypeVar("T")
#: The outputs of a graph that describes none.
MAX_OUTPUTS = 64
#: An output that a batch computed, or why there is none.
_Found = Union[Tensor, NnError]


def opened(loaded: LoadedGraph) -> ExecutionContext:
    """A context of the graph, which counts against nobody: its members count their shares."""
    return loaded.open_context(unlimited, never, Schedule())


def alone_in(loaded: LoadedGraph, function: Callable[[], T]) -> T:
    """Call into the graph, one context at a time where the graph needs that."""
    return function() if loaded.lock is None else in_turn(loaded.lock, never, function)


class Instance:
    """It opens its context for its first batch, and another one if a batch sets other inputs: what
    one guest has set must not complete what another one has not. ``outputs`` are those that each
    batch reads; it may grow."""

    def __init__(self, loaded: LoadedGraph, outputs: Sequence[Key]) -> None:
        self._loaded = loaded
        self._outputs = outputs
        self._described = bool(loaded.outputs)
        self._context: ExecutionContext | None = None
        self._keys: frozenset[Key] = frozenset()
        self._cancelled = False

    def compute(self, batch: Batch) -> None:
        """Compute a batch, and give its members their outputs. Raises ``NotSeparable``, and what
        the backend raises."""
        alone_in(self._loaded, lambda: self._compute(batch.members))

    def cancel(self) -> None:
        """Make ``compute`` fail soon, where the library can. The instance can then only be closed.
        Callable from any thread."""
        self._cancelled = True
        if self._context is not None:
            self._context.cancel()

    def close(self) -> None:
        """Free the context."""
        context, self._context = self._context, None
        if context is not None:
            alone_in(self._loaded, context.close)

    def _compute(self, members: Sequence[Request]) -> None:
        try:
            self._compute_in(self._open(frozenset(members[0].inputs)), members)
        except RuntimeFailure:
            # A context that has ended its worker computes nothing more.
            context, self._context = self._context, None
            if context is not None:
                context.close()
            raise

    def _compute_in(self, context: ExecutionContext, members: Sequence[Request]) -> None:
        if len(members) == 1:
            for key, tensor in members[0].inputs.items():
                context.set_input(key, tensor)
        else:
            self._join(context, members)
        context.compute()
        self._split(context, members)

    def _open(self, keys: frozenset[Key]) -> ExecutionContext:
        if self._context is not None and self._keys != keys:
            # (``cancel`` must not find one that is closed.)
            before, self._context = self._context, None
            before.close()
        if self._context is None:
            self._context, self._keys = opened(self._loaded), keys
        if self._cancelled:
            raise RuntimeFailure("the guest is being stopped")
        return self._context

    def _join(self, context: ExecutionContext, members: Sequence[Request]) -> None:
        rows = sum(member.rows for member in members)
        for key, first in members[0].inputs.items():
            dims = (rows, *first.dims[1:])
            parts = [member.inputs[key].data for member in members]
            try:
                memory = context.input_memory(key, first.type, dims)
                if memory is None:
                    # A third copy, for libraries whose buffer nobody else can write.
                    joined = memoryview(b"".join(parts))
                    context.set_input(key, Tensor(first.type, dims, joined))
                    continue
            except (InvalidArgument, UnsupportedOperation) as error:
                # Each of them was accepted alone.
                raise NotSeparable(str(error)) from error
            at = 0
            for part in parts:
                end = at + len(part)
                memory[at:end] = part
                at = end

    def _split(self, context: ExecutionContext, members: Sequence[Request]) -> None:
        wanted = [*self._outputs, *(key for member in members for key in member.wanted)]
        found = {key: self._read(context, key) for key in wanted}
        if not self._described:
            # The first number without an output ends them.
            for number in range(MAX_OUTPUTS):
                found[number] = self._read(context, number)
                if isinstance(found[number], InvalidArgument):
                    break
        errors = {key: error for key, error in found.items() if isinstance(error, NnError)}
        tensors = {key: output for key, output in found.items() if isinstance(output, Tensor)}
        if len(members) == 1:
            for member in members:
                kept = {key: _kept(member, key, output) for key, output in tensors.items()}
                member.outputs = {**kept, **errors}
            return
        rows = sum(member.rows for member in members)
        for key, output in tensors.items():
            if output.dims[:1] != (rows,):
                raise NotSeparable(
                    f"output {key} has the dimensions {list(output.dims)} for inputs of {rows} "
                    "rows, and its first one must be the number of rows"
                )
        at = 0
        for member in members:
            end = at + member.rows
            outputs: dict[Key, _Found] = {**errors}
            for key, (kind, dims, data) in tensors.items():
                size = len(data) // rows
                part = Tensor(kind, (member.rows, *dims[1:]), data[at * size : end * size])
                outputs[key] = _kept(member, key, part)
            member.outputs = outputs
            at = end

    def _read(self, context: ExecutionContext, key: Key) -> _Found:
        try:
            output = context.get_output(key)
        except (InvalidArgument, UnsupportedOperation) as error:
            return error
        self._loaded.checked.check(key, output)
        return output


def _kept(member: Request, key: Key, output: Tensor) -> Tensor:
    """An output in its context's own memory: the next batch overwrites the library's."""
    before = member.buffers.get(key)
    kind, dims, data = output
    if isinstance(before, Tensor) and before.dims == dims and before.type is kind:
        before.data[:] = data
        return before
    return Tensor(kind, dims, memoryview(bytearray(data)))
