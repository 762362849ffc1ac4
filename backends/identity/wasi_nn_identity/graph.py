"""Graphs whose output k is input k."""

from __future__ import annotations

from wasi_nn.backend import (
    Builder,
    ExecutionContext,
    Reserve,
    StreamingContext,
    config,
    position,
)
from wasi_nn.backend.buffers import DescribedGraph
from wasi_nn.errors import (
    EndOfSequence,
    InvalidArgument,
    NnError,
    RuntimeFailure,
)
from wasi_nn.types import Tensor, TensorInfo, TensorType
from wasi_nn_identity.backend import MAGIC

_MAX = (1 << 31) - 1
# A guest may choose both the number of inputs and an index, and each takes the host's memory.
_MAX_INPUTS = 1024


class IdentityContext(ExecutionContext):
    """Keeps a copy of each input and returns it as the output with the same index."""

    def __init__(self, graph: IdentityGraph) -> None:
        self._graph = graph
        self._inputs: dict[int, Tensor] = {}
        self._outputs: dict[int, Tensor] = {}

    def set_input(self, key: int | str, tensor: Tensor) -> None:
        index = self._graph.index(key, "input")
        old = self._inputs.get(index)
        same = old is not None and (old.type, old.dims) == (tensor.type, tensor.dims)
        if old is not None and same and len(old.data) == len(tensor.data):
            old.data[:] = tensor.data
            return
        copy = memoryview(bytearray(tensor.data))
        self._inputs[index] = Tensor(tensor.type, tensor.dims, copy)

    def compute(self) -> None:
        if not self._inputs:
            raise InvalidArgument("no input has been set")
        # Copy, so that a later set_input does not change the outputs.
        self._outputs = {
            index: tensor._replace(data=memoryview(bytes(tensor.data)))
            for index, tensor in self._inputs.items()
        }
        if self._graph.prints:
            for tensor in self._outputs.values():
                self.stdout(bytes(tensor.data))

    def get_output(self, key: int | str) -> Tensor:
        try:
            return self._outputs[self._graph.index(key, "output")]
        except KeyError:
            raise InvalidArgument(
                f"there is no output {key} before its input is computed"
            ) from None

    def close(self) -> None:
        self._inputs = self._outputs = {}


class StreamingIdentityContext(IdentityContext, StreamingContext):
    """Also returns input 0 in pieces."""

    def __init__(self, graph: IdentityGraph, piece: int) -> None:
        super().__init__(graph)
        self._piece = piece
        self._at: int | None = None

    def compute_single(self) -> None:
        if 0 not in self._inputs:
            raise InvalidArgument("input 0 has not been set")
        at = 0 if self._at is None else self._at + self._piece
        if at >= len(self._inputs[0].data):
            raise EndOfSequence("every piece of the input has been given")
        self._at = at

    def get_output_single(self, key: int | str) -> Tensor:
        self._graph.index(key, "output")
        if self._at is None:
            raise InvalidArgument("there is no piece before compute_single")
        # (A piece of a tensor need not be whole elements.)
        data = self._inputs[0].data[self._at : self._at + self._piece]
        return Tensor(TensorType.U8, (len(data),), data)

    def fini_single(self) -> None:
        self._at = None


class IdentityGraph(DescribedGraph):
    """A graph with the settings of the model's JSON."""

    untyped_bytes: bool
    stateless: bool

    def __init__(self, settings: config.Config) -> None:
        self._piece = config.whole_number(settings, "stream", 0, 1, _MAX)
        self._names = _names(settings)
        self.untyped_bytes = config.flag(settings, "untyped_bytes", False)
        self.prints = config.flag(settings, "prints", False)
        self.stateless = not self.prints
        infos = [TensorInfo(name, None, None, "any") for name in self._names or ()]
        super().__init__(infos, infos)

    def index(self, key: int | str, what: str) -> int:
        """An index for a key; names are the decimal indexes."""
        if self._names is not None:
            return position(key, self.inputs, what)
        if isinstance(key, int) or key.isdecimal():
            index = int(key)
            if index < _MAX_INPUTS:
                return index
            raise InvalidArgument(f"{what} {index}: there are at most {_MAX_INPUTS}")
        raise InvalidArgument(f"there is no {what} named {key!r}: names are indexes here")

    def init_execution_context(self, reserve: Reserve) -> ExecutionContext:
        if self._piece:
            return StreamingIdentityContext(self, self._piece)
        return IdentityContext(self)


def load(builder: Builder, given: config.Config) -> IdentityGraph:
    """A graph of a model. Its settings are the model's, overridden by the config ``given``."""
    model = bytes(builder) if isinstance(builder, memoryview) else builder.read_bytes()
    if not model.startswith(MAGIC):
        raise RuntimeFailure(f"an identity model begins with {MAGIC.decode()}")
    line = model[len(MAGIC) :].split(b"\n", 1)[0]
    try:
        settings = config.parse(line.decode())
    except (ValueError, NnError) as error:
        raise RuntimeFailure(f"the identity model's settings: {error}") from error
    return IdentityGraph({**settings, **given})


def _names(settings: config.Config) -> list[str] | None:
    """The names of the inputs: a list of them, or a number for "0", "1"."""
    value = settings.get("inputs")
    if isinstance(value, list) and value and all(isinstance(name, str) for name in value):
        return value
    count = config.whole_number(settings, "inputs", 0, 1, _MAX_INPUTS)
    return [str(i) for i in range(count)] or None
