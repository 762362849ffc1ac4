"""A fitted estimator or pipeline, and its computations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np

from wasi_nn import Tensor, TensorInfo, TensorType, backend, errors
from wasi_nn_sklearn.archive import estimator

_MAX_FEATURES = 1 << 20
_NUMPY = {TensorType.F32: np.float32, TensorType.I64: np.int64}


class Result(NamedTuple):
    """An output: its name, its type, and what gives it, from ``[rows, features]``."""

    name: str
    type: TensorType
    function: Callable[[Any], Any]


def read(builder: backend.Builder, trusted: Sequence[str] = ()) -> SklearnGraph:
    """Read a model. Bytes may come from a guest, and be anything. Raises ``RuntimeFailure``."""
    data = builder.read_bytes() if isinstance(builder, Path) else bytes(builder)
    model = estimator(data, trusted)
    features = getattr(model, "n_features_in_", None)
    if not isinstance(features, int) or not 0 < features <= _MAX_FEATURES:
        raise errors.RuntimeFailure(
            f"the model has {features!r} features: it must be an estimator or a pipeline, fitted "
            f"to an array of at most {_MAX_FEATURES} features"
        )
    return SklearnGraph(features, _results(model))


def _results(model: Any) -> list[Result]:
    """What a model can compute: a classifier's probabilities and labels, a prediction, or what a
    transformer makes of its input."""
    if hasattr(model, "classes_"):
        classes = list(model.classes_)
        places = {label: place for place, label in enumerate(classes)}
        label = Result(
            "label", TensorType.I64, lambda rows: [places[one] for one in model.predict(rows)]
        )
        if hasattr(model, "predict_proba"):
            return [Result("probabilities", TensorType.F32, model.predict_proba), label]
        return [label]
    if hasattr(model, "predict"):
        return [Result("prediction", TensorType.F32, model.predict)]
    if hasattr(model, "transform"):
        return [Result("output", TensorType.F32, model.transform)]
    raise errors.RuntimeFailure(f"a {type(model).__name__} neither predicts nor transforms")


class SklearnGraph(backend.Graph):
    """A loaded model. Contexts of any number of guests share it."""

    stateless = True

    def __init__(self, features: int, results: list[Result]) -> None:
        self.results = results
        self._inputs = [TensorInfo("x", TensorType.F32, (-1, features))]
        # scikit-learn does not say how many columns it gives, so a row of zeros has to.
        try:
            columns = [self.compute(one, np.zeros((1, features), np.float32)) for one in results]
        except Exception as error:
            raise errors.RuntimeFailure(
                f"the model cannot compute a row of zeros: {error}"
            ) from error
        self._outputs = [
            TensorInfo(one.name, one.type, (-1, *found.shape[1:]))
            for one, found in zip(results, columns, strict=True)
        ]

    @staticmethod
    def compute(result: Result, rows: Any) -> Any:
        """One output of the rows, ``[rows, …]``."""
        # A model can ask for processes of its own (n_jobs).
        with joblib.parallel_config(backend="sequential"):
            found = result.function(rows)
        if hasattr(found, "toarray"):  # a sparse matrix
            found = found.toarray()
        return np.ascontiguousarray(found, _NUMPY[result.type])

    @property
    def inputs(self) -> Sequence[TensorInfo]:
        return self._inputs

    @property
    def outputs(self) -> Sequence[TensorInfo]:
        return self._outputs

    def init_execution_context(self, reserve: backend.Reserve) -> SklearnContext:
        return SklearnContext(self)


class SklearnContext(backend.ExecutionContext):
    """The input and the outputs of one guest."""

    def __init__(self, graph: SklearnGraph) -> None:
        self._graph = graph
        self._rows: Any = None
        self._computed: list[Any] | None = None

    def set_input(self, key: int | str, tensor: Tensor) -> None:
        index = backend.position(key, self._graph.inputs, "input")
        backend.check_input(self._graph.inputs[index], tensor)
        # The copy: the memory is the guest's again when this returns.
        self._rows = np.frombuffer(bytes(tensor.data), "<f4").reshape(tensor.dims)

    def compute(self) -> None:
        if self._rows is None:
            raise errors.InvalidArgument("input x has not been set")
        try:
            self._computed = [self._graph.compute(one, self._rows) for one in self._graph.results]
        except ValueError as error:  # such as a NaN
            raise errors.InvalidArgument(f"scikit-learn: {error}") from error

    def get_output(self, key: int | str) -> Tensor:
        index = backend.position(key, self._graph.outputs, "output")
        if self._computed is None:
            raise errors.InvalidArgument("there is no output before compute")
        found = self._computed[index]
        data = memoryview(found.reshape(-1).view(np.uint8))
        return Tensor(self._graph.results[index].type, found.shape, data)
