"""Models whose files are replaced while the process lives."""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from conftest import needs

ov = needs("openvino")

import openvino.opset13 as op  # noqa: E402

from wasi_nn import Host, Limits  # noqa: E402
from wasi_nn.errors import ModelNotFound, RuntimeFailure  # noqa: E402
from wasi_nn_openvino.backend import OpenvinoBackend  # noqa: E402

ZEROS = np.zeros(4, np.float32)


def values(number):
    return np.full(4, number, np.float32).tobytes()


def save(path, constant=True):
    """y = x + 1, with the one in the weights."""
    x = op.parameter([4], np.float32, name="x")
    x.output(0).set_names({"x"})
    y = op.add(x, op.constant(np.ones(4, np.float32)) if constant else x)
    y.output(0).set_names({"y"})
    model = ov.Model([op.result(y)], [x], "m")
    path.parent.mkdir(exist_ok=True, parents=True)
    ov.save_model(model, str(path.with_suffix(".xml")), compress_to_fp16=False)
    path.with_suffix(".xml").replace(path)
    return path


def replace(file, data):
    """Another file in its place, with the same time."""
    status = file.stat()
    other = file.with_name("other")
    other.write_bytes(data)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(file)


def answer(model):
    (result,) = model.run(ZEROS).values()
    assert (result == result[0]).all()
    return result[0]


def follows(host, paths, data, rewrite):
    """The answers follow the data when they are replaced, rewritten and taken away."""
    host.add_model("m", *paths, encoding="openvino")
    old = host.model("m")
    assert answer(old) == answer(host.load(*paths, encoding="openvino")) == 1
    for number, change in ((2, replace), (3, type(data).write_bytes)):
        change(data, rewrite(number))
        assert answer(host.model("m")) == number
        assert answer(host.load(*paths, encoding="openvino")) == number
    assert answer(old) == 1


@pytest.mark.parametrize("name", ["m.xml", "m.ir", "model", "a.b.XML"])
@pytest.mark.parametrize("both", [False, True])
def test_replaced_weights_of_ir_are_loaded_again(host, tmp_path, name, both):
    path = save(tmp_path / name)
    weights = path.with_suffix(".bin")
    paths = [path, weights] if both else [path]
    follows(host, paths, weights, values)
    assert host.registry.size("m") == path.stat().st_size + 16
    weights.unlink()
    for load in (
        lambda: host.model("m"),
        lambda: host.load(*paths, encoding="openvino"),
    ):
        with pytest.raises(ModelNotFound, match=r"\.bin: No such file"):
            load()


def test_weights_beside_a_link_are_found(host, tmp_path):
    """As caches of downloads are made: links with names, to files without."""
    save(tmp_path / "blobs" / "m.xml")
    folder = tmp_path / "snapshot"
    folder.mkdir()
    for name in ("m.xml", "m.bin"):
        stored = tmp_path / "blobs" / str(len(name) + ord(name[2]))
        (tmp_path / "blobs" / name).replace(stored)
        (folder / name).symlink_to(stored)
    path, weights = folder / "m.xml", folder / "m.bin"
    assert list(OpenvinoBackend().files([path], {})) == [path, weights]
    assert answer(host.load(path)) == 1
    (tmp_path / "blobs" / "new").write_bytes(values(2))
    weights.unlink()
    weights.symlink_to(tmp_path / "blobs" / "new")
    assert answer(host.load(path)) == 2


def test_a_model_without_weights_is_loaded(host, tmp_path):
    path = save(tmp_path / "m.xml", constant=False)
    weights = path.with_suffix(".bin")
    weights.unlink(missing_ok=True)
    assert answer(host.load(path)) == 0
    weights.write_bytes(b"")
    assert list(OpenvinoBackend().files([path], {})) == [path, weights]


def test_compiled_code_of_replaced_weights_is_not_used(host, tmp_path):
    """Also where the weights are many, and differ in the middle."""
    many = np.zeros((1 << 20,), np.float32)
    x = op.parameter([1], np.int32, name="x")
    y = op.gather(op.constant(many), x, op.constant(np.int32(0)))
    path = tmp_path / "m.xml"
    ov.save_model(ov.Model([op.result(y)], [x], "m"), str(path), compress_to_fp16=False)
    weights = path.with_suffix(".bin")
    at = np.int32([1 << 19])
    offset = weights.read_bytes().index(bytes(1 << 22))
    for number in (0, 1, 2):
        data = bytearray(weights.read_bytes())
        struct.pack_into("<f", data, offset + 4 * int(at[0]), number)
        replace(weights, data)
        config = {"cache-dir": str(tmp_path / "cache")}
        (result,) = host.load(path, config=config).run(at).values()
        assert result.tolist() == [number]


def test_replaced_weights_of_onnx_are_loaded_again(host, tmp_path):
    onnx = needs("onnx")
    path = tmp_path / "m.onnx"
    weight = onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=1)
    for key, value in (("location", "data/w"), ("offset", "0"), ("length", "16")):
        weight.external_data.add(key=key, value=value)
    x, y = (onnx.helper.make_tensor_value_info(name, 1, [4]) for name in "xy")
    node = onnx.helper.make_node("Add", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [x], [y], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    path.write_bytes(model.SerializeToString())
    data = tmp_path / "data" / "w"
    data.parent.mkdir()
    data.write_bytes(values(1))
    follows(host, [path], data, values)
    data.unlink()
    with pytest.raises(ModelNotFound, match=r"m\.onnx needs this file"):
        host.load(path, encoding="openvino")


def varint(number):
    number &= (1 << 64) - 1
    text = b""
    while number > 127:
        text += bytes([number & 127 | 128])
        number >>= 7
    return text + bytes([number])


def fields(*pairs):
    """A protobuf message of numbers, texts and messages."""
    text = b""
    for field, value in pairs:
        if isinstance(value, int):
            text += varint(field << 3) + varint(value)
        else:
            value = value.encode() if isinstance(value, str) else value
            text += varint(field << 3 | 2) + varint(len(value)) + value
    return text


FLOATS = fields((1, 5), (2, 4))


def paddle():
    """PaddlePaddle's program of y = x + w."""

    def variable(name, kind=7, kept=0):
        described = [(3, fields((1, FLOATS), (2, 0)))] if kind == 7 else []
        return 3, fields((1, name), (2, fields((1, kind), *described)), (3, kept))

    def operation(kind, inputs, outputs, attribute, value):
        def places(names):
            return [fields((1, place), (2, name)) for place, name in names]

        return 4, fields(
            *((1, each) for each in places(inputs)),
            *((2, each) for each in places(outputs)),
            (3, kind),
            (4, fields((1, attribute), (2, 0), (3, value))),
        )

    block = fields(
        (1, 0),
        (2, -1),
        variable("feed", 9, 1),
        variable("fetch", 10, 1),
        variable("x"),
        variable("w", kept=1),
        variable("y"),
        operation("feed", [("X", "feed")], [("Out", "x")], "col", 0),
        operation("elementwise_add", [("X", "x"), ("Y", "w")], [("Out", "y")], "axis", -1),
        operation("fetch", [("X", "y")], [("Out", "fetch")], "col", 0),
    )
    return fields((1, block), (4, fields((1, 0))))


def parameters(number):
    return struct.pack("<IQIi", 0, 0, 0, len(FLOATS)) + FLOATS + values(number)


def test_replaced_parameters_of_paddle_are_loaded_again(host, tmp_path):
    path, data = tmp_path / "m.pdmodel", tmp_path / "m.pdiparams"
    path.write_bytes(paddle())
    data.write_bytes(parameters(1))
    follows(host, [path], data, parameters)
    assert host.registry.size("m") == path.stat().st_size + data.stat().st_size
    data.unlink()
    with pytest.raises(RuntimeFailure, match="doesn't exist"):
        host.load(path, encoding="openvino")


def saved_model(number):
    """TensorFlow's SavedModel of y = x + number, with the number in its one file."""
    shape = fields((2, fields((1, 4))))

    def node(name, kind, *inputs, **attributes):
        pairs = [
            (5, fields((1, key), (2, fields((field, value)))))
            for key, (field, value) in attributes.items()
        ]
        return 1, fields((1, name), (2, kind), *((3, each) for each in inputs), *pairs)

    weight = fields((1, 1), (2, shape), (4, values(number)))
    nodes = fields(
        node("x", "Placeholder", dtype=(6, 1), shape=(7, shape)),
        node("w", "Const", dtype=(6, 1), value=(8, weight)),
        node("y", "AddV2", "x", "w", T=(6, 1)),
    )

    def port(field, name):
        described = fields((1, f"{name}:0"), (2, 1), (3, shape))
        return field, fields((1, name), (2, described))

    signature = fields(port(1, "x"), port(2, "y"), (3, "tensorflow/serving/predict"))
    named = fields((1, "serving_default"), (2, signature))
    graph = fields((1, fields((4, "serve"))), (2, nodes), (5, named))
    return fields((1, 1), (2, graph))


def test_a_changed_file_in_a_folder_is_loaded_again(host, tmp_path):
    folder = tmp_path / "model"
    (folder / "variables").mkdir(parents=True)
    (folder / "variables" / "other").write_bytes(bytes(10))
    data = folder / "saved_model.pb"
    data.write_bytes(saved_model(1))
    follows(host, [folder], data, saved_model)
    assert host.registry.size("m") == 10 + data.stat().st_size
    data.unlink()
    with pytest.raises(RuntimeFailure, match=r"saved_model\.pb"):
        host.load(folder, encoding="openvino")


def test_a_changed_checkpoint_of_tensorflow_is_loaded_again(tmp_path):
    names = ["m.meta", "m.index", "m.data-00000-of-00002", "m.data-00001-of-00002"]
    for name in [*names, "n.index", "m.other"]:
        (tmp_path / name).write_bytes(b"")
    files = OpenvinoBackend().files([tmp_path / "m.meta"], {})
    assert [file.name for file in files] == names


def test_weights_count_against_a_limit(tmp_path):
    path = save(tmp_path / "m.xml")
    size = path.stat().st_size + 16
    with Host() as host:
        host.add_model("m", path)
        for held in (size - 1, size):
            with host.open_session(Limits(host_memory=held)) as session:
                session.load_by_name("m")
                if held < size:
                    with pytest.raises(RuntimeFailure, match="above its limit"):
                        session.load_by_name("m", {"threads": 1})
                else:
                    session.load_by_name("m", {"threads": 1})
