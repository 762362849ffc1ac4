"""The three spellings of a named model."""

from __future__ import annotations

from pathlib import Path

import pytest

from wasi_nn._models.spec import parse_graph, parse_nn_graph, parse_nn_preload, resolve_path
from wasi_nn.errors import UsageError
from wasi_nn.types import ExecutionTarget


@pytest.mark.parametrize(
    ("text", "paths", "encoding", "target"),
    [
        ("m=a.onnx", ["a.onnx"], "autodetect", "cpu"),
        ("m=a.xml,a.bin", ["a.xml", "a.bin"], "autodetect", "cpu"),
        ("m=onnx:a.onnx", ["a.onnx"], "onnx", "cpu"),
        ("m=ONNX:gpu:a.onnx", ["a.onnx"], "onnx", "gpu"),
        ("m=tflite:TPU:a.tflite", ["a.tflite"], "tensorflowlite", "tpu"),
        ("m=openvino:npu:a.xml", ["a.xml"], "openvino", "tpu"),
        ("m=mine:dir/a.x", ["dir/a.x"], "mine", "cpu"),
        ("m=C:\\models\\a.onnx", ["C:\\models\\a.onnx"], "autodetect", "cpu"),
        ("m=a=b.onnx", ["a=b.onnx"], "autodetect", "cpu"),
    ],
)
def test_graph_is_parsed(text, paths, encoding, target):
    model = parse_graph(text)
    assert model.name == "m"
    assert [str(path) for path in model.paths] == paths
    assert (model.encoding, model.target) == (encoding, ExecutionTarget(target))


@pytest.mark.parametrize("text", ["a.onnx", "=a.onnx", "m="])
def test_mistakes_in_graph_are_usage_errors(text):
    with pytest.raises(UsageError, match="--graph takes"):
        parse_graph(text)


def test_a_file_may_have_a_colon_in_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("onnx:model").write_text("")
    assert parse_graph("m=onnx:model").paths == (Path("onnx:model"),)


def test_the_path_of_an_existing_file_may_have_a_comma(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a,b").mkdir()
    Path("a,b/m.onnx").write_text("")
    assert parse_graph("m=a,b/m.onnx").paths == (Path("a,b/m.onnx"),)
    assert parse_graph("m=onnx:a,b/m.onnx").paths == (Path("a,b/m.onnx"),)
    assert parse_graph("m=x.xml,a,b/m.onnx").paths == (Path("x.xml"), Path("a,b/m.onnx"))


@pytest.mark.parametrize(
    ("text", "paths", "encoding", "target"),
    [
        ("default:GGML:AUTO:llama.gguf", ["llama.gguf"], "ggml", "auto"),
        ("demo:PyTorch:CPU:mobilenet.pt", ["mobilenet.pt"], "pytorch", "cpu"),
        ("ov:openvino:CPU:m.xml:m.bin", ["m.xml", "m.bin"], "openvino", "cpu"),
        ("m:ggml:gpu:C:\\llama.gguf", ["C:\\llama.gguf"], "ggml", "gpu"),
        ("m:openvino:cpu:C:\\m.xml:C:\\m.bin", ["C:\\m.xml", "C:\\m.bin"], "openvino", "cpu"),
    ],
)
def test_nn_preload_is_parsed(text, paths, encoding, target):
    model = parse_nn_preload(text)
    assert [str(path) for path in model.paths] == paths
    assert (model.encoding, model.target) == (encoding, ExecutionTarget(target))


@pytest.mark.parametrize("text", ["m", "m:onnx", "m:onnx:cpu", "m:onnx:cpu:", ":onnx:cpu:a"])
def test_mistakes_in_nn_preload_are_usage_errors(text):
    with pytest.raises(UsageError, match="--nn-preload takes"):
        parse_nn_preload(text)
    with pytest.raises(UsageError, match="no execution target 'warp'"):
        parse_nn_preload("m:onnx:warp:a")


def test_wasmtimes_nn_graph_is_parsed(tmp_path):
    folder = tmp_path / "mobilenet"
    folder.mkdir()
    model = parse_nn_graph(f"nn-graph=OpenVINO::{folder}/")
    assert model.name == "mobilenet"
    assert [path.name for path in model.paths] == ["model.xml", "model.bin"]
    for text, says in (
        ("nn-graph=onnx", "-S takes"),
        ("threads", "-S takes"),
        (f"nn-graph=cobol::{folder}", "unknown format"),
        ("nn-graph=onnx::nowhere", "not a directory"),
    ):
        with pytest.raises(UsageError, match=says):
            parse_nn_graph(text)


def test_a_package_path_names_a_file_of_a_package():
    assert resolve_path("package:wasi_nn/py.typed").name == "py.typed"
    for text, says in (
        ("package:no_such_package/x", "not installed"),
        ("package:wasi_nn/no_such_file", "has no file"),
        ("package:wasi_nn", "has no file"),
        ("package:sys/x", "sys"),
        ("package:/x", "package:/x"),
    ):
        with pytest.raises(UsageError, match=says):
            resolve_path(text)


@pytest.mark.parametrize(
    ("text", "encoding", "sources"),
    [
        ("m=https://a.org/m.onnx", "autodetect", ["https://a.org/m.onnx"]),
        ("m=onnx:https://a.org/m.onnx", "onnx", ["https://a.org/m.onnx"]),
        ("m=onnx:gpu:s3://bucket/m.onnx", "onnx", ["s3://bucket/m.onnx"]),
        ("m=model.xml,https://a.org/b", "autodetect", ["model.xml", "https://a.org/b"]),
    ],
)
def test_a_url_is_a_source_that_is_located(text, encoding, sources):
    def locate(name, given):
        assert (name, given) == ("m", sources)
        return [Path("here")]

    model = parse_graph(text, locate)
    assert (model.encoding, model.paths) == (encoding, (Path("here"),))


def test_a_url_in_nn_preload_is_one_source():
    def locate(name, given):
        assert (name, given) == ("m", ["https://a.org/m"])
        return [Path("here")]

    for encoding in ("GGML", "ONNX"):
        model = parse_nn_preload(f"m:{encoding}:AUTO:https://a.org/m", locate)
        assert model.paths == (Path("here"),)


def test_a_url_of_a_file_is_its_path():
    assert parse_graph("m=file:///tmp/a%20b.onnx").paths == (Path("/tmp/a b.onnx"),)
    with pytest.raises(UsageError, match="with three slashes"):
        parse_graph("m=file://tmp/m.onnx")


def test_a_url_of_what_is_not_a_model_is_not_fetched():
    with pytest.raises(UsageError, match=r"https://a\.org/g\.wasm: only models are fetched"):
        resolve_path("https://a.org/g.wasm")
    with pytest.raises(UsageError, match=r"their URLs are texts"):
        resolve_path(Path("https://a.org/m.onnx"))


def test_an_absolute_path_after_an_encoding_is_not_a_url(tmp_path):
    model = parse_graph(f"m=onnx:gpu:{tmp_path}/m.onnx")
    assert (model.encoding, model.paths) == ("onnx", (tmp_path / "m.onnx",))
    assert parse_nn_preload(f"m:onnx:cpu:{tmp_path}/m").paths == (tmp_path / "m",)
