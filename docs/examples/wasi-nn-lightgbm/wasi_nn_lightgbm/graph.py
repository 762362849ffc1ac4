"""A model of LightGBM, and its computations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np

from wasi_nn import Tensor, TensorInfo, TensorType, backend, errors, escaping
from wasi_nn_lightgbm.text import check

# LightGBM prints otherwise, and standard output is the guest's.
lightgbm.register_logger(escaping.logger("wasi_nn.lightgbm"))


def read(builder: backend.Builder, raw_score: bool = False) -> LightgbmGraph:
    """Read a model. Bytes may come from a guest, and be anything. Raises ``RuntimeFailure``."""
    data = builder.read_bytes() if isinstance(builder, Path) else bytes(builder)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise errors.RuntimeFailure(f"this is not a model that LightGBM wrote: {error}") from error
    check(text)
    try:
        return LightgbmGraph(lightgbm.Booster(model_str=text), raw_score)
    except (lightgbm.basic.LightGBMError, ValueError) as error:
        raise errors.RuntimeFailure(f"LightGBM cannot read the model: {error}") from error


class LightgbmGraph(backend.Graph):
    """A loaded model. Contexts of any number of guests share it."""

    stateless = True

    def __init__(self, booster: Any, raw_score: bool) -> None:
        self._booster = booster
        self._raw_score = raw_score
        features = booster.num_feature()
        # An objective can give another number of columns than there are trees in an iteration.
        columns = self.compute(np.zeros((1, features), np.float32)).shape[1]
        self._inputs = [TensorInfo("x", TensorType.F32, (-1, features))]
        self._outputs = [TensorInfo("prediction", TensorType.F32, (-1, columns))]

    def compute(self, rows: Any) -> Any:
        """The predictions for ``[rows, features]``, as ``[rows, columns]``."""
        found = self._booster.predict(rows, raw_score=self._raw_score)
        return np.ascontiguousarray(found, np.float32).reshape(len(rows), -1)

    @property
    def inputs(self) -> Sequence[TensorInfo]:
        return self._inputs

    @property
    def outputs(self) -> Sequence[TensorInfo]:
        return self._outputs

    def init_execution_context(self, reserve: backend.Reserve) -> LightgbmContext:
        return LightgbmContext(self)


class LightgbmContext(backend.ExecutionContext):
    """The input and the output of one guest."""

    def __init__(self, graph: LightgbmGraph) -> None:
        self._graph = graph
        self._rows: Any = None
        self._computed: Any = None

    def set_input(self, key: int | str, tensor: Tensor) -> None:
        index = backend.position(key, self._graph.inputs, "input")
        backend.check_input(self._graph.inputs[index], tensor)
        if not tensor.dims[0]:
            raise errors.InvalidArgument("LightGBM takes one row or more")
        # The copy: the memory is the guest's again when this returns.
        self._rows = np.frombuffer(bytes(tensor.data), "<f4").reshape(tensor.dims)

    def compute(self) -> None:
        if self._rows is None:
            raise errors.InvalidArgument("input x has not been set")
        self._computed = self._graph.compute(self._rows)

    def get_output(self, key: int | str) -> Tensor:
        backend.position(key, self._graph.outputs, "output")
        if self._computed is None:
            raise errors.InvalidArgument("there is no output before compute")
        data = memoryview(self._computed.reshape(-1).view(np.uint8))
        return Tensor(TensorType.F32, self._computed.shape, data)
