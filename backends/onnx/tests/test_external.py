"""Models whose tensors lie in files beside them."""

from __future__ import annotations

import os

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from wasi_nn import Host, Limits
from wasi_nn.backend.onnx_files import external_files
from wasi_nn.errors import ModelNotFound, RuntimeFailure
from wasi_nn_onnx.backend import OnnxBackend

ZEROS = np.zeros(4, np.float32)


def info(name, kind=TensorProto.FLOAT, dims=(4,)):
    return helper.make_tensor_value_info(name, kind, dims)


def values(number):
    return np.full(4, number, np.float32)


def outside(name, location):
    """A tensor of four floats that lies in a file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def save(path, nodes, weights=(), functions=(), inputs=()):
    graph = helper.make_graph(nodes, "g", [info("x"), *inputs], [info("y")], list(weights))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, opset_imports=opsets, functions=list(functions))
    model.ir_version = 8
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def add(weight="w", x="x", y="y"):
    return helper.make_node("Add", [x, weight], [y])


def constant(location, name="w"):
    return helper.make_node("Constant", [], [name], value=outside(name, location))


def initializer(path):
    return save(path, [add()], [outside("w", "w.bin")])


def in_a_folder(path):
    path.with_name("data").mkdir(parents=True)
    return save(path, [add()], [outside("w", "./data/../data/w.bin")])


def a_constant(path):
    return save(path, [constant("w.bin"), add()])


def in_a_branch(path):
    branch = helper.make_graph([constant("w.bin")], "branch", [], [info("w")])
    true = numpy_helper.from_array(np.array(True), "c")
    choice = helper.make_node("If", ["c"], ["v"], then_branch=branch, else_branch=branch)
    return save(path, [choice, add("v")], [true])


def initializer_of_a_branch(path):
    inner = helper.make_node("Neg", ["w"], ["v"])
    branch = helper.make_graph([inner], "branch", [], [info("v")], [outside("w", "w.bin")])
    true = numpy_helper.from_array(np.array(True), "c")
    choice = helper.make_node("If", ["c"], ["n"], then_branch=branch, else_branch=branch)
    return save(path, [choice, helper.make_node("Sub", ["x", "n"], ["y"])], [true])


def in_a_function(path):
    nodes = [constant("w.bin"), add(x="a", y="b")]
    function = helper.make_function("own", "F", ["a"], ["b"], nodes, [helper.make_opsetid("", 17)])
    return save(path, [helper.make_node("F", ["x"], ["y"], domain="own")], functions=[function])


def behind_a_large_one(path):
    """The model is read in pieces, and this one is larger."""
    large = numpy_helper.from_array(np.zeros((1 << 19, 4), np.float32), "large")
    first = numpy_helper.from_array(np.int64(0), "first")
    nodes = [helper.make_node("Gather", ["large", "first"], ["v"]), add("v", y="z"), add(x="z")]
    return save(path, nodes, [large, first, outside("w", "w.bin")])


KINDS = [
    initializer,
    in_a_folder,
    a_constant,
    in_a_branch,
    initializer_of_a_branch,
    in_a_function,
    behind_a_large_one,
]


@pytest.mark.parametrize("make", KINDS)
def test_replaced_external_data_are_loaded_again(host, tmp_path, make):
    path = make(tmp_path / "model" / "m.onnx")
    data = path.with_name("data") / "w.bin" if make is in_a_folder else path.with_name("w.bin")
    assert external_files(path) == (data,)
    data.write_bytes(values(1).tobytes())
    host.add_model("m", path)
    models = [host.load(path), host.model("m")]
    assert models[1].run(ZEROS)["y"].tolist() == [1] * 4

    status = data.stat()
    other = data.with_name("other")
    other.write_bytes(values(2).tobytes())
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(data)
    for model in (host.load(path), host.model("m")):
        assert model.run(ZEROS)["y"].tolist() == [2] * 4
    for model in models:
        assert model.run(ZEROS)["y"].tolist() == [1] * 4

    data.write_bytes(values(3).tobytes())
    for model in (host.load(path), host.model("m")):
        assert model.run(ZEROS)["y"].tolist() == [3] * 4

    data.unlink()
    for load in (lambda: host.load(path), lambda: host.model("m")):
        with pytest.raises(ModelNotFound, match=r"w\.bin: No such file.*m\.onnx needs this file"):
            load()


def test_all_files_of_external_data_count(host, tmp_path):
    path = tmp_path / "m.onnx"
    names = ["a", "b", "c"]
    nodes = [add("a", y="i"), add("b", "i", "j"), add("c", "j")]
    save(path, nodes, [outside(name, f"{name}.bin") for name in names])
    for name in names:
        (tmp_path / f"{name}.bin").write_bytes(values(1).tobytes())
    host.add_model("m", path)
    assert host.registry.size("m") == path.stat().st_size + 48
    expected = 3
    for name in names:
        assert host.model("m").run(ZEROS)["y"].tolist() == [expected] * 4
        (tmp_path / f"{name}.bin").write_bytes(values(11).tobytes())
        expected += 10
    assert host.model("m").run(ZEROS)["y"].tolist() == [33] * 4


def test_external_data_count_for_another_config(host, tmp_path):
    path = initializer(tmp_path / "m.onnx")
    path.with_name("w.bin").write_bytes(values(1).tobytes() * 1000)
    host.add_model("m", path)
    with host.open_session(Limits(host_memory=16_000)) as session:
        session.load_by_name("m")
        with pytest.raises(RuntimeFailure, match="above its limit"):
            session.load_by_name("m", {"threads": 1})


def test_links_to_a_store_of_downloads_are_followed(host, tmp_path):
    """As caches of downloads are made: links with names, to files without."""
    for number in (1, 2):
        folder = tmp_path / f"snapshot{number}"
        blobs = tmp_path / "blobs"
        blobs.mkdir(exist_ok=True)
        initializer(folder / "m.onnx").replace(blobs / "model")
        (folder / "m.onnx").symlink_to(blobs / "model")
        (folder / "w.bin").write_bytes(values(number).tobytes())
    current = tmp_path / "current"
    for number in (1, 2, 1):
        current.unlink(missing_ok=True)
        current.symlink_to(f"snapshot{number}")
        assert external_files(current / "m.onnx") == (current / "w.bin",)
        with Host() as other:
            for each in (host, other):
                answer = each.load(current / "m.onnx", encoding="onnx").run(ZEROS)["y"]
                assert answer.tolist() == [number] * 4


@pytest.mark.parametrize("location", ["../w.bin", "{folder}/w.bin", "{folder}/model/w.bin"])
def test_data_outside_the_folder_are_refused(host, tmp_path, location):
    location = location.format(folder=tmp_path)
    path = save(tmp_path / "model" / "m.onnx", [add()], [outside("w", location)])
    for folder in (tmp_path, path.parent):
        (folder / "w.bin").write_bytes(values(1).tobytes())
    assert external_files(path) == ()
    with pytest.raises(RuntimeFailure, match="onnxruntime rejects the model"):
        host.load(path)


def test_external_data_of_another_kind_are_not_files(host, tmp_path):
    inside = numpy_helper.from_array(values(5), "w")
    inside.external_data.add(key="location", value="nothing.bin")
    path = save(tmp_path / "m.onnx", [add()], [inside])
    assert external_files(path) == ()
    assert host.load(path).run(ZEROS)["y"].tolist() == [5] * 4


@pytest.mark.parametrize("location", ["", ".", "data", "nul\0"])
def test_a_location_that_is_not_a_file_is_an_error(host, tmp_path, location):
    (tmp_path / "data").mkdir()
    path = save(tmp_path / "m.onnx", [add()], [outside("w", location)])
    with pytest.raises((RuntimeFailure, ModelNotFound)):
        host.load(path)


def test_a_file_that_is_not_onnx_has_no_external_data(tmp_path):
    for data in (b"", b"\x0a", b"location" * 99, bytes(range(256)) * 99, b"\x3a\xff\xff\xff\x7f"):
        path = tmp_path / "m.onnx"
        path.write_bytes(data)
        assert OnnxBackend().files([path], {}) == [path]


def test_a_model_is_read_again_only_when_it_changed(tmp_path, monkeypatch):
    path = initializer(tmp_path / "m.onnx")
    assert external_files(path) == (tmp_path / "w.bin",)
    monkeypatch.setattr("wasi_nn.backend.onnx_files._tensors", None)
    assert external_files(path) == (tmp_path / "w.bin",)
    monkeypatch.undo()
    save(path, [add()], [outside("w", "v.bin")])
    assert external_files(path) == (tmp_path / "v.bin",)
