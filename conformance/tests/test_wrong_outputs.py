"""A backend whose outputs are wrong fails the class that plugin authors inherit."""

from __future__ import annotations

import struct

import pytest
from conftest import needs

from wasi_nn import Tensor, TensorInfo, TensorType, hookimpl
from wasi_nn.backend import Backend, ExecutionContext, Graph, check_input, position
from wasi_nn.plugins import Plugins
from wasi_nn_conformance.graphs import GraphSet
from wasi_nn_conformance.testing import BackendConformance

needs("wasmtime")

F32, I32 = TensorType.F32, TensorType.I32
RIGHT = [TensorInfo("y", F32, (1, 4))]


def right(data):
    return Tensor(F32, (1, 4), data)


class SayingContext(ExecutionContext):
    def __init__(self, graph):
        self.graph = graph

    def set_input(self, key, tensor):
        position(key, self.graph.inputs, "input")
        check_input(self.graph.inputs[0], tensor)
        self.data = memoryview(bytes(tensor.data))

    def compute(self):
        self.graph.computed = True

    def get_output(self, key):
        position(key, RIGHT, "output")
        return self.graph.give(self.data)


class SayingGraph(Graph):
    computed = False

    def __init__(self, give, describe):
        self.give, self.describe = give, describe

    @property
    def inputs(self):
        return [TensorInfo("x", F32, (1, 4))]

    @property
    def outputs(self):
        return self.describe(self.computed)

    def init_execution_context(self, reserve):
        return SayingContext(self)


class SayingBackend(Backend):
    """The identity of four floats; ``give`` makes an output, ``describe`` says what it is."""

    name = "saying"
    encodings = ("saying",)

    def __init__(self, give, describe):
        self.give, self.describe = give, describe

    def load(self, builders, options):
        return SayingGraph(self.give, self.describe)

    @hookimpl
    def wasi_nn_backends(self):
        return [self]


def failures(folder, give, describe=lambda computed: RIGHT) -> set[str]:
    """The tests of the class that fail."""
    path = folder / "identity.saying"
    path.write_bytes(struct.pack("<I", 0))
    registered = Plugins.installed()
    registered.register(SayingBackend(give, describe), "saying", "wasi-nn-saying", "0.1")

    class Author(BackendConformance):
        graphs = GraphSet("saying", folder, {"identity": (path,)})
        plugins = registered

    failed = set()
    Author.setup_class()
    try:
        for dialect in Author.dialects:
            for name in ("flow/identity", "outputs/of-fixed-dimensions"):
                try:
                    Author().test_case(name, dialect)
                except (AssertionError, pytest.fail.Exception):
                    failed.add(dialect)
        try:
            Author().test_description("identity")
        except Exception:
            failed.add("description")
    finally:
        Author.teardown_class()
    return failed


EVERYWHERE = {"witx", "wasmedge", "wit", "description"}


def test_a_right_backend_fails_nothing(tmp_path):
    assert failures(tmp_path, right) == set()


@pytest.mark.parametrize(
    ("give", "failed"),
    [
        (lambda data: Tensor(I32, (7, 7), data), EVERYWHERE),
        (lambda data: Tensor(I32, (1, 4), data), EVERYWHERE),
        (lambda data: Tensor("u8", (1, 4), data), EVERYWHERE),
        (lambda data: Tensor(F32, (1, 4), data[:12]), EVERYWHERE),
        (lambda data: Tensor(F32, (1, 4), memoryview(bytes(data) * 2)), EVERYWHERE),
        (lambda data: Tensor(F32, (1, 3), data[:12]), EVERYWHERE),
        (lambda data: Tensor(F32, (4,), data), {"wit", "description"}),
        (lambda data: Tensor(F32, (4, 1), data), {"wit", "description"}),
        (lambda data: Tensor(F32, (2, 2), data), {"wit", "description"}),
        (lambda data: Tensor(F32, (1, 4, 1), data), {"wit", "description"}),
    ],
)
def test_a_wrong_output_fails(tmp_path, give, failed):
    assert failures(tmp_path, give) == failed


@pytest.mark.parametrize(
    "describe",
    [
        lambda computed: [TensorInfo("y", I32, (1, 4))],
        lambda computed: [TensorInfo("y", F32, (4, 1))],
        lambda computed: [TensorInfo("y", F32, (1, 4, 1))],
        lambda computed: [*RIGHT, *RIGHT],
        lambda computed: [TensorInfo("y", I32 if computed else F32, (1, 4))],
        lambda computed: [TensorInfo("y", F32, (2, 2) if computed else (1, 4))],
        lambda computed: [] if computed else RIGHT,
    ],
)
def test_a_wrong_or_changing_description_fails(tmp_path, describe):
    assert "description" in failures(tmp_path, right, describe)
