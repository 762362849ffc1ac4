"""Embedding: guests and models from Python."""

from __future__ import annotations

import pickle
import struct
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from wasi_nn import (
    GuestOptions,
    Host,
    Limits,
    Preopen,
    Program,
    RunOptions,
    Tensor,
    TensorType,
    UsageError,
)
from wasi_nn.errors import InvalidArgument, InvalidEncoding, NotFound, OutOfFuel, Unavailable
from wasi_nn.runtime.name import RuntimeName
from wasi_nn.types import Availability
from wasi_nn_conformance.engine_tests.common import together


@pytest.fixture
def echo(host, identity_model):
    host.add_model("echo", identity_model())
    host.add_model("stream", identity_model("stream", stream=4))
    return host


@pytest.fixture
def add_onnx(tmp_path):
    """sum = a + b, product = a * b, on any number of pairs."""
    dims = ["N", 2]
    a, b, total, product = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
        for name in ("a", "b", "sum", "product")
    )
    nodes = [
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("Mul", ["a", "b"], ["product"]),
    ]
    graph = helper.make_graph(nodes, "g", [a, b], [total, product])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    path = tmp_path / "add.onnx"
    onnx.save(model, path)
    return path


class TestGuests:
    def test_a_guest_runs_in_five_lines(self, guests, identity_model):
        with Host() as host:
            host.add_model("echo", identity_model())
            result = host.run(guests / "echo/echo.wasm", ["echo", "hello"])
            assert (result.exit_code, result.stdout) == (0, b"hello")
            assert result.timings.run > 0

    def test_streaming(self, echo, guests):
        result = echo.run(guests / "echo/echo.wasm", ["--stream", "stream", "hello world"])
        assert (result.exit_code, result.stdout, result.dialect) == (0, b"hello world", "wasmedge")

    def test_a_failure_carries_its_reason(self, echo, guests):
        result = echo.run(guests / "echo/echo.wasm", ["other", "hello"])
        assert result.exit_code == 1
        assert result.stderr == b"echo: load_by_name: not_found\n"
        assert [str(failure.code) for failure in result.failures] == ["not_found"]
        assert "registered: echo, stream" in result.failures[0].reason
        assert result.failed == 1

    def test_stats(self, echo, guests):
        result = echo.run(guests / "echo/echo.wasm", ["--stream", "stream", "hello"], stats=True)
        assert result.calls["compute_single"].calls == 3
        # The end of a text is an errno, and is not a failure.
        assert result.calls["compute_single"].failures == 0
        assert result.calls["set_input"].seconds > 0
        assert "unload" not in result.calls
        assert [graph.backend for graph in result.graphs] == ["identity"]
        assert echo.run(guests / "echo/echo.wasm", ["echo", "x"]).calls == {}

    def test_a_sightglass_guest_marks_what_it_measures(self, host, wat):
        wasm = wat(
            """(module (import "bench" "start" (func $start)) (import "bench" "end" (func $end))
            (memory (export "memory") 1)
            (func (export "_start") (call $end) (call $start) (call $end) (call $start)
              (call $end) (call $end)))"""
        )
        result = host.run(wasm)
        assert result.exit_code == 0
        assert len(result.timings.bench) == 2
        assert all(0 <= span < 1 for span in result.timings.bench)

    def test_only_the_latest_marks_are_kept(self, host, wat):
        wasm = wat(
            """(module (import "bench" "start" (func $start)) (import "bench" "end" (func $end))
            (memory (export "memory") 1)
            (func (export "_start") (local $left i32) (local.set $left (i32.const 12000))
              (loop $again (call $start) (call $end)
                (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))))"""
        )
        assert len(host.run(wasm).timings.bench) == 10_000

    def test_one_program_many_threads(self, echo, guests):
        program = echo.compile(guests / "echo/echo.wasm")
        outputs: dict[int, bytes] = {}

        def work(number: int) -> None:
            for _ in range(10):
                text = f"guest {number} " * 50
                outputs[number] = program.run(["--stream", "stream", text]).stdout
                assert outputs[number] == text.encode()

        together([partial(work, n) for n in range(8)])
        assert len(outputs) == 8

    def test_output_to_a_callable_and_its_limit(self, echo, guests):
        pieces: list[bytes] = []
        program = echo.compile(guests / "echo/echo.wasm")
        result = program.run(["--stream", "stream", "hello world"], stdout=pieces.append)
        assert (pieces, result.stdout) == ([b"hell", b"o wo", b"rld"], b"")
        cut = program.run(["echo", "hello"], limits=Limits(output=3))
        assert cut.stdout == b"hel"

    def test_directories(self, echo, guests, tmp_path):
        (tmp_path / "in.raw").write_bytes(struct.pack("<3f", 1, 3, 2))
        (tmp_path / "m").write_text("wasi-nn:identity\n")
        classify = echo.compile(guests / "classify/classify.wasm")
        result = classify.run(["/d/m", "/d/in.raw", "1,3"], dirs={"/d": tmp_path})
        assert result.stdout == b"1 3.0000\n2 2.0000\n0 1.0000\n"
        assert result.failures == ()
        with pytest.raises(UsageError, match="not a directory"):
            classify.run([], dirs=[Preopen(tmp_path / "m", "/d")])

    def test_a_dialect_for_other_guests_is_refused(self, echo, guests):
        program = echo.compile(guests / "echo/echo.wasm")
        with pytest.raises(UsageError, match="for guests that import wasi_nn"):
            program.run(["echo", "x"], dialect="wamr-legacy")
        with pytest.raises(UsageError, match="no dialect"):
            program.run(["echo", "x"], dialect="latin")
        assert program.run(["echo", "x"], dialect="wasmedge").exit_code == 0

    def test_mistakes(self, host, tmp_path):
        with pytest.raises(UsageError, match="cannot read"):
            host.run(tmp_path / "none.wasm")
        with pytest.raises(UsageError, match="not a WebAssembly module"):
            host.run(b"#!/bin/sh")
        with pytest.raises(UsageError, match="damaged"):
            host.run(b"\0asm\x01\0\0\0\x01\x05")
        with pytest.raises(UsageError, match="no runtime 'abacus'"):
            Host(runtime="abacus").run(b"\0asm\x01\0\0\0")

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"dirs": "data"}, "dirs is 'data', and must map guest paths"),
            ({"dirs": ["data"]}, "must map guest paths"),
            ({"dirs": 5}, "dirs is 5"),
            ({"dirs": None}, "dirs is None"),
            ({"dirs": {"/data": 3}}, "must map guest paths"),
            ({"dirs": {None: "."}}, "must map guest paths"),
            ({"dirs": {"/data": b"."}}, "must map guest paths"),
            ({"dirs": [Preopen(3, "/data")]}, "must map guest paths"),
            ({"args": None}, "args is None, and must be a list of texts"),
            ({"args": {"a": 1}}, "must be a list of texts"),
            ({"args": 3}, "args is 3"),
            ({"env": {"A=B": "1"}}, "must be a text without '='"),
            ({"env": {"": "1"}}, "must be a text without '='"),
            ({"args": "name:net"}, r"must be a list of texts, as in \['name:net'\]"),
            ({"args": b"x"}, "must be a list of texts"),
            ({"args": [1, "x"]}, "is 1, and must be a text"),
            ({"env": {"A": 1}}, "is 1, and must be a text"),
            ({"env": ["A=1"]}, "env is .*must map names"),
            ({"args": [b"x"]}, "must be a text"),
        ],
    )
    def test_options_of_a_wrong_type_are_usage_errors(self, host, guests, options, says):
        with pytest.raises(UsageError, match=says):
            host.run(guests / "hello/hello.wasm", **options)

    def test_an_unknown_option_is_a_type_error_that_names_the_nearest(self, host, guests):
        program = host.program(guests / "hello/hello.wasm")
        with pytest.raises(TypeError, match="no option 'timout'; did you mean 'timeout'"):
            program.run(timout=3)
        with pytest.raises(TypeError, match=r"no option 'env' \(see GuestOptions\)"):
            program.instantiate(env={})

    def test_the_help_of_a_method_lists_its_options(self):
        for method, options in ((Program.run, RunOptions), (Program.instantiate, GuestOptions)):
            assert [name for name in options.__annotations__ if name not in method.__doc__] == []

    @pytest.mark.parametrize(
        ("text", "name"),
        [
            ("wasmtime", RuntimeName("wasmtime")),
            ("wasmtime@", RuntimeName("wasmtime").isolated()),
            ("wasmer@/a/python", RuntimeName("wasmer").isolated("/a/python")),
        ],
    )
    def test_the_name_of_a_runtime_says_where_its_engine_runs(self, text, name):
        assert RuntimeName.parse(text) == name
        assert str(name) == text

    def test_a_host_takes_the_name_of_a_runtime_as_an_object(self, plugins):
        with Host(plugins=plugins, runtime=RuntimeName("wasmtime").isolated()) as host:
            assert host.runtime.name == "wasmtime@"

    def test_a_limit_on_fuel_must_be_set_before_compiling(self, host, guests, plugins):
        with pytest.raises(UsageError, match="without fuel"):
            host.compile(guests / "hello/hello.wasm").run(limits=Limits(fuel=10))
        with Host(plugins=plugins, limits=Limits(fuel=10)) as limited:
            result = limited.run(guests / "hello/hello.wasm")
        assert isinstance(result.error, OutOfFuel)
        with pytest.raises(OutOfFuel):
            result.check()


class TestModels:
    def test_numpy_in_and_out(self, host, add_onnx):
        host.add_model("add", add_onnx)
        model = host.model("add")
        assert [info.describe() for info in model.inputs] == ["a: f32[?, 2]", "b: f32[?, 2]"]
        assert (model.encoding, model.backend) == ("onnx", "onnx")
        a, b = np.float32([[1, 2]]), np.float32([[3, 4]])
        outputs = model.run({"a": a, 1: b})
        np.testing.assert_array_equal(outputs["sum"], [[4, 6]])
        np.testing.assert_array_equal(outputs["product"], [[3, 8]])

    def test_a_context_step_by_step(self, host, add_onnx):
        with host.load(add_onnx).init_execution_context() as context:
            for rows in (1, 3, 2):
                pair = np.ones((rows, 2), np.float32)
                context.set_input("a", pair)
                context.set_input("b", pair * 2)
                context.compute()
                np.testing.assert_array_equal(context.get_output("sum"), pair * 3)
                np.testing.assert_array_equal(context.get_output(1), pair * 2)

    def test_outputs_are_the_callers_own(self, host, add_onnx):
        with host.load(add_onnx).init_execution_context() as context:
            context.set_input(0, np.ones((1, 2), np.float32))
            context.set_input(1, np.ones((1, 2), np.float32))
            context.compute()
            first = context.get_output(0)
            context.set_input(1, np.full((1, 2), 5, np.float32))
            context.compute()
            np.testing.assert_array_equal(first, [[2, 2]])

    def test_outputs_that_the_graph_does_not_describe(self, host, identity_model):
        model = host.load(identity_model())
        outputs = model.run({0: b"one", 1: b"two"})
        assert {name: array.tobytes() for name, array in outputs.items()} == {
            "0": b"one",
            "1": b"two",
        }

    def test_from_bytes_and_threads(self, host, add_onnx):
        model = host.load(add_onnx.read_bytes())

        def work(number: int) -> None:
            with model.init_execution_context() as context:
                for _ in range(50):
                    pair = np.full((1, 2), number, np.float32)
                    context.set_input("a", pair)
                    context.set_input("b", pair)
                    context.compute()
                    if context.get_output("product")[0, 0] != number * number:
                        wrong.append(number)

        wrong: list[int] = []
        together([partial(work, n) for n in range(6)])
        assert wrong == []

    def test_bytes_and_tensors_as_inputs(self, host, identity_model):
        with host.load(identity_model()).init_execution_context() as context:
            context.set_input(0, b"text")
            context.compute()
            assert context.get_output(0).tobytes() == b"text"
            context.set_input(0, Tensor(TensorType.F32, (2,), memoryview(bytes(8))))
            with pytest.raises(InvalidArgument, match="takes 12 bytes"):
                context.set_input(0, Tensor(TensorType.F32, (3,), memoryview(bytes(8))))

    @pytest.mark.parametrize(
        ("call", "says"),
        [
            (lambda host, model: host.load(), "there is nothing to load"),
            (lambda host, model: host.load(3), "a file must be a path (str or Path), not 3"),
            (lambda host, model: host.load(None), "a file must be a path (str or Path), not N"),
            (lambda host, model: host.load([model]), "several files as several arguments"),
            (lambda host, model: host.program(None), "must be a path (str or Path), not N"),
            (lambda host, model: host.load("http://a.org/m.gguf"), "use https, or give the file's"),
            (
                lambda host, model: host.add_model("m", "ftp://a/m.onnx"),
                "http, hf, s3, file",
            ),
            (
                lambda host, model: host.add_model("m", Path("hf://a/b")),
                "their URLs are texts (str)",
            ),
            (lambda host, model: host.run("http://a.org/guest.wasm"), "only models are fetched"),
            (lambda host, model: host.load(model, config="{}"), "the config is '{}', and must be"),
            (lambda host, model: host.add_model("m", model, config=[1]), "and must be a mapping"),
            (lambda host, model: host.load(model, target=1), "the execution target must be a name"),
            (lambda host, model: host.load(model, target=None), "must be a name"),
            (lambda host, model: host.load(model, encoding=1), "the encoding must be a name"),
            (lambda host, model: host.add_model("m", model, encoding=None), "the encoding must be"),
            (
                lambda host, model: host.add_model(5, model),
                "a model's name must be a non-empty string (str), not 5",
            ),
            (lambda host, model: Host(runtime=5), "the runtime is 5, and must be an engine's name"),
        ],
    )
    def test_arguments_of_a_wrong_type_are_usage_errors(self, host, add_onnx, call, says):
        with pytest.raises(UsageError) as raised:
            call(host, add_onnx)
        assert says in str(raised.value)

    def test_a_file_may_look_like_a_url(self, host, add_onnx, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "http:").mkdir()
        (tmp_path / "http:" / "m.onnx").write_bytes(Path(add_onnx).read_bytes())
        assert host.load("http:/m.onnx").encoding == "onnx"

    def test_mistakes(self, host, add_onnx, identity_model):
        model = host.load(add_onnx)
        with pytest.raises(InvalidArgument, match="no input named 'c'; the graph has: a, b"):
            model.run({"c": np.zeros((1, 2), np.float32)})
        with pytest.raises(InvalidArgument, match="not been set: b"):
            model.run(np.zeros((1, 2), np.float32))
        with pytest.raises(InvalidArgument, match="no input has been set"):
            host.load(identity_model()).run({})
        with pytest.raises(NotFound):
            host.model("nothing")
        with pytest.raises(InvalidEncoding, match="not recognised"):
            host.load(b"what is this")
        with pytest.raises(UsageError, match="cannot read"):
            host.load("nowhere.onnx")


def test_inputs_are_given_by_keyword_and_as_lists(host, add_onnx):
    host.add_model("add", add_onnx)
    model = host.model("add")
    a, b = np.float32([[1, 2]]), np.float32([[3, 4.5]])
    for outputs in (
        model.run({"a": a, "b": b}),
        model.run(a=a, b=b),
        model.run(a, b=b),
        model.run({0: a}, b=b),
        model.run(a=[[1, 2]], b=[[3, 4.5]]),
        model.run(a=((True, 2.0),), b=[b[0]]),
    ):
        assert outputs["sum"].dtype == np.float32
        assert outputs["sum"].tolist() == [[4, 6.5]]
    with pytest.raises(InvalidArgument, match="f64"):
        model.run(a=a.astype(np.float64), b=b)
    with pytest.raises(InvalidArgument, match="c"):
        model.run(a=a, b=b, c=b)


@pytest.mark.parametrize(
    ("numbers", "kind", "right"),
    [
        ([1, 2], TensorType.F32, np.float32([1, 2])),
        ([0.1], TensorType.F16, np.float16([0.1])),
        ([0, 255], TensorType.U8, np.uint8([0, 255])),
        ([2.0, -3], TensorType.I32, np.int32([2, -3])),
        (7, TensorType.I64, np.int64(7)),
        ([float("inf"), float("nan")], TensorType.F32, np.float32([np.inf, np.nan])),
        ([], TensorType.I64, np.int64([])),
        ([1.5], None, np.float64([1.5])),
    ],
)
def test_lists_of_numbers_take_the_described_type(numbers, kind, right):
    tensor = Tensor.of_numbers(numbers, kind)
    assert (tensor.dims, tensor.numpy().dtype) == (right.shape, right.dtype)
    assert np.array_equal(tensor.numpy(), right, equal_nan=True)


@pytest.mark.parametrize(
    ("numbers", "kind"),
    [
        ([1.5], TensorType.I32),
        ([300], TensorType.U8),
        ([-1], TensorType.U8),
        ([2**40], TensorType.I32),
        ([2**70], TensorType.I64),
        ([float("nan")], TensorType.I64),
        ([1e6], TensorType.F16),
        (["a"], TensorType.F32),
    ],
)
def test_numbers_that_a_type_cannot_hold_are_refused(numbers, kind):
    with pytest.raises(TypeError):
        Tensor.of_numbers(numbers, kind)


def test_objects_show_what_they_are_and_stay_in_their_process(host, add_onnx, guests):
    host.add_model("add", add_onnx)
    model, program = host.model("add"), host.program(guests / "hello/hello.wasm")
    text = "<Model of onnx: a: f32[?, 2], b: f32[?, 2] -> sum: f32[?, 2], product: f32[?, 2]>"
    assert (repr(host), repr(model)) == ("<Host with the models add>", text)
    assert repr(program) == "<Program hello.wasm>"
    program.compile()
    assert repr(program) == "<Program hello.wasm, compiled>"
    with model.init_execution_context() as context:
        for one in (host, model, program, context):
            with pytest.raises(TypeError, match=f"a {type(one).__name__} belongs to its process"):
                pickle.dumps(one)


def test_without_an_engine_the_models_still_work(add_onnx, plugins, monkeypatch):
    monkeypatch.setattr(
        type(plugins.runtimes[0]), "availability", lambda self: Availability(False, "gone")
    )
    with Host(plugins=plugins, runtime="wasmtime") as host:
        assert host.load(add_onnx).inputs
        with pytest.raises(Unavailable, match="gone"):
            host.run(b"\0asm\x01\0\0\0")
