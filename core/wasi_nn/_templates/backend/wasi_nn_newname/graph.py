"""A model, and a computation of it. Put your library in place of this one.

The models here are texts: a line ``newname model``, and a JSON object with the ``operation`` (add,
or scale with a ``factor``) and the dimensions ``dims`` (-1 for any)."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wasi_nn import Tensor, TensorInfo, TensorType, backend, errors

_MAX_BYTES = 4096


def read(builder: backend.Builder) -> Newgraph:
    """Read a model. Bytes may come from a guest, and be anything. Raises ``RuntimeFailure``."""
    # A path is a file that the operator named. A memoryview is only valid during load.
    data = builder.read_bytes() if isinstance(builder, Path) else bytes(builder[:_MAX_BYTES])
    try:
        first, _, text = data.decode().partition("\n")
        settings = json.loads(text)
        operation, dims = settings["operation"], settings["dims"]
        factor = float(settings.get("factor", 1))
    except (ValueError, KeyError, TypeError) as error:
        raise errors.RuntimeFailure(f"this is not a model of newname: {error!r}") from error
    whole = isinstance(dims, list) and all(type(size) is int and size >= -1 for size in dims)
    if first != "newname model" or operation not in ("add", "scale") or not whole:
        raise errors.RuntimeFailure("this is not a model of newname")
    if operation == "add":
        return Newgraph(["x", "y"], tuple(dims), lambda x, y: x + y)
    return Newgraph(["x"], tuple(dims), lambda x: factor * x)


class Newgraph(backend.Graph):
    """A loaded model. Contexts of any number of guests share it."""

    def __init__(
        self, names: list[str], dims: tuple[int, ...], function: Callable[..., float]
    ) -> None:
        self._names = names
        self._dims = dims
        self.function = function

    @property
    def inputs(self) -> list[TensorInfo]:
        return [TensorInfo(name, TensorType.F32, self._dims) for name in self._names]

    @property
    def outputs(self) -> list[TensorInfo]:
        return [TensorInfo("out", TensorType.F32, self._dims)]

    def init_execution_context(self, reserve: backend.Reserve) -> Newcontext:
        return Newcontext(self)


class Newcontext(backend.ExecutionContext):
    """The inputs and the output of one guest."""

    def __init__(self, graph: Newgraph) -> None:
        self._graph = graph
        self._inputs: dict[int, tuple[tuple[int, ...], array[float]]] = {}
        self._output: Tensor | None = None

    def set_input(self, key: int | str, tensor: Tensor) -> None:
        index = backend.position(key, self._graph.inputs, "input")
        # Compares the type and the dimensions with the description.
        backend.check_input(self._graph.inputs[index], tensor)
        # The one copy on the way in: the memory is the guest's again when this returns.
        self._inputs[index] = tensor.dims, array("f", bytes(tensor.data))

    def compute(self) -> None:
        for index, info in enumerate(self._graph.inputs):
            if index not in self._inputs:
                raise errors.InvalidArgument(f"input {info.name} has not been set")
        dims, first = self._inputs[0]
        if any(given != dims for given, _ in self._inputs.values()):
            raise errors.InvalidArgument("the inputs must have the same dimensions")
        others: list[Any] = [self._inputs[index][1] for index in range(1, len(self._inputs))]
        result = array("f", map(self._graph.function, first, *others))
        self._output = Tensor(TensorType.F32, dims, memoryview(result).cast("B"))

    def get_output(self, key: int | str) -> Tensor:
        backend.position(key, self._graph.outputs, "output")
        if self._output is None:
            raise errors.InvalidArgument("there is no output before compute")
        return self._output  # by reference: the host copies it to the guest
