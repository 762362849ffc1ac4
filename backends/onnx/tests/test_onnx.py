"""onnxruntime behind the backend contract: every type, every shape, every mistake."""

from __future__ import annotations

import itertools
import random
import threading
import time
from functools import partial

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from wasi_nn import ExecutionTarget, Host, TensorType
from wasi_nn._models import loading
from wasi_nn.backend import LoadOptions, unlimited
from wasi_nn.backend.onnx_files import has_external_data
from wasi_nn.errors import (
    InvalidArgument,
    NnError,
    RuntimeFailure,
    Unavailable,
    UnsupportedOperation,
)
from wasi_nn.types import Availability
from wasi_nn_conformance.engine_tests.common import together
from wasi_nn_onnx import providers
from wasi_nn_onnx.backend import OnnxBackend

OPSET = [helper.make_opsetid("", 17)]


def info(name, kind, dims):
    return helper.make_tensor_value_info(name, kind, dims)


def make(nodes, inputs, outputs, weights=()):
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(weights))
    model = helper.make_model(graph, opset_imports=OPSET)
    model.ir_version = 8
    return model.SerializeToString()


def identity(kind, dims=(2, 3)):
    node = helper.make_node("Identity", ["x"], ["y"])
    return make([node], [info("x", kind, dims)], [info("y", kind, dims)])


def small():
    """y = relu(x · w + b) with weights, to be damaged."""
    weights = [
        numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(4, 3), "w"),
        numpy_helper.from_array(np.ones(3, np.float32), "b"),
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["a"]),
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    x, y = info("x", TensorProto.FLOAT, ["N", 4]), info("y", TensorProto.FLOAT, ["N", 3])
    return make(nodes, [x], [y], weights)


@pytest.mark.parametrize(
    ("number", "dtype", "kind"),
    [
        (TensorProto.FLOAT16, np.float16, TensorType.F16),
        (TensorProto.FLOAT, np.float32, TensorType.F32),
        (TensorProto.DOUBLE, np.float64, TensorType.F64),
        (TensorProto.BFLOAT16, ml_dtypes.bfloat16, TensorType.BF16),
        (TensorProto.UINT8, np.uint8, TensorType.U8),
        (TensorProto.INT32, np.int32, TensorType.I32),
        (TensorProto.INT64, np.int64, TensorType.I64),
    ],
)
@pytest.mark.parametrize("dims", [(2, 3), (), ("N", 3)])
def test_every_tensor_type(host, number, dtype, kind, dims):
    model = host.load(identity(number, dims))
    assert model.inputs[0].type is kind
    assert model.outputs[0].type is kind
    array = np.asarray(np.arange(6).reshape(2, 3) if dims else 5).astype(dtype)
    result = model.run(array)["y"]
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, array)


@pytest.mark.parametrize(
    ("number", "native", "carrier"),
    [
        (TensorProto.BOOL, np.bool_, np.uint8),
        (TensorProto.INT8, np.int8, np.uint8),
        (TensorProto.UINT32, np.uint32, np.int32),
        (TensorProto.UINT64, np.uint64, np.int64),
    ],
)
def test_types_that_wasi_nn_lacks_travel_as_bits(host, number, native, carrier):
    array = np.asarray([[1, 0, 1], [0, 1, 1]]).astype(native)
    result = host.load(identity(number)).run(array.view(carrier))["y"]
    np.testing.assert_array_equal(result.view(native), array)


def test_strings_and_sequences_are_described_and_refused(host):
    x = info("x", TensorProto.STRING, [1])
    model = host.load(
        make(
            [helper.make_node("Identity", ["x"], ["y"])], [x], [info("y", TensorProto.STRING, [1])]
        )
    )
    assert model.inputs[0].describe() == "x: tensor(string)[1]"
    with pytest.raises(InvalidArgument, match="not a tensor type of wasi-nn"):
        model.run(np.zeros(1, np.uint8))
    sequence = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
    node = helper.make_node("SequenceConstruct", ["x"], ["s"])
    model = host.load(make([node], [info("x", TensorProto.FLOAT, [1])], [sequence]))
    with pytest.raises(UnsupportedOperation, match="not a tensor type of wasi-nn"):
        model.run(np.zeros(1, np.float32))


def test_several_inputs_and_outputs_by_index_and_by_name(host):
    a, b = info("a", TensorProto.FLOAT, [2]), info("b", TensorProto.INT64, [2])
    nodes = [
        helper.make_node("Neg", ["a"], ["minus"]),
        helper.make_node("Cast", ["b"], ["real"], to=TensorProto.FLOAT),
    ]
    outputs = [info("minus", TensorProto.FLOAT, [2]), info("real", TensorProto.FLOAT, [2])]
    model = host.load(make(nodes, [a, b], outputs))
    with model.init_execution_context() as context:
        context.set_input("b", np.int64([3, 4]))
        context.set_input(0, np.float32([1, 2]))
        context.compute()
        np.testing.assert_array_equal(context.get_output(0), [-1, -2])
        np.testing.assert_array_equal(context.get_output("real"), [3, 4])
        context.set_input(1, np.int64([5, 6]))
        context.compute()
        np.testing.assert_array_equal(context.get_output("minus"), [-1, -2])
        np.testing.assert_array_equal(context.get_output(1), [5, 6])
        for key in (2, -1, "other", 0xFFFFFFFF):
            with pytest.raises(InvalidArgument):
                context.get_output(key)
            with pytest.raises(InvalidArgument):
                context.set_input(key, np.float32([1, 2]))


def test_dimensions_may_change_from_run_to_run(host):
    with host.load(small()).init_execution_context() as context:
        for rows in (1, 5, 2, 5, 0, 3):
            x = np.random.default_rng(rows).random((rows, 4), np.float32)
            context.set_input(0, x)
            context.compute()
            expected = np.maximum(x @ np.arange(12, dtype=np.float32).reshape(4, 3) + 1, 0)
            np.testing.assert_allclose(context.get_output(0), expected, rtol=1e-6)


def test_output_dimensions_may_depend_on_the_data(host):
    node = helper.make_node("NonZero", ["x"], ["y"])
    x, y = info("x", TensorProto.FLOAT, [4]), info("y", TensorProto.INT64, [1, "K"])
    with host.load(make([node], [x], [y])).init_execution_context() as context:
        for values in ([1, 0, 1, 1], [0, 0, 0, 0], [0, 2, 0, 0]):
            context.set_input(0, np.float32(values))
            context.compute()
            np.testing.assert_array_equal(context.get_output(0), [np.flatnonzero(values)])


class TestOutputs:
    """Every output has its own value, whatever stands beside it."""

    X = np.float32([[1, 2], [3, 4], [5, 6]])

    @pytest.mark.parametrize("order", list(itertools.permutations("of0pscd"))[::97])
    def test_outputs_come_in_the_models_order(self, host, order):
        """Open, fixed, of no elements, an input, a sequence, a constant, and one listed twice."""
        kind = TensorProto.FLOAT
        nodes = [
            helper.make_node("Neg", ["x"], ["o"]),
            helper.make_node("Shape", ["x"], ["f"]),
            helper.make_node("Slice", ["x", "none", "none"], ["0"]),
            helper.make_node("SequenceConstruct", ["x"], ["s"]),
            helper.make_node("Abs", ["x"], ["d"]),
        ]
        described = {
            "o": info("o", kind, ["n", 2]),
            "f": info("f", TensorProto.INT64, [2]),
            "0": info("0", kind, [0, 2]),
            "p": info("p", kind, [2]),
            "s": helper.make_tensor_sequence_value_info("s", kind, None),
            "c": info("c", kind, [2]),
            "d": info("d", kind, ["n", 2]),
        }
        weights = [
            numpy_helper.from_array(np.zeros(1, np.int64), "none"),
            numpy_helper.from_array(np.float32([8, 9]), "c"),
        ]
        inputs = [info("x", kind, ["n", 2]), info("p", kind, [2])]
        outputs = [described[name] for name in (*order, "d")]
        model = host.load(make(nodes, inputs, outputs, weights))
        with model.init_execution_context() as context:
            for rows in (3, 1, 2):
                x = self.X[:rows]
                context.set_input("x", x)
                context.set_input("p", x[0])
                context.compute()
                context.set_input("x", x + 1)
                context.set_input("p", x[0] + 1)
                right = {"o": -x, "f": [rows, 2], "0": np.empty((0, 2)), "p": x[0], "c": [8, 9]}
                right["d"] = x
                for index, name in enumerate((*order, "d")):
                    if name == "s":
                        with pytest.raises(UnsupportedOperation):
                            context.get_output(index)
                        continue
                    for key in (index, name):
                        np.testing.assert_array_equal(context.get_output(key), right[name])

    @pytest.mark.parametrize("dims", [[2], ["n"], None])
    def test_an_input_among_the_outputs_keeps_its_value(self, host, dims):
        x = info("x", TensorProto.FLOAT, dims)
        same = helper.make_node("Identity", ["x"], ["y"])
        outputs = [x, info("y", TensorProto.FLOAT, dims), x]
        with host.load(make([same], [x], outputs)).init_execution_context() as context:
            for array in (np.float32([1, 2]), np.float32([3, 4])):
                context.set_input("x", array)
                context.compute()
                context.set_input("x", array + 1)
                for key in (0, 1, 2, "x", "y"):
                    np.testing.assert_array_equal(context.get_output(key), array)

    @pytest.mark.parametrize("declared", [[1, 3], [3, 2], [2, 3, 1], [6], [], None])
    def test_declared_output_dimensions_may_be_wrong(self, host, declared):
        nodes = [
            helper.make_node("Identity", ["x"], ["between"]),
            helper.make_node("Reshape", ["between", "shape"], ["y"]),
            helper.make_node("Neg", ["x"], ["z"]),
        ]
        x = info("x", TensorProto.FLOAT, ["a", "b"])
        shape = info("shape", TensorProto.INT64, [2])
        outputs = [info("y", TensorProto.FLOAT, declared), info("z", TensorProto.FLOAT, [2, 3])]
        model = host.load(make(nodes, [x, shape], outputs), config={"optimize": False})
        with model.init_execution_context() as context:
            for dims in ((2, 3), (3, 2), (6, 1)):
                array = np.arange(6, dtype=np.float32).reshape(2, 3)
                context.set_input(0, array)
                context.set_input(1, np.int64(dims))
                context.compute()
                np.testing.assert_array_equal(context.get_output("y"), array.reshape(dims))
                np.testing.assert_array_equal(context.get_output("z"), -array)
            context.set_input(1, np.int64([4, 4]))
            with pytest.raises(RuntimeFailure):
                context.compute()
        np.testing.assert_array_equal(
            model.run({0: array, 1: np.int64([3, 2])})["y"], array.reshape(3, 2)
        )

    @pytest.mark.parametrize("declared", [[1], [1, 1], [1, 1, 1]])
    @pytest.mark.parametrize(
        "operator", ["Squeeze", "ReduceSum", "ReduceMax", "ReduceMean", "ReduceProd"]
    )
    def test_a_scalar_may_be_declared_as_one_element(self, host, operator, declared):
        options = {} if operator == "Squeeze" else {"keepdims": 0}
        nodes = [
            helper.make_node(operator, ["x"], ["y"], **options),
            helper.make_node("Neg", ["x"], ["z"]),
        ]
        x = info("x", TensorProto.FLOAT, ["n"])
        outputs = [info("y", TensorProto.FLOAT, declared), info("z", TensorProto.FLOAT, [1])]
        with host.load(make(nodes, [x], outputs)).init_execution_context() as context:
            for value in (5, 7):
                context.set_input(0, np.float32([value]))
                context.compute()
                answers = [context.get_output(index) for index in (0, 1)]
                assert [answer.tolist() for answer in answers] == [value, [-value]]

    def test_output_dimensions_may_depend_on_a_value(self, host):
        """One branch gives a scalar, and the other one element."""
        kinds = TensorProto.FLOAT, TensorProto.BOOL
        branches = {
            f"{name}_branch": helper.make_graph(
                [helper.make_node(operator, ["x"], [name])], name, [], [info(name, kinds[0], None)]
            )
            for name, operator in (("then", "Squeeze"), ("else", "Neg"))
        }
        node = helper.make_node("If", ["which"], ["y"], **branches)
        inputs = [info("x", kinds[0], [1]), info("which", kinds[1], [1])]
        model = host.load(make([node], inputs, [info("y", kinds[0], [1])]))
        with model.init_execution_context() as context:
            context.set_input("x", np.float32([5]))
            for which, right in ((True, 5), (False, [-5]), (True, 5)):
                context.set_input("which", np.array([which]))
                context.compute()
                assert context.get_output(0).tolist() == right

    def test_run_gives_the_outputs_that_can_be_read(self, host):
        sequence = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
        nodes = [
            helper.make_node("SequenceConstruct", ["x"], ["s"]),
            helper.make_node("Neg", ["x"], ["y"]),
        ]
        x, y = (info(name, TensorProto.FLOAT, [2]) for name in "xy")
        model = host.load(make(nodes, [x], [sequence, y]))
        assert {k: v.tolist() for k, v in model.run(np.float32([1, 2])).items()} == {"y": [-1, -2]}


def test_an_input_may_have_any_rank(host):
    x, y = (info(name, TensorProto.FLOAT, None) for name in "xy")
    model = host.load(make([helper.make_node("Neg", ["x"], ["y"])], [x], [y]))
    with model.init_execution_context() as context:
        for dims in ((), (2,), (1, 2), (2, 0, 3), (1, 1, 1, 4)):
            array = np.ones(dims, np.float32)
            context.set_input(0, array)
            context.compute()
            assert context.get_output(0).shape == dims
            assert (context.get_output(0) == -1).all()


def test_an_optional_input_may_be_left_out(host):
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, [2])
    maybe = helper.make_value_info("maybe", helper.make_optional_type_proto(tensor))
    nodes = [
        helper.make_node("OptionalHasElement", ["maybe"], ["given"]),
        helper.make_node("Neg", ["x"], ["y"]),
        helper.make_node("Optional", [], ["nothing"], type=tensor),
    ]
    nothing = helper.make_value_info("nothing", helper.make_optional_type_proto(tensor))
    x, y = (info(name, TensorProto.FLOAT, [2]) for name in "xy")
    outputs = [nothing, info("given", TensorProto.BOOL, []), y]
    model = host.load(make(nodes, [maybe, x], outputs))
    array = np.float32([1, 2])
    assert model.run({"x": array})["given"] == 0
    result = model.run({"x": array, "maybe": array})
    assert (result["given"], result["y"].tolist()) == (1, [-1, -2])
    with pytest.raises(InvalidArgument, match="not been set: x"):
        model.run({"maybe": array})


def test_a_model_of_a_later_version_is_explained(host):
    model = onnx.load_from_string(small())
    model.ir_version = 99
    with pytest.raises(RuntimeFailure, match="IR version: 99"):
        host.load(model.SerializeToString())


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((2, 3), np.float64), "does not take f64"),
        (np.zeros((2, 4), np.float32), r"dimensions \[2, 4\]"),
        (np.zeros((6,), np.float32), r"dimensions \[6\]"),
        (np.zeros((2, 3, 1), np.float32), r"dimensions \[2, 3, 1\]"),
        (np.zeros((), np.float32), r"dimensions \[\]"),
    ],
)
def test_wrong_types_and_dimensions_are_invalid_arguments(host, array, says):
    with pytest.raises(InvalidArgument, match=says):
        host.load(identity(TensorProto.FLOAT)).run(array)


def test_calls_out_of_order_are_invalid(host):
    with host.load(identity(TensorProto.FLOAT)).init_execution_context() as context:
        with pytest.raises(InvalidArgument, match="not been set: x"):
            context.compute()
        with pytest.raises(InvalidArgument, match="before compute"):
            context.get_output(0)
        context.set_input(0, np.zeros((2, 3), np.float32))
        with pytest.raises(InvalidArgument, match="before compute"):
            context.get_output(0)


def test_a_failed_compute_leaves_no_output_behind(host):
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    x, shape = info("x", TensorProto.FLOAT, [4]), info("shape", TensorProto.INT64, [2])
    model = host.load(make([node], [x, shape], [info("y", TensorProto.FLOAT, ["A", "B"])]))
    with model.init_execution_context() as context:
        context.set_input(0, np.float32([1, 2, 3, 4]))
        context.set_input(1, np.int64([2, 2]))
        context.compute()
        context.set_input(1, np.int64([3, 3]))
        with pytest.raises(RuntimeFailure, match="failed to compute"):
            context.compute()
        with pytest.raises(InvalidArgument, match="before compute"):
            context.get_output(0)
        context.set_input(1, np.int64([4, 1]))
        context.compute()
        assert context.get_output(0).shape == (4, 1)


def test_a_model_that_lies_about_its_output_cannot_write_past_the_buffer(host):
    nodes = [helper.make_node("Concat", ["x", "x", "x"], ["y"], axis=0)]
    lying = make(nodes, [info("x", TensorProto.FLOAT, ["N"])], [info("y", TensorProto.FLOAT, [2])])
    assert host.load(lying).run(np.ones(100, np.float32))["y"].tolist() == [1] * 300


def test_builders_of_a_wrong_number_are_invalid(host):
    from wasi_nn.backend import Builder

    backend = OnnxBackend()
    model: Builder = memoryview(small())
    for builders in ([], [model, model]):
        with pytest.raises(InvalidArgument, match="one builder"):
            backend.load(builders, LoadOptions("onnx"))
    with pytest.raises(RuntimeFailure, match="rejects the model"):
        backend.load([memoryview(b"")], LoadOptions("onnx"))


def test_damaged_models_are_errors_and_never_crashes(host):
    sound, chance = small(), random.Random(5)
    x = np.ones((1, 4), np.float32)
    damaged = [sound[:length] for length in range(0, len(sound), max(1, len(sound) // 60))]
    for _ in range(300):
        mutant = bytearray(sound)
        for _ in range(chance.randint(1, 4)):
            mutant[chance.randrange(len(mutant))] = chance.randrange(256)
        damaged.append(bytes(mutant))
    rejected = 0
    for mutant in damaged:
        try:
            model = host.load(mutant, encoding="onnx")
            model.run(x)
        except NnError:
            rejected += 1
    assert len(damaged) > 300
    assert rejected > 100


@pytest.mark.parametrize("location", ["weights.bin", "../weights.bin", "{tmp}/weights.bin", ""])
def test_a_model_of_bytes_reads_no_file_of_the_host(host, tmp_path, monkeypatch, location):
    (tmp_path / "weights.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner" if location.startswith("..") else tmp_path)
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
    weight.data_location = TensorProto.EXTERNAL
    entry = weight.external_data.add()
    entry.key, entry.value = "location", location.format(tmp=tmp_path)
    x, y = info("x", TensorProto.FLOAT, [4]), info("y", TensorProto.FLOAT, [4])
    model = make([helper.make_node("Add", ["x", "w"], ["y"])], [x], [y], [weight])
    with pytest.raises(RuntimeFailure, match="register it by its path"):
        host.load(model)
    constant = helper.make_node("Constant", [], ["w"], value=weight)
    branch = helper.make_graph([constant], "then", [], [info("w", TensorProto.FLOAT, [4])])
    nodes = [helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)]
    condition = info("c", TensorProto.BOOL, [])
    with pytest.raises(RuntimeFailure, match="register it by its path"):
        host.load(make(nodes, [condition], [y]))


def test_no_spelling_of_the_protobuf_hides_a_file(host, tmp_path, monkeypatch):
    """Readers cut tags to 32 bits: a longer one is another field than it looks like."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
    weight.data_location = TensorProto.EXTERNAL
    entry = weight.external_data.add()
    entry.key, entry.value = "location", "weights.bin"
    x, y = info("x", TensorProto.FLOAT, [4]), info("y", TensorProto.FLOAT, [4])
    w = info("w", TensorProto.FLOAT, [4])
    model = make([helper.make_node("Add", ["x", "w"], ["y"])], [x, w], [y], [weight])
    graph = model.index(b"\x3a", 2)
    for tag in (b"\xba\x80\x80\x80\x10", b"\xba\x00", b"\xba\x80\x80\x80\x80\x01"):
        with pytest.raises(RuntimeFailure):
            host.load(model[:graph] + tag + model[graph + 1 :], encoding="onnx")


def test_an_output_too_large_for_memory_is_a_failure(host):
    huge = make(
        [helper.make_node("Reshape", ["x", "s"], ["y"])],
        [info("x", TensorProto.FLOAT, [1]), info("s", TensorProto.INT64, [1])],
        [info("y", TensorProto.FLOAT, [1 << 60])],
    )
    with pytest.raises(RuntimeFailure):
        host.load(huge).init_execution_context()


def test_a_tensor_named_location_is_not_a_file(host):
    x, y = (info(name, TensorProto.FLOAT, [2]) for name in ("location", "y"))
    model = make([helper.make_node("Neg", ["location"], ["y"])], [x], [y])
    assert host.load(model).run(np.float32([1, 2]))["y"].tolist() == [-1, -2]
    assert has_external_data(b"\x08location" + bytes(range(256)))


@pytest.mark.parametrize(
    "length", [b"\x08", b"\x88\x00", b"\x88\x80\x80\x00", b"\x88\x80\x80\x80\x10"]
)
def test_the_name_of_a_file_is_found_whatever_form_its_length_has(length):
    entry = b"\x0a" + length + b"location"
    tensor = b"\x6a" + bytes([len(entry)]) + entry
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    assert has_external_data(b"\x3a" + bytes([len(graph)]) + graph)


def test_a_model_of_very_many_fields_counts_as_one_with_files():
    """A guest makes the host walk its model. Below the bound, the walk finds no file."""
    for count, counts in ((100_000, False), (600_000, True)):
        nodes = b"\x0a\0" * count
        size = len(nodes)
        head = bytes([0x3A, size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14])
        assert has_external_data(head + nodes + b"\x12\x08location") is counts


def test_a_model_of_a_file_may_have_its_weights_beside_it(host, tmp_path):
    model = onnx.load_from_string(small())
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").exists()
    assert host.load(path).run(np.zeros((1, 4), np.float32))["y"].tolist() == [[1, 1, 1]]


class TestTargets:
    def test_an_unavailable_target_is_an_error_with_the_reason(self, host):
        with pytest.raises(UnsupportedOperation, match=r"gpu is not available.*--allow-fallback"):
            host.load(small(), target="gpu")
        with pytest.raises(UnsupportedOperation, match="tpu is not available"):
            host.load(small(), target="tpu")

    def test_allow_fallback_runs_on_the_cpu(self, plugins):
        with Host(plugins=plugins, allow_fallback=True) as host:
            assert host.load(small(), target="gpu").run(np.zeros((1, 4), np.float32))

    def test_auto_takes_the_best_there_is(self, host):
        assert host.load(small(), target="auto").run(np.zeros((1, 4), np.float32))

    @pytest.mark.parametrize(
        ("target", "available", "fallback", "expected"),
        [
            ("cpu", ["CPU"], False, ["CPU"]),
            ("gpu", ["CUDA", "CPU"], False, ["CUDA"]),
            ("gpu", ["CUDA", "CPU"], True, ["CUDA", "CPU"]),
            ("gpu", ["CPU"], True, ["CPU"]),
            ("auto", ["Dml", "CPU"], False, ["Dml", "CPU"]),
            ("tpu", ["QNN", "CPU"], False, ["QNN"]),
        ],
    )
    def test_each_target_has_its_providers(self, target, available, fallback, expected):
        named = [f"{name}ExecutionProvider" for name in available]
        found = providers.candidates(ExecutionTarget(target), named, fallback)
        assert found == [f"{name}ExecutionProvider" for name in expected]


class TestConfig:
    @pytest.mark.parametrize(
        "config",
        [
            {"threads": 2},
            {"allow-spinning": True},
            {"optimize": False},
            {"unknown": 1},
            {"inter-op-threads": 2},
        ],
    )
    def test_settings_reach_onnxruntime(self, host, config):
        assert host.load(small(), config=config).run(np.zeros((1, 4), np.float32))

    @pytest.mark.parametrize(
        "config",
        [
            {"threads": "2"},
            {"threads": -1},
            {"threads": True},
            {"threads": 1024},
            {"allow-spinning": 1},
            {"optimize": "no"},
        ],
    )
    def test_settings_of_wrong_types_are_invalid(self, host, config):
        with pytest.raises(InvalidArgument, match="must be"):
            host.load(small(), config=config)


def endless():
    """A loop of 2^40 turns."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["still"]),
            helper.make_node("Sin", ["state"], ["next"]),
        ],
        "body",
        [
            info("turn", TensorProto.INT64, []),
            info("going", TensorProto.BOOL, []),
            info("state", TensorProto.FLOAT, [1]),
        ],
        [info("still", TensorProto.BOOL, []), info("next", TensorProto.FLOAT, [1])],
    )
    node = helper.make_node("Loop", ["turns", "", "x"], ["y"], body=body)
    turns = numpy_helper.from_array(np.int64(1 << 40), "turns")
    x, y = info("x", TensorProto.FLOAT, [1]), info("y", TensorProto.FLOAT, [1])
    return make([node], [x], [y], [turns])


def test_a_computation_can_be_cancelled():
    graph = OnnxBackend().load([memoryview(endless())], LoadOptions("onnx"))
    context = graph.init_execution_context(unlimited)
    from wasi_nn import Tensor

    context.set_input(0, Tensor.of(np.zeros(1, np.float32)))
    started = time.monotonic()
    threading.Timer(0.2, context.cancel).start()
    with pytest.raises(RuntimeFailure):
        context.compute()
    assert 0.2 <= time.monotonic() - started < 5


def test_a_deadline_reaches_into_a_computation(host, guests, tmp_path):
    from wasi_nn import Limits
    from wasi_nn.errors import DeadlineExceeded

    path = tmp_path / "endless.onnx"
    path.write_bytes(endless())
    host.add_model("endless", path)
    started = time.monotonic()
    result = host.run(
        guests / "cycle/cycle.wasm", ["endless", "4", "1", "1"], limits=Limits(timeout=0.3)
    )
    assert isinstance(result.error, DeadlineExceeded) or result.exit_code == 1
    assert 0.3 <= time.monotonic() - started < 5


def test_contexts_of_one_graph_run_side_by_side(host):
    model = host.load(small())
    wrong: list[int] = []

    def work(seed: int) -> None:
        random_numbers = np.random.default_rng(seed)
        with model.init_execution_context() as context:
            for _ in range(200):
                x = random_numbers.random((seed + 1, 4), np.float32)
                context.set_input(0, x)
                context.compute()
                expected = np.maximum(x @ np.arange(12, dtype=np.float32).reshape(4, 3) + 1, 0)
                if not np.allclose(context.get_output(0), expected, rtol=1e-5):
                    wrong.append(seed)

    together([partial(work, seed) for seed in range(4)])
    assert wrong == []


def test_availability_gives_version_and_devices():
    found = OnnxBackend().availability(deep=True)
    assert found.usable
    assert found.detail.startswith("onnxruntime 1.")
    assert "cpu (CPUExecutionProvider)" in found.devices


def test_without_onnxruntime_the_backend_says_what_to_install(monkeypatch):
    monkeypatch.setattr(
        "wasi_nn_onnx.backend.missing_library",
        lambda package, extra: f'{package} is not installed; pip install "wasi-nn[{extra}]"',
    )
    backend = OnnxBackend()
    assert (
        backend.availability(deep=True)
        == backend.availability()
        == Availability(False, 'onnxruntime is not installed; pip install "wasi-nn[onnx]"', ())
    )
    with pytest.raises(Unavailable):
        loading.load(backend, [memoryview(b"")], LoadOptions("onnx"))
