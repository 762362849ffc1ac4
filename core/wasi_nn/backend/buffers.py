"""Base classes for backends whose graphs describe themselves and whose tensors are fixed buffers.

They find the input that a key means, check that a tensor fits, know which inputs are missing, and
copy a tensor's bytes straight into the buffer that the library reads. A backend implements how to
bind a buffer, how to run the graph, and where an output is.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Sequence

from wasi_nn.backend import ExecutionContext, Graph, check_input, position
from wasi_nn.errors import InvalidArgument
from wasi_nn.types import Tensor, TensorInfo, TensorType

__all__ = ["BufferedContext", "DescribedGraph"]

# The bytes of a tensor of which only the type and the dimensions are known.
_NO_BYTES = memoryview(b"")


class DescribedGraph(Graph):
    """A graph whose inputs and outputs are known when it is loaded."""

    inputs: Sequence[TensorInfo]
    outputs: Sequence[TensorInfo]

    def __init__(self, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]) -> None:
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)


class BufferedContext(ExecutionContext):
    """A context that binds each input to a buffer, again only when its dimensions change, and reads
    outputs in place."""

    def __init__(self, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]) -> None:
        self.input_infos = inputs
        self.output_infos = outputs
        #: The buffer of each input, or None if the input is not set.
        self.bound: list[Tensor | None] = [None] * len(inputs)
        self._missing = len(inputs)
        self._seen: dict[int, Tensor] = {}
        self._computed = False
        #: The indexes of inputs that may be left out.
        self.optional: Collection[int] = ()
        #: The indexes of outputs that share memory with an input. They are copied after ``run``,
        #: before the next ``set_input`` can change them.
        self.aliased_outputs: Sequence[int] = ()

    @abstractmethod
    def bind(self, index: int, tensor: Tensor) -> Tensor:
        """Bind a buffer to an input and return it. The tensor's type and dimensions are already
        checked; do not look at its bytes. They, and those of later tensors with the same type and
        dimensions, are written to this buffer. Raises ``NnError``."""

    def bind_memory(self, index: int, tensor: Tensor) -> bool:
        """Bind an input to the memory of ``tensor``, whose type and dimensions are already checked:
        the library reads it there in each ``run``. False if it cannot. Raises ``NnError``."""
        return False

    @abstractmethod
    def run(self) -> None:
        """Run the graph. All required inputs are bound. Raises ``RuntimeFailure``."""

    @abstractmethod
    def read(self, index: int) -> Tensor:
        """An output of the last ``run``, by reference. It stays valid until the next ``run``."""

    def set_input(self, key: int | str, tensor: Tensor) -> None:
        index = position(key, self.input_infos, "input")
        bound = self.bound[index]
        if bound is None or bound.dims != tensor.dims or bound.type is not tensor.type:
            bound = self._bind(index, tensor)
        bound.data[:] = tensor.data

    def input_memory(
        self, key: int | str, kind: TensorType, dims: tuple[int, ...]
    ) -> memoryview | None:
        index = position(key, self.input_infos, "input")
        bound = self.bound[index]
        if bound is None or bound.dims != dims or bound.type is not kind:
            bound = self._bind(index, Tensor(kind, dims, _NO_BYTES))
        return bound.data

    def _bind(self, index: int, tensor: Tensor) -> Tensor:
        check_input(self.input_infos[index], tensor)
        bound = self.bind(index, tensor)
        self._missing -= self.bound[index] is None
        self.bound[index] = bound
        return bound

    def read_from(self, key: int | str, tensor: Tensor) -> bool:
        index = position(key, self.input_infos, "input")
        check_input(self.input_infos[index], tensor)
        if not self.bind_memory(index, tensor):
            return False
        self._missing -= self.bound[index] is None
        self.bound[index] = tensor
        return True

    def compute(self) -> None:
        if self._missing:
            names = [
                info.name
                for index, info in enumerate(self.input_infos)
                if self.bound[index] is None and index not in self.optional
            ]
            if names:
                raise InvalidArgument(f"these inputs have not been set: {', '.join(names)}")
        self._computed = False
        self._seen.clear()
        self.run()
        self._computed = True
        for index in self.aliased_outputs:
            output = self.read(index)
            self._seen[index] = output._replace(data=memoryview(bytes(output.data)))

    def get_output(self, key: int | str) -> Tensor:
        infos = self.output_infos
        index = (
            key if type(key) is int and 0 <= key < len(infos) else position(key, infos, "output")
        )
        if not self._computed:
            raise InvalidArgument("there is no output before compute has succeeded")
        seen = self._seen.get(index)
        if seen is None:
            seen = self._seen[index] = self.read(index)
        return seen

    def reset(self) -> None:
        """Forget all inputs and outputs: every input must be set again."""
        self.bound = [None] * len(self.bound)
        self._missing = len(self.bound)
        self._seen.clear()
        self._computed = False
