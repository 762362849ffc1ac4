"""TensorFlow Lite behind the backend contract, on LiteRT."""

from __future__ import annotations

import struct
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from conftest import needs

needs("ai_edge_litert")

from authoring import mutants  # noqa: E402
from authoring.flatbuffer import FlatModel  # noqa: E402
from authoring.networks import reference, sample, tflite  # noqa: E402
from wasi_nn import ExecutionTarget, Host, Policy, Tensor, TensorType  # noqa: E402
from wasi_nn._models import loading  # noqa: E402
from wasi_nn.backend import LoadOptions  # noqa: E402
from wasi_nn.errors import (  # noqa: E402
    InvalidArgument,
    ModelNotFound,
    RuntimeFailure,
    Unavailable,
    UnsupportedOperation,
)
from wasi_nn_conformance.engine_tests.common import together  # noqa: E402
from wasi_nn_tflite import library  # noqa: E402
from wasi_nn_tflite.backend import TfliteBackend  # noqa: E402


def concatenated(element, dims=(2, 3), signature=None):
    """y = [x x], along the last axis: every type can do that."""
    model = FlatModel()
    x = model.tensor("x", dims, element, signature)
    shape = (*dims[:-1], 2 * dims[-1])
    y = model.tensor("y", shape, element)
    model.operator("CONCATENATION", [x, x], [y])
    return model.finish([x], [y])


def arithmetic(dims=(1, 2), signature=None):
    """sum = a + b, difference = a - b."""
    model = FlatModel()
    a, b = (model.tensor(name, dims, signature=signature) for name in "ab")
    total = model.tensor("sum", dims, signature=signature)
    difference = model.tensor("difference", dims, signature=signature)
    model.operator("ADD", [a, b], [total])
    model.operator("SUB", [a, b], [difference])
    return model.finish([a, b], [total, difference])


def quantised(element="uint8", scale=0.5, zero_point=10):
    """y = [x x], with elements that stand for (element - zero_point) * scale."""
    model = FlatModel()
    x = model.tensor("x", (1, 3), element, scale=scale, zero_point=zero_point)
    y = model.tensor("y", (2, 3), element, scale=scale, zero_point=zero_point)
    model.operator("CONCATENATION", [x, x], [y])
    return model.finish([x], [y])


@pytest.mark.parametrize(
    ("element", "kind"),
    [
        ("float32", TensorType.F32),
        ("int32", TensorType.I32),
        ("int64", TensorType.I64),
        ("uint8", TensorType.U8),
        ("int8", TensorType.U8),
        ("bool", TensorType.U8),
    ],
)
def test_every_tensor_type(host, element, kind):
    model = host.load(concatenated(element, (1, 3)))
    assert model.inputs[0].type is kind
    array = np.array([[1, 0, 1]]).astype(element)
    given = array.view(np.uint8) if kind is TensorType.U8 else array
    result = next(iter(model.run(given).values()))
    np.testing.assert_array_equal(result.view(element).reshape(-1), [1, 0, 1, 1, 0, 1])


def test_bf16(host):
    """numpy learns it from ml_dtypes, which LiteRT may lack."""
    needs("ml_dtypes")
    graphs = Path(__file__).resolve().parents[3] / "conformance" / "graphs" / "tensorflowlite"
    host.add_model("bf16", graphs / "identity_bf16.tflite")
    values = struct.pack("<4H", 0x3F00, 0xC000, 0x4300, 0)
    with host.model("bf16").init_execution_context() as context:
        context.set_input(0, Tensor(TensorType.BF16, (1, 4), memoryview(values)))
        context.compute()
        output = context.get_output(0)
        assert (str(output.dtype), output.shape) == ("bfloat16", (1, 4))
        assert output.tobytes() == values


def test_several_inputs_and_outputs_by_index_and_by_name(host):
    with host.load(arithmetic()).init_execution_context() as context:
        context.set_input("b", np.float32([[1, 2]]))
        context.set_input(0, np.float32([[5, 7]]))
        context.compute()
        np.testing.assert_array_equal(context.get_output("sum"), [[6, 9]])
        np.testing.assert_array_equal(context.get_output(1), [[4, 5]])
        context.set_input("a", np.float32([[0, 0]]))
        context.compute()
        np.testing.assert_array_equal(context.get_output("difference"), [[-1, -2]])
        for key in (2, -1, "other", 0xFFFFFFFF):
            with pytest.raises(InvalidArgument):
                context.get_output(key)
            with pytest.raises(InvalidArgument):
                context.set_input(key, np.float32([[1, 2]]))


def test_dimensions_may_change_from_run_to_run(host):
    model = host.load(arithmetic(signature=(-1, 2)))
    assert model.inputs[0].dims == (-1, 2)
    with model.init_execution_context() as context:
        for rows in (1, 4, 2, 3):
            a = np.random.default_rng(rows).random((rows, 2), np.float32)
            context.set_input(0, a)
            context.set_input(1, a + 1)
            context.compute()
            np.testing.assert_allclose(context.get_output(0), 2 * a + 1, rtol=1e-6)


def test_resizing_one_input_keeps_what_the_others_hold(host):
    model = FlatModel()
    a = model.tensor("a", (1, 2), signature=(-1, 2))
    b = model.tensor("b", (1, 2))
    total = model.tensor("sum", (1, 2), signature=(-1, 2))
    model.operator("ADD", [a, b], [total])
    with host.load(model.finish([a, b], [total])).init_execution_context() as context:
        context.set_input("b", np.float32([[10, 20]]))
        context.set_input("a", np.ones((3, 2), np.float32))
        context.compute()
        np.testing.assert_array_equal(context.get_output(0), [[11, 21]] * 3)


def test_dimensions_that_do_not_fit_together_are_explained(host):
    with host.load(arithmetic(signature=(-1, 2))).init_execution_context() as context:
        context.set_input(0, np.ones((3, 2), np.float32))
        context.set_input(1, np.ones((2, 2), np.float32))
        with pytest.raises(RuntimeFailure):
            context.compute()
        for key in (0, 1):
            context.set_input(key, np.ones((2, 2), np.float32))
        context.compute()
        np.testing.assert_array_equal(context.get_output(0), np.full((2, 2), 2))


def test_inputs_survive_a_move_during_compute(host):
    """Dimensions that depend on a value are known, and room for them is made, in the middle of a
    computation."""
    model = FlatModel()
    x, times = model.tensor("x", (64,)), model.tensor("times", (1,), "int32")
    tiled, twice = (model.tensor(name, (64,), signature=(-1,)) for name in ("tiled", "twice"))
    model.operator("TILE", [x, times], [tiled])
    model.operator("ADD", [tiled, tiled], [twice])
    with host.load(model.finish([x, times], [twice])).init_execution_context() as context:
        for count in (1, 1, 1000, 2, 100_000, 3):
            array = np.random.default_rng(count).random(64, np.float32)
            context.set_input("x", array)
            context.set_input("times", np.int32([count]))
            context.compute()
            np.testing.assert_array_equal(context.get_output(0), np.tile(2 * array, count))


def test_tensors_may_have_no_dimensions(host):
    model = FlatModel()
    x = model.tensor("x", (1, 2), signature=(-1, 2))
    offset, gain = model.tensor("offset", ()), model.tensor("gain", ())
    y = model.tensor("y", (1, 2), signature=(-1, 2))
    both = model.tensor("both", ())
    model.operator("ADD", [x, offset], [y])
    model.operator("ADD", [offset, gain], [both])
    with host.load(model.finish([x, offset, gain], [y, both])).init_execution_context() as context:
        context.set_input("gain", np.float32(100))
        for value, rows in ((1, 1), (2, 1), (3, 4), (5, 2)):
            context.set_input("offset", np.float32(value))
            context.set_input("x", np.ones((rows, 2), np.float32))
            context.compute()
            np.testing.assert_array_equal(context.get_output("y"), np.full((rows, 2), 1 + value))
            assert context.get_output("both").shape == ()
            assert context.get_output("both") == 100 + value


def test_a_model_that_needs_too_much_memory_is_refused_with_a_reason(host):
    model = FlatModel()
    x, y = (model.tensor(name, (1 << 26, 1 << 26)) for name in "xy")
    model.operator("ADD", [x, x], [y])
    with pytest.raises(RuntimeFailure, match="memory"):
        host.load(model.finish([x], [y]))


def test_empty_tensors_and_dimensions_beyond_32_bits(host):
    with host.load(arithmetic(signature=(-1, -1))).init_execution_context() as context:
        for dims, number in (((0, 2), 1), ((2, 2), 2), ((0, 2**31), 3), ((1, 2), 4)):
            data = memoryview(np.full(dims[0] * dims[1], number, np.float32).tobytes())
            for key in "ab":
                context.set_input(key, Tensor(TensorType.F32, dims, data))
            if dims[1] > 2:
                with pytest.raises(RuntimeFailure, match="cannot take these dimensions"):
                    context.compute()
                continue
            for _ in range(2):
                context.compute()
                assert context.get_output(0).tolist() == np.full(dims, 2 * number).tolist()


@pytest.mark.parametrize(
    ("element", "says"),
    [
        ("string", "not a tensor type of wasi-nn"),
        ("complex64", "complex64, which is not a tensor type"),
        ("float32", "never gives orphan a value .*: read the other outputs"),
    ],
)
def test_an_output_that_is_never_computed_is_explained(host, element, says):
    model = FlatModel()
    x, y = model.tensor("x", (2,)), model.tensor("y", (2,))
    orphan = model.tensor("orphan", (2,), element)
    model.operator("ADD", [x, x], [y])
    loaded = host.load(model.finish([x], [orphan, y]))
    with loaded.init_execution_context() as context:
        context.set_input(0, np.float32([1, 2]))
        context.compute()
        with pytest.raises(UnsupportedOperation, match=says):
            context.get_output(0)
        assert context.get_output(1).tolist() == [2, 4]
    assert list(loaded.run(np.float32([1, 2]))) == ["y"]


@pytest.mark.parametrize("signature", [(-1, 2), None])
def test_an_output_may_come_out_empty(host, signature):
    """A detector that found nothing."""
    model = FlatModel()
    x, found = model.tensor("x", (1, 3)), model.tensor("found", (1, 2), "int64", signature)
    model.operator("WHERE", [x], [found])
    with host.load(model.finish([x], [found])).init_execution_context() as context:
        for values, right in (
            ([1, 0, 2], [[0, 0], [0, 2]]),
            ([0, 0, 0], []),
            ([0, 1, 0], [[0, 1]]),
            ([0, 0, 0], []),
        ):
            context.set_input(0, np.float32([values]))
            context.compute()
            output = context.get_output(0)
            assert (output.shape, output.tolist()) == ((len(right), 2), right)


@pytest.mark.parametrize("operator", ["WHERE", "TILE", "RESHAPE"])
def test_outputs_whose_computed_size_is_zero_are_empty(host, operator):
    """LiteRT's own get_tensor fails there: a detector that has found nothing."""
    model = FlatModel()
    if operator == "WHERE":
        inputs = [model.tensor("x", (4,), "bool")]
        y = model.tensor("y", (0, 1), "int64", (-1, 1))
        runs = [([1, 0, 1, 0], [[0], [2]]), ([0, 0, 0, 0], []), ([0, 1, 0, 0], [[1]])]
        runs = [((np.array(given, np.bool_),), right) for given, right in runs]
        empty = (0, 1)
    else:
        x, dims = model.tensor("x", (0,), signature=(-1,)), model.tensor("dims", (2,), "int32")
        if operator == "TILE":
            x, dims = model.tensor("x", (2,)), model.tensor("dims", (1,), "int32")
        inputs = [x, dims]
        y = model.tensor("y", (0,), signature=(-1,))
        if operator == "TILE":
            given = np.float32([1, 2])
            runs = [((given, np.int32([n])), [1, 2] * n) for n in (2, 0, 1)]
            empty = (0,)
        else:
            given = [np.float32([1, 2]), np.float32([]), np.float32([3, 4])]
            runs = [((a, np.int32([1, len(a)])), [a.tolist()]) for a in given]
            empty = (1, 0)
    model.operator(operator, inputs, [y])
    loaded = host.load(model.finish(inputs, [y]))
    with loaded.init_execution_context() as context:
        for arrays, right in runs:
            for key, array in enumerate(arrays):
                context.set_input(key, array)
            context.compute()
            output = context.get_output(0)
            assert output.tolist() == right
            if not output.size:
                assert output.shape == empty


def test_an_output_that_is_an_input_is_kept_when_the_input_is_set_again(host):
    model = FlatModel()
    x, y = model.tensor("x", (2,), signature=(-1,)), model.tensor("y", (2,), signature=(-1,))
    model.operator("ADD", [x, x], [y])
    with host.load(model.finish([x], [x, y])).init_execution_context() as context:
        for array in (np.float32([1, 2]), np.float32([3, 4, 5])):
            context.set_input(0, array)
            context.compute()
            context.set_input(0, array + 1)
            assert context.get_output(0).tolist() == array.tolist()
            assert context.get_output(1).tolist() == (2 * array).tolist()


def test_contexts_do_not_share_their_tensors(host):
    model = host.load(arithmetic())
    first, second = model.init_execution_context(), model.init_execution_context()
    for context, value in ((first, 1), (second, 2)):
        for key in "ab":
            context.set_input(key, np.full((1, 2), value, np.float32))
    first.compute()
    second.compute()
    assert first.get_output(0).tolist() == [[2, 2]]
    assert second.get_output(0).tolist() == [[4, 4]]


@pytest.mark.parametrize("element", ["uint8", "int8"])
def test_quantised_models_are_raw(host, element):
    model = host.load(quantised(element))
    assert model.inputs[0].quantization == (0.5, 10, element)
    raw = np.array([[1, 2, 3]], np.uint8)
    assert model.run(raw)["y"].tolist() == [[1, 2, 3]] * 2


class TestWamrsHabit:
    """Guests of the legacy ABI see f32 where the model is quantised."""

    def run(self, caller, model, values):
        guest = caller("wamr-legacy")
        out = guest.put(bytes(4))
        array = guest.put(struct.pack("<II", guest.builders(model), 1))
        assert guest("load", array, 4, 0, out) == 0, guest.reason
        assert guest("init_execution_context", guest.u32(out), out) == 0
        context = guest.u32(out)
        dims = guest.put(struct.pack("<II", guest.put(struct.pack("<2I", 1, 3)), 2))
        data = guest.put(np.float32(values).tobytes())
        assert guest("set_input", context, 0, guest.put(struct.pack("<IB3xI", dims, 1, data))) == 0
        assert guest("compute", context) == 0
        buffer, size = guest.put(bytes(24)), guest.put(struct.pack("<I", 6))
        assert guest("get_output", context, 0, buffer, size) == 0, guest.reason
        assert guest.u32(size) == 6
        return np.frombuffer(guest.bytes, np.float32, 6, buffer)

    @pytest.mark.parametrize("element", ["uint8", "int8"])
    def test_f32_is_quantised_in_and_dequantised_out(self, caller, element):
        values = [1.5, -2.0, 20.0]
        result = self.run(caller, quantised(element), values)
        np.testing.assert_array_equal(result, values * 2)

    def test_values_are_rounded_and_saturated(self, caller):
        result = self.run(caller, quantised("uint8"), [0.6, -1000, float("nan")])
        np.testing.assert_array_equal(result[:3], [0.5, -5.0, 0.0])


@pytest.mark.parametrize(
    "array",
    [np.zeros((1, 2)), np.zeros((1, 3), np.float32), np.zeros(2, np.float32), b"ab"],
)
def test_wrong_types_and_dimensions_are_invalid_arguments(host, array):
    with host.load(arithmetic()).init_execution_context() as context:
        with pytest.raises(InvalidArgument):
            context.set_input(0, array)
        with pytest.raises(InvalidArgument, match="not been set: a, b"):
            context.compute()
        with pytest.raises(InvalidArgument, match="before compute"):
            context.get_output(0)


def test_wrong_builders_and_targets_are_refused(plugins):
    backend, options = TfliteBackend(), LoadOptions("tensorflowlite")
    model = memoryview(arithmetic())
    for builders in ([], [model, model]):
        with pytest.raises(InvalidArgument, match="one builder"):
            backend.load(builders, options)
    for junk in (b"", b"no model at all, but long enough", bytes(1000)):
        with pytest.raises(RuntimeFailure, match="rejects the model"):
            backend.load([memoryview(junk)], options)
    with Host(plugins=plugins) as host:
        for target in ("gpu", "tpu"):
            with pytest.raises(UnsupportedOperation, match="--allow-fallback"):
                host.load(arithmetic(), target=target)
        assert host.load(arithmetic(), target="auto").inputs
    with Host(plugins=plugins, allow_fallback=True) as host:
        assert host.load(arithmetic(), target="gpu").inputs


def test_settings_reach_the_library(host):
    for config in ({"threads": 2}, {"xnnpack": False}, {"unknown": 1}):
        assert host.load(arithmetic(), config=config).inputs
    for config in ({"threads": "2"}, {"xnnpack": 1}):
        with pytest.raises(InvalidArgument, match="must be"):
            host.load(arithmetic(), config=config)


def test_from_a_file(host, tmp_path):
    path = tflite(tmp_path)[0]
    result = host.load(path).run(sample())["y"]
    np.testing.assert_allclose(result, reference(sample()), atol=1e-6)


def test_damaged_models_are_errors_and_never_crashes(tmp_path):
    """Each in a process of its own: LiteRT has been seen to crash on damaged models (README)."""
    (tmp_path / "mutants").mkdir()
    np.save(tmp_path / "x.npy", sample())
    damaged = mutants.damage(tflite(tmp_path)[0].read_bytes(), cuts=40, flips=200)
    assert mutants.deaths("tflite", damaged, tmp_path / "x.npy", tmp_path / "mutants") == []


def test_contexts_of_one_graph_run_side_by_side(host):
    model, wrong = host.load(arithmetic(signature=(-1, 2))), []

    def work(seed: int) -> None:
        with model.init_execution_context() as context:
            for turn in range(100):
                a = np.full((seed + 1, 2), turn, np.float32)
                context.set_input(0, a)
                context.set_input(1, a)
                context.compute()
                if not (context.get_output(0) == 2 * turn).all():
                    wrong.append(seed)

    together([partial(work, seed) for seed in range(4)])
    assert wrong == []


class TestLibrary:
    """Which interpreter is used where."""

    def present(self, monkeypatch, *packages, numpy="1.26.4"):
        monkeypatch.setattr(library, "find_spec", lambda name: name in packages or None)
        monkeypatch.setattr(library, "installed_version", lambda name: numpy)

    def test_litert_comes_first(self, monkeypatch):
        self.present(monkeypatch, "ai_edge_litert", "tflite_runtime", numpy="2.0.0")
        assert library.missing() is None
        assert library.describe().startswith("ai-edge-litert")

    def test_tflite_runtime_is_used_if_it_is_installed_alone(self, monkeypatch):
        self.present(monkeypatch, "tflite_runtime")
        assert library.missing() is None
        assert library.describe().startswith("tflite-runtime")

    def test_tflite_runtime_needs_numpy_1(self, monkeypatch):
        self.present(monkeypatch, "tflite_runtime", numpy="2.1.0")
        assert "numpy 2" in (library.missing() or "")

    def test_without_a_library_the_backend_says_what_to_install(self, monkeypatch):
        self.present(monkeypatch)
        assert 'pip install "wasi-nn[tflite]"' in (library.missing() or "")
        assert not TfliteBackend().availability().usable
        with pytest.raises(Unavailable):
            loading.load(TfliteBackend(), [memoryview(b"")], LoadOptions("tensorflowlite"))


class TestPacked:
    """Elements smaller than a byte, whose bytes LiteRT's Python interface miscounts."""

    @staticmethod
    def model() -> bytes:
        """y = x + x beside p = q, four bits an element."""
        made = FlatModel()
        x, y = (made.tensor(name, (1, 4)) for name in "xy")
        p, q = (made.tensor(name, (1, 4096), "int4", scale=1.0) for name in "pq")
        made.operator("ADD", [x, x], [y])
        shape = made.constant("shape", np.array([1, 4096], np.int32))
        made.operator("RESHAPE", [p, shape], [q])
        return made.finish([x, p], [y, q])

    def test_packed_elements_are_described_and_refused(self, host):
        model = host.load(self.model())
        assert [info.native_type for info in model.inputs] == ["float32", "int4"]
        assert model.inputs[1].type is None
        with model.init_execution_context() as context:
            context.set_input(0, np.ones((1, 4), np.float32))
            with pytest.raises(InvalidArgument, match="int4"):
                context.set_input(1, np.zeros((1, 4096), np.uint8))
            with pytest.raises(InvalidArgument, match="not been set"):
                context.compute()

    def test_from_a_file(self, host, tmp_path):
        path = tmp_path / "packed.tflite"
        path.write_bytes(self.model())
        assert host.load(path).outputs[1].native_type == "int4"

    @pytest.mark.parametrize("length", range(0, 200, 7))
    def test_a_truncated_model_has_no_packed_elements(self, length):
        from wasi_nn_tflite.layout import Layout, layout

        assert layout(self.model()[:length]) == Layout()

    def test_garbage_has_a_layout_too(self):
        from wasi_nn_tflite.layout import Layout, layout

        random = np.random.default_rng(3)
        data = bytearray(self.model())
        for _ in range(2000):
            changed = bytearray(data)
            at = int(random.integers(0, len(data) - 4))
            changed[at : at + 4] = random.bytes(4)
            assert isinstance(layout(bytes(changed)), Layout)


def alone(kind):
    """y = x + x, or x - x."""
    model = FlatModel()
    x, y = model.tensor("x", (1, 2)), model.tensor("y", (1, 2))
    model.operator(kind, [x, x], [y])
    return model.finish([x], [y])


def answer(model):
    return model.run(np.float32([[1, 2]]))["y"].tolist()


def test_a_replaced_file_is_loaded_again(host, tmp_path):
    path, other = tmp_path / "m.tflite", tmp_path / "other"
    path.write_bytes(alone("ADD"))
    host.add_model("m", path)
    old = host.model("m")
    assert answer(old) == [[2, 4]]
    other.write_bytes(alone("SUB"))
    other.replace(path)
    for _ in range(2):
        assert answer(old) == [[2, 4]], "each context is one of the graph that was loaded"
        assert answer(host.model("m")) == answer(host.load(path)) == [[0, 0]]
    path.unlink()
    assert answer(old) == [[2, 4]]
    for load in (lambda: host.model("m"), lambda: host.load(path, encoding="tflite")):
        with pytest.raises(ModelNotFound, match=r"m\.tflite: No such file"):
            load()


def test_a_rewritten_file_is_noticed(host, tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(alone("ADD"))
    old = host.load(path)
    path.write_bytes(alone("SUB"))
    assert answer(host.load(path)) == [[0, 0]]
    old.init_execution_context().close()  # It was made with the graph.
    with pytest.raises(RuntimeFailure, match=r"m\.tflite was changed .* load the graph again"):
        answer(old)


@pytest.mark.skipif(sys.platform != "linux", reason="there, a worker copies the model")
def test_a_worker_reads_a_guests_model_where_the_host_has_put_it():
    # (A flatbuffer may have anything behind it.)
    model = memoryview(concatenated("float32") + bytes(64 << 20))
    with Host(policy=Policy(own_models=True)) as host, host.open_session() as session:
        graph = session.load([model], "tensorflowlite", ExecutionTarget.CPU)
        # A second context reads the model again.
        first, second = (session.contexts[session.init_execution_context(graph)] for _ in range(2))
        for context in (first, second):
            context.set_input(0, Tensor.of(np.ones((2, 3), np.float32)))
            context.compute()
            assert np.all(np.frombuffer(context.get_output(0).data, np.float32) == 1)
        status = Path(f"/proc/{session.graphs[graph].worker.process}/status").read_text()
    (private,) = (line.split()[1] for line in status.splitlines() if line.startswith("RssAnon"))
    assert int(private) << 10 < len(model)
