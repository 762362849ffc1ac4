"""Linear models as a wasi-nn backend: y = x · weights + bias, from a numpy archive (.npz)."""

import io

from wasi_nn import ExecutionTarget, Tensor, TensorInfo, TensorType, backend, errors, hookimpl


class LinearContext(backend.ExecutionContext):
    def __init__(self, graph):
        self.graph = graph
        self.x = self.y = None

    def set_input(self, key, tensor):
        import numpy as np

        backend.position(key, self.graph.inputs, "input")
        rows = len(self.graph.weights)
        if tensor.type is not TensorType.F32 or tensor.dims[-1:] != (rows,):
            raise errors.InvalidArgument(f"input x takes f32 tensors of [?, {rows}]")
        # The one copy on the way in: the guest's memory is the guest's again when this returns.
        self.x = np.frombuffer(tensor.data, np.float32).reshape(-1, rows).copy()

    def compute(self):
        if self.x is None:
            raise errors.InvalidArgument("input x has not been set")
        self.y = Tensor.of(self.x @ self.graph.weights + self.graph.bias)

    def get_output(self, key):
        backend.position(key, self.graph.outputs, "output")
        if self.y is None:
            raise errors.InvalidArgument("there is no output before compute")
        return self.y  # by reference: the host copies it into the guest


class LinearGraph(backend.Graph):
    def __init__(self, weights, bias):
        self.weights, self.bias = weights, bias

    @property
    def inputs(self):
        return [TensorInfo("x", TensorType.F32, (-1, self.weights.shape[0]))]

    @property
    def outputs(self):
        return [TensorInfo("y", TensorType.F32, (-1, self.weights.shape[1]))]

    def init_execution_context(self, reserve):
        return LinearContext(self)


class Linear(backend.Backend):
    name = "linear"
    encodings = ("linear",)

    def sniff(self, head):
        return "linear" if head[:4] == b"PK\x03\x04" and b"weights.npy" in head else None

    def load(self, builders, options):
        import numpy as np

        if len(builders) != 1:
            raise errors.InvalidArgument("a linear model has one builder")
        if options.target not in (ExecutionTarget.CPU, ExecutionTarget.AUTO):
            raise errors.UnsupportedOperation("linear models run on the CPU")
        source = builders[0]
        if isinstance(source, memoryview):
            source = io.BytesIO(source)
        with np.load(source, allow_pickle=False) as archive:
            weights = archive["weights"].astype(np.float32)
            bias = archive["bias"].astype(np.float32)
        if weights.ndim != 2 or bias.shape != weights.shape[1:]:
            raise errors.RuntimeFailure("weights must be a matrix, and bias one row of it")
        return LinearGraph(weights, bias)


@hookimpl
def wasi_nn_backends():
    return [Linear()]
