"""Recognising models by their first bytes."""

from __future__ import annotations

import io
import zipfile

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from wasi_nn import encodings
from wasi_nn.backend import Builder
from wasi_nn.errors import UsageError


def archive(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in names:
            file.writestr(name, b"")
    return buffer.getvalue()


def onnx_model(**fields) -> bytes:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["x2"])], "g", [value], [])
    return bytes(helper.make_model(graph, **fields).SerializeToString())


@pytest.mark.parametrize(
    ("head", "encoding"),
    [
        (b"GGUF\x03\0\0\0", "ggml"),
        (b"\x1c\0\0\0TFL3\0\0", "tensorflowlite"),
        (b"\x20\0\0\0ORTM\0\0", "onnx"),
        (onnx_model(), "onnx"),
        (onnx_model(producer_name="someone"), "onnx"),
        (archive("cnn/data.pkl", "cnn/code/x.py"), "pytorch"),
        (archive("model/archive_format", "model/byteorder"), "pytorch"),
        (archive("model/data/0"), "pytorch"),
        (archive("model/data/weights/weight_0"), "pytorch"),
        (archive("data/x", "weights.npy"), None),
        (b'<?xml version="1.0"?>\n<net name="m" version="11">', "openvino"),
        (b'<net name="m" version="11">', "openvino"),
        (b'<?xml version="1.0"?><catalog/>', None),
        (archive("hello.txt"), None),
        (b"\x0a\x10some tensorflow", None),
        (b"", None),
        (b"\x08", None),
        (b"plain text", None),
    ],
)
def test_models_are_recognised_by_magic_bytes(head, encoding):
    assert encodings.recognise(head) == encoding


def test_the_first_bytes_come_from_a_file_or_from_memory(tmp_path):
    path = tmp_path / "model"
    path.write_bytes(b"GGUF" + bytes(10000))
    both: list[Builder] = [path, memoryview(path.read_bytes())]
    assert {encodings.recognise(encodings.head(builder)) for builder in both} == {"ggml"}
    assert all(len(encodings.head(builder)) == 4096 for builder in both)


def test_a_file_that_cannot_be_read_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="cannot read"):
        encodings.head(tmp_path)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [("ONNX", "onnx"), (" tflite ", "tensorflowlite"), ("GGUF", "ggml"), ("mine", "mine")],
)
def test_spellings_of_encodings_are_canonicalised(spelling, name):
    assert encodings.canonical(spelling) == name


@given(st.binary(max_size=64))
def test_recognition_never_raises(data):
    assert encodings.recognise(data) is None or isinstance(encodings.recognise(data), str)


def test_a_model_that_the_onnx_package_writes_is_recognised():
    model = onnx.load_from_string(onnx_model(producer_name="p", producer_version="1"))
    assert encodings.recognise(model.SerializeToString()) == "onnx"
