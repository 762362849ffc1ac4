"""Batching on the libraries: every guest gets what it gets alone."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import needs

from authoring.flatbuffer import FlatModel
from authoring.saving import save_onnx, save_torchscript
from wasi_nn import Host, Limits, Policy
from wasi_nn._models.batching.instance import Instance
from wasi_nn._worker.context import RemoteContext
from wasi_nn.errors import InvalidArgument, QuotaExceeded, RuntimeFailure, WasiNnError
from wasi_nn_conformance.engine_tests.common import together

GRAPHS = Path(__file__).parents[2] / "conformance/graphs"
BATCHING = {"batching": {"max_batch_size": 16, "max_queue_delay_ms": 20}}
IN, HIDDEN, OUT, GUESTS = 64, 128, 32, 16
#: The largest difference to a computation alone, over the largest value, as docs/batching.md says.
#: (Kernels may add in another order where there are more rows.)
TOLERANCE = 1e-4

Make = Callable[[Path], list[Path]]


def weights() -> tuple[Any, Any]:
    random = np.random.default_rng(5)
    made = (random.standard_normal(dims, np.float32) for dims in ((IN, HIDDEN), (HIDDEN, OUT)))
    one, two = (array * np.float32(0.1) for array in made)
    return one, two


def onnx(folder: Path) -> list[Path]:
    from onnx import helper

    one, two = weights()
    nodes = [
        helper.make_node("MatMul", ["x", "one"], ["hidden"]),
        helper.make_node("Tanh", ["hidden"], ["t"]),
        helper.make_node("MatMul", ["t", "two"], ["y"]),
        helper.make_node("Softmax", ["y"], ["z"]),
    ]
    return [
        save_onnx(
            folder / "net.onnx",
            nodes,
            {"x": ["n", IN]},
            {"y": ["n", OUT], "z": ["n", OUT]},
            {"one": one, "two": two},
        )
    ]


def openvino(folder: Path) -> list[Path]:
    import openvino as library
    from openvino import opset13 as ops

    one, two = weights()
    x = ops.parameter([-1, IN], library.Type.f32, "x")
    x.output(0).set_names({"x"})
    hidden = ops.tanh(ops.matmul(x, ops.constant(one), False, False))
    y = ops.matmul(hidden, ops.constant(two), False, False)
    z = ops.softmax(y, 1)
    y.output(0).set_names({"y"})
    z.output(0).set_names({"z"})
    path = folder / "net.xml"
    library.serialize(
        library.Model([ops.result(y), ops.result(z)], [x], "net"), path, path.with_suffix(".bin")
    )
    return [path, path.with_suffix(".bin")]


def tflite(folder: Path) -> list[Path]:
    one, two = weights()
    model = FlatModel()
    x, hidden, t, y, z = (
        model.tensor(name, (1, size), signature=(-1, size))
        for name, size in (("x", IN), ("h", HIDDEN), ("t", HIDDEN), ("y", OUT), ("z", OUT))
    )
    layers = []
    for name, matrix in (("one", one), ("two", two)):
        zeros = np.zeros(matrix.shape[1], np.float32)
        layers.append(
            [model.constant(name, np.ascontiguousarray(matrix.T)), model.constant(name[:1], zeros)]
        )
    model.operator("FULLY_CONNECTED", [x, *layers[0]], [hidden])
    model.operator("TANH", [hidden], [t])
    model.operator("FULLY_CONNECTED", [t, *layers[1]], [y])
    model.operator("SOFTMAX", [y], [z])
    path = folder / "net.tflite"
    path.write_bytes(model.finish([x], [y, z]))
    return [path]


def pytorch(folder: Path) -> list[Path]:
    import torch

    class Net(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            for name, matrix in zip(("one", "two"), weights(), strict=True):
                self.register_buffer(name, torch.from_numpy(matrix))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = torch.tanh(x @ self.one) @ self.two
            return y, torch.softmax(y, 1)

    return [save_torchscript(folder / "net.pt", Net(), torch.zeros(1, IN))]


def scripted(module: Any, path: Path) -> None:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(module), str(path))


LIBRARIES: dict[str, tuple[str, Make]] = {
    "onnx": ("onnxruntime", onnx),
    "openvino": ("openvino", openvino),
    "tflite": ("ai_edge_litert", tflite),
    "pytorch": ("torch", pytorch),
}


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> str:
    needs(LIBRARIES[request.param][0])
    return request.param


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each batch."""
    seen = []
    compute = Instance.compute

    def spy(self, batch):
        seen.append(sum(member.rows for member in batch.members))
        compute(self, batch)

    monkeypatch.setattr(Instance, "compute", spy)
    return seen


def inputs(guest: int, turn: int) -> Any:
    random = np.random.default_rng(100 * guest + turn)
    return random.standard_normal((1 + (guest + turn) % 3, IN), np.float32)


@pytest.mark.parametrize("isolation", ["none", "shared"])
def test_sixteen_guests_get_what_each_gets_alone(host, library, isolation, tmp_path, batches):
    paths = LIBRARIES[library][1](tmp_path)
    host.add_model("plain", *paths, encoding=library)
    host.add_model("batched", *paths, encoding=library, isolation=isolation, config=BATCHING)
    plain, batched = host.model("plain"), host.model("batched")
    barrier = threading.Barrier(GUESTS)
    worst = []

    def guest(number: int) -> None:
        with plain.init_execution_context() as one, batched.init_execution_context() as other:
            barrier.wait()
            for turn in range(4):
                given = inputs(number, turn)
                for context in (one, other):
                    context.set_input(0, given)
                    context.compute()
                for output in (0, 1):
                    expected, seen = one.get_output(output), other.get_output(output)
                    assert seen.shape == expected.shape == (len(given), OUT)
                    worst.append(np.abs(seen - expected).max() / np.abs(expected).max())

    together([partial(guest, number) for number in range(GUESTS)])
    assert len(worst) == 2 * 4 * GUESTS
    assert max(worst) <= TOLERANCE
    assert len(batches) < 4 * GUESTS


def test_a_result_does_not_depend_on_who_else_is_in_the_batch(host, library, tmp_path):
    """The same place in a batch of as many rows gives the same bits, whatever the other rows are:
    nothing of one guest's input comes out at another's."""
    paths = LIBRARIES[library][1](tmp_path)
    model = host.load(*paths, encoding=library, config=BATCHING)
    random = np.random.default_rng(1)
    mine = random.standard_normal((1, IN), np.float32)
    seen = []
    for _ in range(2):
        others = random.standard_normal((7, IN), np.float32)
        seen.append(model.run(np.concatenate([mine, others]))["y" if library != "pytorch" else "0"])
    assert np.array_equal(seen[0][:1], seen[1][:1])
    assert not np.array_equal(seen[0][1:], seen[1][1:])


@pytest.mark.parametrize("isolation", ["none", "shared"])
def test_mistakes_are_answered_as_without_batching(host, library, isolation, tmp_path):
    paths = LIBRARIES[library][1](tmp_path)
    host.add_model("plain", *paths, encoding=library, isolation=isolation)
    host.add_model("batched", *paths, encoding=library, isolation=isolation, config=BATCHING)

    def errors(name: str) -> list[str]:
        said = []

        def note(function: Callable[..., Any], *arguments: Any) -> None:
            try:
                function(*arguments)
            except WasiNnError as error:
                said.append(f"{type(error).__name__}: {error}")
            else:
                said.append("works")

        with host.model(name).init_execution_context() as context:
            note(context.compute)
            note(context.get_output, 0)
            note(context.set_input, 0, np.zeros((1, IN), np.float32))
            note(context.get_output, 0)
            note(context.set_input, 7, np.zeros((1, IN), np.float32))
            note(context.set_input, "nonsense", np.zeros((1, IN), np.float32))
            note(context.compute)
            note(context.get_output, 7)
            note(context.get_output, "nonsense")
            note(context.set_input, 0, np.zeros((1, IN + 1), np.float32))
            note(context.set_input, 0, np.zeros((1, IN), np.int32))
            note(context.compute)
        return said

    assert errors("batched") == errors("plain")


# (TorchScript does not describe dimensions.)
@pytest.mark.parametrize("library", ["onnx", "openvino", "tflite"], indirect=True)
def test_a_graph_with_a_fixed_first_dimension_is_refused(host, library):
    folder, suffixes = {
        "onnx": ("onnx", [".onnx"]),
        "openvino": ("openvino", [".xml", ".bin"]),
        "tflite": ("tensorflowlite", [".tflite"]),
    }[library]
    paths = [GRAPHS / folder / f"add{suffix}" for suffix in suffixes]
    with pytest.raises(InvalidArgument, match=r"input x: f32\[1, 4\] has a fixed first dimension"):
        host.load(*paths, encoding=library, config=BATCHING)


def test_zero_rows_are_answered_as_without_batching(host, library, tmp_path):
    paths = LIBRARIES[library][1](tmp_path)
    nothing = np.zeros((0, IN), np.float32)
    answers = []
    for config in ({}, BATCHING):
        model = host.load(*paths, encoding=library, config=config)
        try:
            answers.append([array.shape for array in model.run(nothing).values()])
        except WasiNnError as error:
            answers.append(type(error))
    assert answers[0] == answers[1]


# (ONNX has no variables.)
@pytest.mark.parametrize("library", ["openvino", "tflite", "pytorch"], indirect=True)
def test_a_model_that_keeps_state_is_refused(host, library, tmp_path):
    makers: dict[str, Make] = {
        "openvino": openvino_counter,
        "tflite": tflite_counter,
        "pytorch": pytorch_counter,
    }
    paths = makers[library](tmp_path)
    with pytest.raises(InvalidArgument, match="keeps something between two computations"):
        host.load(*paths, encoding=library, config=BATCHING)


def openvino_counter(folder: Path) -> list[Path]:
    import openvino as library
    from openvino import opset13 as ops

    x = ops.parameter([-1, 1], library.Type.f32, "x")
    before = ops.read_value(ops.constant(np.zeros((1, 1), np.float32)), "sum")
    after = ops.add(before, x)
    model = library.Model([ops.result(after)], [ops.assign(after, "sum")], [x], "counter")
    path = folder / "counter.xml"
    library.serialize(model, path, path.with_suffix(".bin"))
    return [path, path.with_suffix(".bin")]


def tflite_counter(folder: Path) -> list[Path]:
    model = FlatModel()
    x, y = (model.tensor(name, (1, 4), signature=(-1, 4)) for name in "xy")
    variable = model.tensor("sum", (1, 4))
    model._graph.tensors[variable].isVariable = True
    model.operator("ADD", [x, variable], [y])
    path = folder / "counter.tflite"
    path.write_bytes(model.finish([x], [y]))
    return [path]


def pytorch_counter(folder: Path) -> list[Path]:
    import torch

    class Counter(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("sum", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.sum += x.sum()
            return x + self.sum

    path = folder / "counter.pt"
    scripted(Counter(), path)
    return [path]


def test_a_language_model_refuses_the_key(host):
    needs("xllamacpp")
    with pytest.raises(InvalidArgument, match=r"config .batching.: .*ggml.*texts or bytes"):
        host.load(GRAPHS / "ggml/tiny.gguf", config=BATCHING)


def test_a_worker_of_one_guest_refuses_the_key(host):
    needs("onnxruntime")
    host.add_model("net", GRAPHS / "onnx/batch.onnx", isolation="guest", config=BATCHING)
    with (
        host.open_session() as session,
        pytest.raises(RuntimeFailure, match="needs the isolation 'none' or 'shared'"),
    ):
        session.load_by_name("net")


@pytest.mark.parametrize("isolation", ["none", "shared"])
def test_an_endless_computation_ends_with_its_guests_time_and_the_others_are_computed(
    plugins, isolation, tmp_path, batches
):
    needs("onnxruntime")
    path = endless(tmp_path)
    config = {"batching": {"max_batch_size": 2, "max_queue_delay_ms": 10_000}}
    results: list[Any] = [None, None]
    barrier = threading.Barrier(2)

    def guest(number: int, limits: Limits, value: float) -> None:
        with Host(plugins=plugins, policy=Policy(limits=limits)) as host:
            host.add_model("net", path, isolation=isolation, config=config)
            with host.model("net").init_execution_context() as context:
                context.set_input(0, np.full((1, 2), value, np.float32))
                barrier.wait()
                try:
                    context.compute()
                    results[number] = context.get_output(0)
                except QuotaExceeded as error:
                    results[number] = error

    together(
        [
            partial(guest, 0, Limits(compute_timeout=1.0), 666.0),
            partial(guest, 1, Limits(), 2.0),
        ]
    )
    assert isinstance(results[0], QuotaExceeded)
    assert np.array_equal(results[1], [[2, 2]])
    assert batches == [2, 1]


def endless(folder: Path) -> Path:
    """A loop that ends when no value is 666."""
    from onnx import TensorProto, helper

    def info(name: str, kind: int, dims: Any) -> Any:
        return helper.make_tensor_value_info(name, kind, dims)

    def found(value: str, result: str) -> list[Any]:
        return [
            helper.make_node("Equal", [value, "poison"], [f"{result}_each"]),
            helper.make_node("Cast", [f"{result}_each"], [f"{result}_f"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMax", [f"{result}_f"], [f"{result}_max"], keepdims=0),
            helper.make_node("Cast", [f"{result}_max"], [result], to=TensorProto.BOOL),
        ]

    body = helper.make_graph(
        [*found("before", "again"), helper.make_node("Identity", ["before"], ["after"])],
        "body",
        [
            info("number", TensorProto.INT64, []),
            info("once", TensorProto.BOOL, []),
            info("before", TensorProto.FLOAT, ["n", 2]),
        ],
        [info("again", TensorProto.BOOL, []), info("after", TensorProto.FLOAT, ["n", 2])],
    )
    nodes = [*found("x", "begins"), helper.make_node("Loop", ["", "begins", "x"], ["y"], body=body)]
    dims = ("n", 2)
    poison = {"poison": np.array(666, np.float32)}
    return save_onnx(folder / "endless.onnx", nodes, {"x": dims}, {"y": dims}, poison)


def test_outputs_are_found_by_name_and_an_argument_with_a_default_may_be_left_out(host, tmp_path):
    torch = needs("torch")

    class Scaled(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x, scale: float = 2.0):
            return {"scaled": x * scale}

    path = tmp_path / "scaled.pt"
    scripted(Scaled(), path)
    model = host.load(path, config=BATCHING)
    x = np.ones((1, 2), np.float32)
    assert np.array_equal(model.run(x)["scaled" if model.outputs else "0"], x * 2)
    with model.init_execution_context() as context:
        context.set_input("x", x)
        context.set_input("scale", np.float32(3))
        context.compute()
        assert np.array_equal(context.get_output("scaled"), x * 3)


def test_guests_in_an_engine_are_batched(host):
    needs("onnxruntime")
    needs("wasmtime")
    host.add_model("net", GRAPHS / "onnx/batch.onnx", config=BATCHING)
    program = host.compile(GRAPHS.parent / "guests/cycle/cycle.wasm")
    codes = []
    guest = ["net", "32", "200", "2", "4"]
    barrier = threading.Barrier(4)

    def run() -> None:
        codes.append(program.run(guest, on_start=lambda _: barrier.wait()).exit_code)

    together([run] * 4)
    assert codes == [0] * 4
    counts = host.model("net")._loaded.statistics()
    # (The guest computes once more before it measures.)
    assert counts["rows"] == 2 * counts["requests"]
    assert counts["requests"] >= 4 * 200
    assert counts["batches"] < counts["requests"]


def test_large_inputs_are_joined_in_the_memory_that_a_worker_reads(host, monkeypatch):
    needs("onnxruntime")
    config = {"batching": {"max_batch_size": 2000, "max_queue_delay_ms": 10_000}}
    model = host.load(GRAPHS / "onnx/batch.onnx", isolation="shared", config=config)
    shared = []
    ask = RemoteContext.input_memory

    def spy(self, key, kind, dims):
        memory = ask(self, key, kind, dims)
        shared.append(memory is not None)
        return memory

    monkeypatch.setattr(RemoteContext, "input_memory", spy)
    barrier = threading.Barrier(2)
    right = []

    def guest(number: int) -> None:
        with model.init_execution_context() as context:
            for turn in range(3):
                given = np.full((1000, 4), 10 * turn + number, np.float32)
                context.set_input(0, given)
                barrier.wait()
                context.compute()
                right.append(np.array_equal(context.get_output(0), given * 2))

    together([partial(guest, number) for number in range(2)])
    assert shared == [False, True, True]
    assert right == [True] * 6


@pytest.mark.parametrize("kind", ["stream", "untyped_bytes", "prints"])
def test_the_identity_model_is_batched_unless_it_streams_or_prints(host, tmp_path, kind):
    path = tmp_path / "echo.identity"
    path.write_text("wasi-nn:identity\n")
    config = {"batching": {"max_batch_size": 4, "max_queue_delay_ms": 10_000}}
    model = host.load(path, config=config)
    barrier = threading.Barrier(3)
    right = []

    def guest(number: int) -> None:
        with model.init_execution_context() as context:
            one, other = np.full((number, 2), number), np.full((number, 3), number, np.uint8)
            context.set_input(3, one)
            context.set_input("0", other)
            barrier.wait()
            context.compute()
            right.append(np.array_equal(context.get_output(0), other))
            right.append(np.array_equal(context.get_output("3"), one))

    together([partial(guest, number) for number in (1, 2)] + [barrier.wait])
    assert right == [True] * 4
    assert model._loaded.statistics()["rows"] >= 3
    with pytest.raises(InvalidArgument, match="config 'batching'"):
        host.load(path, config={**config, kind: 1 if kind == "stream" else True})
