"""OpenVINO behind the backend contract: every type, every shape, every mistake."""

from __future__ import annotations

import random
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from conftest import needs

ov = needs("openvino")
ml_dtypes = needs("ml_dtypes")

import openvino.opset13 as op  # noqa: E402

from wasi_nn import ExecutionTarget, Host, Tensor, TensorType  # noqa: E402
from wasi_nn._models import loading  # noqa: E402
from wasi_nn.backend import LoadOptions, unlimited  # noqa: E402
from wasi_nn.errors import (  # noqa: E402
    InvalidArgument,
    NnError,
    RuntimeFailure,
    Unavailable,
    UnsupportedOperation,
)
from wasi_nn_conformance.engine_tests.common import together  # noqa: E402
from wasi_nn_openvino import library  # noqa: E402
from wasi_nn_openvino.backend import OpenvinoBackend  # noqa: E402


def save(folder: Path, outputs, parameters, name="model"):
    model = ov.Model([op.result(output) for output in outputs], parameters, name)
    path = folder / f"{name}.xml"
    ov.save_model(model, str(path), compress_to_fp16=False)
    return [path, path.with_suffix(".bin")]


def parameter(dims, kind, name):
    made = op.parameter(ov.PartialShape(list(dims)), dtype=kind, name=name)
    made.output(0).set_names({name})
    return made


def named(node, name):
    node.output(0).set_names({name})
    return node


def double(folder, kind, dims):
    x = parameter(dims, kind, "x")
    return save(folder, [named(op.add(x, x), "y")], [x])


@pytest.fixture
def dense(tmp_path):
    """y = relu(x · w + b), dynamic in its rows."""
    x = parameter([-1, 4], ov.Type.f32, "x")
    w = op.constant(np.arange(12, dtype=np.float32).reshape(4, 3))
    y = op.relu(op.add(op.matmul(x, w, False, False), op.constant(np.ones(3, np.float32))))
    return save(tmp_path, [named(y, "y")], [x], "dense")


def expected(x):
    return np.maximum(x @ np.arange(12, dtype=np.float32).reshape(4, 3) + 1, 0)


@pytest.mark.parametrize(
    ("kind", "dtype", "word"),
    [
        ("f16", np.float16, TensorType.F16),
        ("f32", np.float32, TensorType.F32),
        ("f64", np.float64, TensorType.F64),
        ("bf16", ml_dtypes.bfloat16, TensorType.BF16),
        ("u8", np.uint8, TensorType.U8),
        ("i32", np.int32, TensorType.I32),
        ("i64", np.int64, TensorType.I64),
    ],
)
@pytest.mark.parametrize("dims", [(2, 3), (-1, 3)])
def test_every_tensor_type(host, tmp_path, kind, dtype, word, dims):
    model = host.load(*double(tmp_path, getattr(ov.Type, kind), dims))
    assert model.inputs[0].type is word
    assert model.inputs[0].dims == dims
    array = np.arange(6).reshape(2, 3).astype(dtype)
    result = model.run(array)["y"]
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, array + array)


def test_ir_from_bytes_and_from_files(host, dense):
    x = np.random.default_rng(1).random((2, 4), np.float32)
    for sources in (dense, [path.read_bytes() for path in dense], dense[:1]):
        np.testing.assert_allclose(host.load(*sources).run(x)["y"], expected(x), rtol=1e-6)


def test_the_guests_bytes_may_change_after_the_load(dense):
    xml, weights = (bytearray(path.read_bytes()) for path in dense)
    graph = OpenvinoBackend().load([memoryview(xml), memoryview(weights)], LoadOptions("openvino"))
    for data in (xml, weights):
        data[:] = bytes(len(data))
    context = graph.init_execution_context(unlimited)
    x = np.ones((1, 4), np.float32)
    context.set_input(0, Tensor.of(x))
    context.compute()
    np.testing.assert_allclose(context.get_output(0).numpy(), expected(x))


def test_other_formats_are_read_if_the_backend_is_named(host, tmp_path):
    needs("onnx")
    from authoring import networks

    x = networks.sample()
    for path in (networks.onnx(tmp_path)[0], networks.tflite(tmp_path)[0]):
        model = host.load(path, encoding="openvino")
        assert model.backend == "openvino"
        result = next(iter(model.run(x).values()))
        np.testing.assert_allclose(result, networks.reference(x), atol=1e-6)


def test_a_converted_onnx_model_gives_the_same(host, tmp_path):
    """Magika's model as OpenVINO IR gives what it gives as ONNX."""
    magika = needs("magika")
    path = Path(magika.__file__).parent / "models/standard_v3_3/model.onnx"
    ov.save_model(ov.convert_model(str(path)), str(tmp_path / "m.xml"), compress_to_fp16=False)
    x = np.random.default_rng(2).integers(0, 256, (1, 2048)).astype(np.int32)
    converted = host.load(tmp_path / "m.xml", tmp_path / "m.bin")
    original = host.load(path).run({"bytes": x})["target_label"]
    assert converted.inputs[0].name == "bytes"
    np.testing.assert_allclose(converted.run({"bytes": x})["target_label"], original, atol=1e-4)


def test_every_input_is_set_by_index_or_by_name(host, tmp_path):
    a, b = parameter([2], ov.Type.f32, "a"), parameter([2], ov.Type.f32, "b")
    files = save(tmp_path, [named(op.subtract(a, b), "d"), named(op.add(a, b), "s")], [a, b])
    with host.load(*files).init_execution_context() as context:
        context.set_input("b", np.float32([1, 2]))
        context.set_input(0, np.float32([5, 5]))
        context.compute()
        np.testing.assert_array_equal(context.get_output("d"), [4, 3])
        np.testing.assert_array_equal(context.get_output(1), [6, 7])
        context.set_input("a", np.float32([0, 0]))
        context.compute()
        np.testing.assert_array_equal(context.get_output(0), [-1, -2])
        for key in (2, -1, "other"):
            with pytest.raises(InvalidArgument):
                context.get_output(key)
            with pytest.raises(InvalidArgument):
                context.set_input(key, np.float32([1, 2]))


def test_every_name_of_a_tensor_works(host, tmp_path):
    a, b = parameter([2], ov.Type.f32, "a"), parameter([2], ov.Type.f32, "b")
    a.output(0).set_names({"first", "zebra", "alias"})
    difference = named(op.subtract(a, b), "d")
    difference.output(0).set_names({"result", "d", "out:0"})
    model = host.load(*save(tmp_path, [difference], [a, b]))
    for key in ("alias", "first", "zebra", 0):
        result = model.run({key: np.float32([5, 6]), "b": np.float32([1, 1])})
        assert list(result) == ["d"]
        for name in ("d", "out:0", "result"):
            assert result[name].tolist() == [4, 5]
        with pytest.raises(KeyError):
            result["a"]
    with model.init_execution_context() as context:
        context.set_input("zebra", np.float32([5, 6]))
        context.set_input("b", np.float32([1, 1]))
        context.compute()
        for key in ("d", "out:0", "result", 0):
            assert context.get_output(key).tolist() == [4, 5]


def test_dimensions_may_change_from_run_to_run(host, dense):
    with host.load(*dense).init_execution_context() as context:
        for rows in (1, 5, 2, 5, 3):
            x = np.random.default_rng(rows).random((rows, 4), np.float32)
            context.set_input(0, x)
            context.compute()
            np.testing.assert_allclose(context.get_output(0), expected(x), rtol=1e-6)


@pytest.mark.parametrize("dims", [[2], [-1]])
def test_an_output_that_aliases_an_input_is_kept_when_the_input_is_set_again(host, tmp_path, dims):
    x = parameter(dims, ov.Type.f32, "x")
    files = save(tmp_path, [x, named(op.add(x, x), "y")], [x])
    with host.load(*files).init_execution_context() as context:
        for array in (np.float32([1, 2]), np.float32([3, 4])):
            context.set_input(0, array)
            context.compute()
            context.set_input(0, array + 1)
            assert context.get_output(0).tolist() == array.tolist()
            assert context.get_output(1).tolist() == (2 * array).tolist()


def test_an_empty_output_that_is_an_input_keeps_its_dimensions(host, tmp_path):
    x = parameter([2, -1, 0], ov.Type.f32, "x")
    y = parameter([-1], ov.Type.f32, "y")
    files = save(tmp_path, [x, y, named(op.relu(y), "z")], [x, y])
    with host.load(*files).init_execution_context() as context:
        for rows, length in ((2, 0), (3, 2), (0, 0), (4, 1)):
            context.set_input("x", np.zeros((2, rows, 0), np.float32))
            context.set_input("y", np.full(length, length, np.float32))
            context.compute()
            context.set_input("x", np.zeros((2, rows + 1, 0), np.float32))
            context.set_input("y", np.zeros(length + 1, np.float32))
            assert context.get_output(0).shape == (2, rows, 0)
            assert context.get_output(1).tolist() == [length] * length
            assert context.get_output(2).tolist() == [length] * length


@pytest.mark.parametrize("dims", [[2, 2], [-1, 2]])
def test_outputs_may_share_their_memory(host, tmp_path, dims):
    """One output twice, one that is another in other dimensions, and both beside the input."""
    x = parameter(dims, ov.Type.f32, "x")
    y = named(op.relu(x), "y")
    flat = op.reshape(y, op.constant(np.int64([-1])), False)
    files = save(tmp_path, [y, x, y, named(flat, "flat"), x], [x])
    model = host.load(*files)
    with model.init_execution_context() as context:
        for value in (1, -2, 3):
            array = np.float32([[value, 2], [-3, 4]])
            context.set_input(0, array)
            for _ in range(2):
                context.compute()
            context.set_input(0, array + 7)
            right = np.maximum(array, 0)
            answers = [right, array, right, right.reshape(-1), array]
            assert [context.get_output(i).tolist() for i in range(5)] == [
                answer.tolist() for answer in answers
            ]


def test_an_output_that_openvino_aliases_to_an_input_is_kept(host, tmp_path):
    """OpenVINO leaves the conversion out. With other tensors set for each input, the output came to
    lie in one that was freed."""
    x = parameter([2, -1], ov.Type.u8, "x")
    more = named(op.add(x, op.constant(np.uint8(1))), "more")
    same = [named(op.convert(x, "u8"), "same")] * 2
    files = save(tmp_path, [*same, more], [x])
    chance, before = random.Random(1), None
    with host.load(*files).init_execution_context() as context:
        for turn in range(300):
            array = np.full((2, chance.choice([3, 3, 3, 2, 4, 0])), turn % 200, np.uint8)
            context.set_input(0, array)
            for index in range(3) if before is not None else ():
                output = context.get_output(index)
                assert output.tolist() == (before + (index == 2)).tolist()
            for _ in range(chance.choice([1, 2])):
                context.compute()
            if chance.random() < 0.5:
                assert context.get_output(0).tolist() == array.tolist()
            before = array


def test_tensors_may_have_no_name_or_dots_in_it(host, tmp_path):
    x, y = (op.parameter(ov.PartialShape([-1]), ov.Type.f32, name=f"p{n}") for n in "xy")
    total, twice = op.add(x, y), op.add(x, x)
    x.output(0).set_names({"a.b", "a", "0"})
    twice.output(0).set_names({"1", "out.0", "ü/out:0"})
    model = host.load(*save(tmp_path, [total, twice], [y, x]))
    # (OpenVINO gives a tensor without a name that of its node in the file.)
    names = [{info.name, *info.aliases} for info in (*model.inputs, *model.outputs)]
    assert names[1] == {"a.b", "a", "0"}
    assert names[3] == {"1", "out.0", "ü/out:0"}
    for key in ("a.b", "a", "0", 1):
        for other in (0, *names[0]):
            result = model.run({other: np.float32([1, 2]), key: np.float32([5, 6])})
            assert [result[name].tolist() for name in names[2]] == [[6, 8]] * len(names[2])
            assert [result[name].tolist() for name in names[3]] == [[10, 12]] * 3


def test_names_may_have_the_characters_of_xml_and_of_lists(host, tmp_path):
    x = parameter([2], ov.Type.f32, "x")
    names = {"a,b", "a", 'say "x"', "it's", "<&>", "ü\\"}
    x.output(0).set_names(names)
    model = host.load(*save(tmp_path, [named(op.add(x, x), "y,z")], [x]))
    assert {model.inputs[0].name, *model.inputs[0].aliases} == names
    for name in names:
        assert model.run({name: np.float32([1, 2])})["y,z"].tolist() == [2, 4]


def test_a_tensor_may_have_no_dimensions(host, tmp_path):
    x = parameter([], ov.Type.f32, "x")
    model = host.load(*save(tmp_path, [named(op.add(x, x), "y")], [x]))
    assert (model.inputs[0].dims, model.outputs[0].dims) == ((), ())
    assert model.run(np.float32(3))["y"].tolist() == 6


def test_an_input_is_read_where_the_caller_writes_it(tmp_path):
    a, b = parameter([2], ov.Type.f32, "a"), parameter([2], ov.Type.f32, "b")
    files = save(tmp_path, [named(op.subtract(a, b), "d")], [a, b])
    context = (
        OpenvinoBackend().load(files, LoadOptions("openvino")).init_execution_context(unlimited)
    )
    memory = [np.float32([5, 6]), np.float32([1, 2])]
    context.set_input("a", Tensor.of(memory[0]))
    context.set_input("b", Tensor.of(memory[1]))
    context.compute()
    for index, array in enumerate(memory):
        assert context.read_from(index, Tensor.of(array))
    context.compute()
    memory[0][:] = 9
    assert context.get_output(0).numpy().tolist() == [4, 4]
    context.compute()
    assert context.get_output(0).numpy().tolist() == [8, 7]


@pytest.mark.parametrize("dims", [[2], [-1]])
def test_an_input_is_not_read_in_place_if_an_output_may_lie_there(tmp_path, dims):
    x = parameter(dims, ov.Type.f32, "x")
    files = save(tmp_path, [named(op.add(x, x), "y"), *([x] if dims == [2] else [])], [x])
    context = (
        OpenvinoBackend().load(files, LoadOptions("openvino")).init_execution_context(unlimited)
    )
    array = np.float32([1, 2])
    assert not context.read_from(0, Tensor.of(array))
    context.set_input(0, Tensor.of(array))
    context.compute()
    assert not context.read_from(0, Tensor.of(array))


def test_empty_tensors(host, dense, tmp_path):
    with host.load(*dense).init_execution_context() as context:
        for rows in (0, 2, 0):
            x = np.ones((rows, 4), np.float32)
            context.set_input(0, x)
            context.compute()
            np.testing.assert_allclose(context.get_output(0), expected(x))
    with host.load(*double(tmp_path, ov.Type.f32, (-1, -1))).init_execution_context() as context:
        context.set_input(0, Tensor(TensorType.F32, (0, 2**32 - 1), memoryview(b"")))
        context.compute()
        assert context.get_output(0).shape == (0, 2**32 - 1)


def test_dimensions_too_large_for_memory_are_refused(host, dense):
    graph = OpenvinoBackend().load(dense, LoadOptions("openvino"))
    context = graph.init_execution_context(unlimited)
    x = np.ones((2, 4), np.float32)
    for _ in range(2):
        context.set_input(0, Tensor.of(x))
        for _ in range(2):
            with pytest.raises(RuntimeFailure, match="does not take input x"):
                context.set_input(0, Tensor(TensorType.F32, (2**50, 4), memoryview(b"")))
        context.compute()
        np.testing.assert_allclose(context.get_output(0).numpy(), expected(x))


@pytest.mark.parametrize(
    "array",
    [np.zeros((2, 4)), np.zeros((2, 5), np.float32), np.zeros(4, np.float32), b"abcd"],
)
def test_wrong_types_and_dimensions_are_invalid_arguments(host, dense, array):
    with host.load(*dense).init_execution_context() as context, pytest.raises(InvalidArgument):
        context.set_input(0, array)


def test_calls_out_of_order_are_invalid(host, dense):
    with host.load(*dense).init_execution_context() as context:
        with pytest.raises(InvalidArgument, match="not been set: x"):
            context.compute()
        context.set_input(0, np.zeros((1, 4), np.float32))
        with pytest.raises(InvalidArgument, match="before compute"):
            context.get_output(0)


def test_builders_of_a_wrong_number_are_invalid(dense):
    backend, options = OpenvinoBackend(), LoadOptions("openvino")
    xml, weights = (memoryview(path.read_bytes()) for path in dense)
    for builders in ([], [xml], [xml, weights, weights], [dense[0], weights]):
        with pytest.raises(InvalidArgument):
            backend.load(builders, options)
    for builders in ([weights, xml], [memoryview(b""), memoryview(b"")], [xml, memoryview(b"")]):
        with pytest.raises(RuntimeFailure):
            backend.load(builders, options)


@pytest.mark.parametrize("front", [b"", b"\n\x05<net>"])
def test_a_guests_own_model_of_another_format_is_refused(dense, tmp_path, front):
    """An ONNX model of a guest could name files of the host as its weights."""
    needs("onnx")
    from authoring import networks

    model = networks.onnx(tmp_path)[0].read_bytes() + b"\x32\x05<net>"  # the documentation
    builders = [memoryview(front + model), memoryview(b"")]
    with pytest.raises(RuntimeFailure, match="not IR XML"):
        OpenvinoBackend().load(builders, LoadOptions("openvino"))


def test_weights_may_come_in_a_buffer_of_floats(host, dense):
    xml, weights = (path.read_bytes() for path in dense)
    x = np.ones((1, 4), np.float32)
    floats = memoryview(np.frombuffer(weights, np.float32))
    np.testing.assert_allclose(host.load(xml, floats).run(x)["y"], expected(x))


def test_damaged_models_are_errors_and_never_crashes(host, dense):
    xml, weights = (path.read_bytes() for path in dense)
    chance, rejected = random.Random(5), 0
    mutants = [(xml[:n], weights) for n in range(0, len(xml), 60)]
    mutants += [(xml, weights[:n]) for n in range(len(weights))]
    for _ in range(200):
        text, data = bytearray(xml), bytearray(weights)
        for _ in range(chance.randint(1, 4)):
            text[chance.randrange(len(text))] = chance.randrange(256)
            data[chance.randrange(len(data))] = chance.randrange(256)
        mutants.append((bytes(text), bytes(data)))
    for mutant in mutants:
        try:
            with host.load(*mutant, encoding="openvino").init_execution_context() as context:
                context.set_input(0, np.ones((1, 4), np.float32))
                context.compute()
        except NnError:
            rejected += 1
    assert len(mutants) > 250
    assert rejected > 100


class TestTargets:
    def test_an_unavailable_target_is_an_error_with_the_reason(self, host, dense):
        for target, device in (("gpu", "GPU"), ("tpu", "NPU")):
            if any(d.startswith(device) for d in OpenvinoBackend().availability(deep=True).devices):
                continue
            with pytest.raises(UnsupportedOperation, match=rf"\({device}\) is not available"):
                host.load(*dense, target=target)

    def test_fallback_and_auto(self, plugins, dense):
        with Host(plugins=plugins, allow_fallback=True) as host:
            assert host.load(*dense, target="tpu").inputs
        with Host(plugins=plugins) as host:
            assert host.load(*dense, target=ExecutionTarget.AUTO).inputs


class TestConfig:
    @pytest.mark.parametrize(
        "config",
        [
            {"threads": 1},
            {"streams": 2, "performance-hint": "throughput"},
            {"shape-cache": 0},
            {"inference-precision": "f32"},
            {"inference-precision": "default"},
            {"unknown": 1},
        ],
    )
    def test_settings_reach_openvino(self, host, dense, config):
        x = np.ones((1, 4), np.float32)
        result = host.load(*dense, config=config).run(x)["y"]
        np.testing.assert_allclose(result, expected(x), rtol=0.02)

    def test_cache_dir_keeps_compiled_models(self, host, dense, tmp_path):
        host.load(*dense, config={"cache-dir": str(tmp_path / "cache")})
        assert list((tmp_path / "cache").iterdir())

    @pytest.mark.parametrize(
        "config",
        [
            {"threads": "1"},
            {"inference-precision": "f8"},
            {"cache-dir": 3},
            {"streams": -1},
            {"shape-cache": -1},
        ],
    )
    def test_settings_of_wrong_types_are_invalid(self, host, dense, config):
        with pytest.raises(InvalidArgument, match="must be"):
            host.load(*dense, config=config)


def test_f32_is_exact_where_the_cpus_default_may_not_be(host, tmp_path):
    x = parameter([1, 64], ov.Type.f32, "x")
    w = op.constant(np.random.default_rng(3).standard_normal((64, 64)).astype(np.float32))
    files = save(tmp_path, [named(op.matmul(x, w, False, False), "y")], [x], "wide")
    array = np.random.default_rng(4).standard_normal((1, 64)).astype(np.float32)
    exact = array.astype(np.float64) @ w.data.astype(np.float64)
    np.testing.assert_allclose(host.load(*files).run(array)["y"], exact, atol=1e-4)


def test_contexts_of_one_graph_run_side_by_side(host, dense):
    model, wrong = host.load(*dense), []

    def work(seed: int) -> None:
        random_numbers = np.random.default_rng(seed)
        with model.init_execution_context() as context:
            for _ in range(100):
                x = random_numbers.random((seed + 1, 4), np.float32)
                context.set_input(0, x)
                context.compute()
                if not np.allclose(context.get_output(0), expected(x), rtol=1e-5):
                    wrong.append(seed)

    together([partial(work, seed) for seed in range(4)])
    assert wrong == []


def test_without_openvino_the_backend_says_what_to_install(monkeypatch):
    monkeypatch.setattr("wasi_nn_openvino.library.missing_library", lambda *names: "not here")
    assert not OpenvinoBackend().availability().usable
    with pytest.raises(Unavailable, match="not here"):
        loading.load(OpenvinoBackend(), [memoryview(b"")], LoadOptions("openvino"))


def test_a_package_without_the_c_library_is_explained(monkeypatch, tmp_path):
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "openvino")
    found = OpenvinoBackend().availability()
    assert not found.usable
    assert "has no C library" in found.detail


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "header file of OpenVINO cannot be read"),
        ("enum { F32 } other;", "does not list OpenVINO's element types"),
    ],
)
def test_a_header_that_looks_otherwise_is_refused(tmp_path, text, says):
    header = tmp_path / "ov_common.h"
    if text is not None:
        header.write_text(text)
    with pytest.raises(Unavailable, match=says):
        library.element_types(header)


def test_the_packages_python_and_numpy_are_not_imported(dense):
    code = """
import sys
from pathlib import Path
from wasi_nn.backend import LoadOptions, unlimited
from wasi_nn.types import Tensor, TensorType
from wasi_nn_openvino.backend import OpenvinoBackend

graph = OpenvinoBackend().load([Path(file) for file in sys.argv[1:]], LoadOptions("openvino"))
context = graph.init_execution_context(unlimited)
context.set_input(0, Tensor(TensorType.F32, (1, 4), memoryview(bytes(16))))
context.compute()
print(context.get_output(0).dims, [name for name in ("openvino", "numpy") if name in sys.modules])
"""
    run = subprocess.run(
        [sys.executable, "-c", code, *dense], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "(1, 3) []"


def test_reasons_do_not_name_openvinos_source_files(host, tmp_path):
    bounded = parameter(ov.PartialShape([ov.Dimension(1, 3), 2]), ov.Type.f32, "x")
    one = op.constant(np.float32(1))
    files = save(tmp_path, [named(op.add(bounded, one), "y")], [bounded], "bounded")
    with host.load(*files).init_execution_context() as context:

        def compute(rows):
            context.set_input(0, np.ones((rows, 2), np.float32))
            context.compute()
            return context.get_output(0).tolist()

        with pytest.raises(RuntimeFailure, match=r"(?!.*src/).*\{5, ?2\}"):
            compute(5)
        assert compute(2) == [[2, 2], [2, 2]]
