"""Naming what is given in place of a model or of a guest."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import pickle
import struct
import sys
import tarfile
import zipfile
import zlib

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from wasi_nn._models import recognition
from wasi_nn.errors import InvalidEncoding, RuntimeFailure, UsageError

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12\n"


ENCODINGS = ("onnx", "openvino", "pytorch", "tensorflowlite", "ggml")


def archive(*names: str, content: bytes = b"x") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in names:
            file.writestr(name, content)
    return buffer.getvalue()


def tar(name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        file.addfile(tarfile.TarInfo(name), io.BytesIO())
    return buffer.getvalue()


def safetensors(names=("weight",), size=4, missing=0) -> bytes:
    header = {"__metadata__": {"format": "pt"}}
    for name in names:
        header[name] = {"dtype": "F32", "shape": [1], "data_offsets": [0, size]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(size - missing)


def message(*fields: tuple[int, int | bytes]) -> bytes:
    """A protobuf of numbers and messages below 128."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += bytes((number << 3, value))
        else:
            assert len(value) < 128
            out += bytes((number << 3 | 2, len(value))) + value
    return out


def onnx_model() -> bytes:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [])
    return bytes(helper.make_model(graph, producer_name="someone").SerializeToString())


ANSWERS = [
    (b"<!doctype html>\n<html>", "an HTML page"),
    (b"\xef\xbb\xbf\r\n  <!DOCTYPE HTML PUBLIC '-//W3C//DTD HTML 4.01//EN'>", "an HTML page"),
    (b"<!-- sign in --><html lang=en>", "an HTML page"),
    (b"<html><head><title>404 Not Found</title></head>", "an HTML page"),
    (b"<head>\n", "an HTML page"),
    ("\ufeff<html>".encode("utf-16-le"), "an HTML page"),
    (b'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "x" "y">\n<html xmlns="z">', "an HTML page"),
    (
        b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NoSuchKey</Code></Error>',
        "a server's error in XML ('NoSuchKey')",
    ),
    (b"\xef\xbb\xbf<Error><Code>BlobNotFound</Code>", "in XML ('BlobNotFound')"),
    (b"<ErrorResponse><Error/></ErrorResponse>", "a server's error in XML"),
    (b"<ListBucketResult xmlns='x'>", "a server's error in XML"),
    (b"<s:Fault><faultstring>denied</faultstring></s:Fault>", "in XML ('denied')"),
    (b'{"error":"Repository not found"}', 'a server\'s error in JSON, \'{"error":"Repo'),
    (b'\n{"errors": [{"code": 1}]}', "a server's error in JSON"),
    (b'[{"message": "Bad credentials"}]', "a server's error in JSON"),
    (b'{"detail":"Not Found"}', "a server's error in JSON"),
    (b"Entry not found", "a short text, 'Entry not found'"),
    (b"Invalid username or password.", "a short text, 'Invalid username or password.'"),
    (b"Not Found", "a short text, 'Not Found'"),
    (b"404: Not Found\n", "a short text, '404: Not Found'"),
    ("Zugriff verweigert: kein Schlüssel".encode(), "a short text, 'Zugriff"),
    (b" \n\t\n", "a text of blanks only"),
]
POINTERS = [
    (LFS, "a git-lfs pointer"),
    (b"\xef\xbb\xbf" + LFS.replace(b"\n", b"\r\n"), "a git-lfs pointer"),
    (b"version https://hawser.github.com/spec/v1\n", "an old git-lfs pointer"),
    (b"/annex/objects/SHA256E-s12--abc.onnx\n", "a git-annex pointer"),
    (b"../.git/annex/objects/1k/Mx/MD5E-s1--a/MD5E-s1--a", "a git-annex pointer"),
    (b"outs:\n- md5: a304afb96060aad90176268345e10355\n", "a pointer of DVC"),
    (b"[InternetShortcut]\r\nURL=https://example.org/m.onnx", "a shortcut to a web page"),
]
MODELS = [
    (pickle.dumps({"a": 1}, 0), "a pickled Python object"),
    *((pickle.dumps({"a": 1}, protocol), "a pickled Python object") for protocol in (2, 3, 4, 5)),
    (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n", "a pickled PyTorch checkpoint"),
    (b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x0fsklearn.svm._x", "a pickled scikit-learn model"),
    (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M", "in the old pickle format"),
    (tar("sys_info"), "in the old tar format"),
    (archive("net/data.pkl", "net/data/0", "net/version"), "a PyTorch checkpoint or state dict"),
    (archive("a/.data/extern_modules"), "a torch.package archive"),
    (safetensors(), "weights in safetensors"),
    (safetensors(["base.q_proj.lora_A.weight"]), "a LoRA adapter (safetensors)"),
    (safetensors(["lora_unet_down.lora_up.weight"]), "a LoRA adapter (safetensors)"),
    (safetensors(size=100, missing=60), "a safetensors file that is cut off: it needs"),
    (safetensors()[:30], "a safetensors file that is cut off: it needs"),
    (b'{"peft_type": "LORA", "r": 8}', "a LoRA adapter's config"),
    (b'{"metadata": {}, "weight_map": {"a": "b"}}', "the index of a safetensors model"),
    (b'{"format": "layers-model", "weightsManifest": []}', "a TensorFlow.js model"),
    (b'{"model_type": "llama"}', "the config of a Hugging Face model"),
    (b'{"schemaVersion": 2, "layers": []}', "an image's manifest"),
    (b'{"a": 1}', "a JSON text"),
    (b"lmgg\x01\0\0\0", "a ggml file of before GGUF"),
    (b"tjgg\x03\0\0\0", "a ggml file of before GGUF (ggjt)"),
    (b"algg\x01\0\0\0", "a LoRA adapter of before GGUF"),
    (b"\x89HDF\r\n\x1a\n" + bytes(80) + b"keras_version", "a Keras model (.h5)"),
    (b"\x89HDF\r\n\x1a\n" + bytes(80), "an HDF5 file (.h5)"),
    (archive("metadata.json", "config.json", "model.weights.h5"), "a Keras model (.keras)"),
    (
        message((1, 1), (2, message((1, message((2, b"\x0a\x05Const"), (4, b"serve")))))),
        "a TensorFlow SavedModel (.pb)",
    ),
    (
        message((1, message((1, b"input"), (2, b"Placeholder"))), (1, b"")),
        "a frozen TensorFlow graph (.pb)",
    ),
    (message((1, message((1, 0), (2, 0), (3, b"x")))), "a PaddlePaddle model (.pdmodel)"),
    (message((1, 4), (2, message((1, message((1, b"image")))))), "a Core ML model (.mlmodel)"),
    (message((1, 1), (1, 3), (2, 1), (9, b"abcd")), "an ONNX tensor (TensorProto)"),
    (onnx_model()[:-10], "an ONNX model that is cut off: its graph ends at byte"),
    (b"ftrt\0\0\0\0", "a TensorRT engine"),
    (b"CBM1\x90\0", "a CatBoost model"),
    (b"\x18\0\0\0ET12", "an ExecuTorch program"),
    (b"tree\nversion=v4\n", "a LightGBM model"),
    (b"7767517\n75 83\n", "the layers of an ncnn model"),
    (b"ir_version: 8\n", "an ONNX model as a text"),
    (b"node {\n  name: ", "a TensorFlow graph as a text (.pbtxt)"),
    (b"<PMML/>", "an XML text (<PMML>)"),
]
OTHERS = [
    (b"\x93NUMPY\x01\0", "a numpy array (.npy)"),
    (archive("a.npy", "b.npy"), "an archive of numpy arrays (.npz)"),
    (archive("model.onnx", "labels.txt"), "a zip archive ('labels.txt', 'model.onnx')"),
    (archive(), "an empty zip archive"),
    (archive("model.onnx")[:40], "a zip archive (PyTorch's models are such) that is cut off"),
    (archive("m/data.pkl", content=bytes(9000))[:9000], "that is cut off"),
    (tar("model.onnx"), "a tar archive ('model.onnx')"),
    (zlib.compress(pickle.dumps({})), "a zlib file (joblib's, perhaps), still packed"),
    (gzip.compress(b"x"), "a gzip file, still packed"),
    (lzma.compress(b"x"), "an xz file, still packed"),
    (b"\x28\xb5\x2f\xfd\0", "a Zstandard file, still packed"),
    (b"7z\xbc\xaf\x27\x1c\0", "a 7z archive, still packed"),
    (b"\x89PNG\r\n\x1a\n", "a picture (PNG)"),
    (b"\xff\xd8\xff\xe0", "a picture (JPEG)"),
    (b"RIFF\0\0\0\0WAVE", "a sound (WAV)"),
    (b"RIFF\0\0\0\0WEBP", "a picture (WebP)"),
    (b"%PDF-1.7", "a PDF document"),
    (b"", "an empty file (0 bytes)"),
    (bytes(100), "nothing but zeros"),
    (b"word " * 1000, "a text that begins with 'word word"),
    (("ä" * 4000).encode()[1:] + b"x", None),
    (b"\xe7\x9d\x11\x07 nobody knows", None),
]
PROGRAMS = [
    (b"(module)", "the text format (.wat). Make a binary of it with wat2wasm"),
    (b";; a\n(; b ;)\n(module $m\n", "the text format (.wat)"),
    (b"\n(component\n", "the text format (.wat). Make a binary of it with wasm-tools parse"),
    (b"package wasi:nn@0.2.0;\n", "an interface in WIT"),
    (b"#!/bin/sh\n", "a script. Only WebAssembly runs here"),
    (b"\x7fELF\x02\x01\x01\0", "a native program or library for Linux (ELF)"),
    (b"\x7fELF\x02\x01\x01\xc8", "code that wasmtime compiled (.cwasm). Only one version"),
    (b"MZ\x90\0", "a native program for Windows"),
    (b"\xcf\xfa\xed\xfe\x07\0", "a native program for macOS"),
    (b"\0aot\x03\0\0\0", "code that wamrc compiled (.aot)"),
    (b"BC\xc0\xde", "LLVM bitcode"),
    (b"GGUF\x03\0\0\0", "a GGUF model. Give it with --graph NAME=PATH"),
    (b"\x1c\0\0\0TFL3\0\0", "a TensorFlow Lite model. Give it with --graph"),
    (onnx_model(), "an ONNX model. Give it with --graph"),
    (b'<?xml version="1.0"?><net name="m">', "an OpenVINO model (.xml). Give it with --graph"),
    (archive("m/data.pkl", "m/code/x.py", "m/constants.pkl"), "a PyTorch archive. Give it with"),
    # torch.export keeps an archive of sample inputs in the archive.
    (archive("m/models/m.json", "m/data/x", content=archive("a/data.pkl")), "a PyTorch archive. G"),
    (b"fn main() {}\n" * 200, "a text that begins with 'fn main() {} "),
]


def refusal(kind, call, *arguments, **options) -> str:
    with pytest.raises(kind) as raised:
        call(*arguments, **options)
    return str(raised.value)


def each(cases):
    """A test for each case, by what it says: the contents have times in them."""
    return pytest.mark.parametrize(("content", "says"), cases, ids=[says for _, says in cases])


@each(ANSWERS + POINTERS + MODELS + OTHERS)
def test_a_file_that_is_not_a_model_is_explained(tmp_path, content, says):
    path = tmp_path / "model"
    path.write_bytes(content)
    told = recognition.undetected([path], "say what it is")
    if says is None:
        assert told == f"{path} begins with {content[:8]!r}; say what it is"
        return
    assert told.startswith(f"{path} is ")
    assert says in told
    assert len(told) < 400
    # The same from a guest's bytes, which have no name.
    assert recognition.undetected([memoryview(content)]) == told.replace(str(path), "the model")


@each(ANSWERS + POINTERS + MODELS + OTHERS + PROGRAMS)
def test_a_file_that_is_not_a_guest_is_explained(tmp_path, content, says):
    path = tmp_path / "guest.wasm"
    path.write_bytes(content)
    wrong = f"{path} is not a WebAssembly module or component: "
    if says is None:
        assert recognition.guest(path) == f"{wrong}it begins with {content[:8]!r}, and " + (
            "these begin with b'\\x00asm'"
        )
        return
    told = recognition.guest(path)
    assert told.startswith(f"{wrong}it is ")
    assert says in told
    assert recognition.guest(memoryview(content)).startswith("this is not a WebAssembly module")


@each(POINTERS + ANSWERS)
def test_every_explanation_says_what_to_do(content, says):
    told = recognition.model([memoryview(content)])
    assert any(word in told.lower() for word in ("download", "git annex get", "dvc pull"))
    # It may stand for the weights too, in any builder.
    assert says in recognition.model([memoryview(b"<net>"), memoryview(content)], ["openvino"])


def test_a_model_of_a_served_encoding_is_left_to_its_backend():
    for content, encoding in (
        (b"GGUF\0\0\0\x03", "ggml"),
        (b"\x1c\0\0\0TFL3\0\0", "tensorflowlite"),
        (b'<?xml version="1.0"?><net name="m">', "openvino"),
        (onnx_model(), "onnx"),
        (archive("m/data.pkl"), "pytorch"),
    ):
        assert recognition.model([memoryview(content)], [encoding]) is None
        other = recognition.model([memoryview(content)], {*ENCODINGS} - {encoding})
        assert encoding == "pytorch" or f". Its encoding is {encoding}" in other


def test_formats_of_third_party_backends_are_left_to_them():
    for content in (b"abacus 1 2 3", b'{"status": 1}', b"\x80\x02}.", archive("a"), b"(module)"):
        assert recognition.model([memoryview(content)], ["abacus"]) is None
        assert recognition.model([memoryview(content)], ["onnx"]) is not None
    for content in (LFS, b"<!doctype html>", b"<Error/>"):
        assert recognition.model([memoryview(content)], ["abacus"]) is not None


def test_a_folder_is_explained(tmp_path):
    for names, as_model, as_guest in (
        ([], "a folder. Name a file", "Name a .wasm file"),
        (["m.onnx", "labels.txt"], "a folder. Name the file in it: m.onnx", "Name a .wasm file"),
        (["saved_model.pb"], "a TensorFlow SavedModel. OpenVINO reads it", "Name a .wasm file"),
        (["config.json", "model.safetensors"], "a folder of weights", "Name a .wasm file"),
        (["a.wasm"], "a folder. Name a file", "Name the file in it: a.wasm"),
    ):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for name in names:
            (folder / name).touch()
        assert as_model in recognition.model([folder])
        assert as_guest in recognition.guest(folder)
    package = tmp_path / "net.mlpackage"
    package.mkdir()
    assert "a Core ML model (a folder)" in recognition.model([package])


def test_a_name_explains_a_file_whose_bytes_do_not(tmp_path):
    raw = b"\xe7\x9d\x11\x07" * 10
    (tmp_path / "net.xml").write_text("<net/>")
    for name, says in (
        ("net.bin", "the weights of an OpenVINO model, net.xml. Give net.xml"),
        ("model.onnx_data", "the weights of an ONNX model. Give model.onnx"),
        ("model.onnx.data", "the weights of an ONNX model. Give model.onnx"),
        ("m.gguf.part", "a download that is not finished"),
        ("m.onnx.crdownload", "a download that is not finished"),
        ("variables.data-00000-of-00001", "a part of a TensorFlow checkpoint"),
        ("adapter_model.safetensors", "a LoRA adapter"),  # prose: allow
    ):
        path = tmp_path / name
        path.write_bytes(safetensors() if name.startswith("adapter") else raw)  # prose: allow
        assert says in recognition.model([path])
    other = tmp_path / "other.bin"
    other.write_bytes(raw)
    assert recognition.model([other]) is None


def test_a_pointer_in_place_of_weights_beside_a_model_is_explained(host, tmp_path):
    node = helper.make_node("Add", ["x", "w"], ["y"])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [99]) for name in "xy")
    weights = helper.make_tensor("w", TensorProto.FLOAT, [99], bytes(396), raw=True)
    graph = helper.make_graph([node], "g", [x], [y], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="w.data", size_threshold=0)
    assert host.load(path).outputs[0].dims == (99,)
    (tmp_path / "w.data").write_bytes(LFS)
    told = refusal(RuntimeFailure, host.load, path)
    assert told.startswith(f"{tmp_path / 'w.data'} is a git-lfs pointer")
    assert "The backend says: onnxruntime rejects the model" in told


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_and_a_missing_file_are_left_alone(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert recognition.model([tmp_path / "pipe"]) is None
    assert recognition.model([tmp_path / "nothing"]) is None
    assert recognition.undetected([tmp_path / "nothing"], "name it") == "name it"


@given(st.binary(max_size=300), st.sampled_from([b"", b"PK\x03\x04", b"\x08\x01\x12", b"{", b"<"]))
def test_any_bytes_are_explained_without_an_error(content, start):
    data = memoryview(start + content)
    assert isinstance(recognition.undetected([data]), str)
    assert isinstance(recognition.guest(data), str)
    recognition.model([data, data], ["onnx", "pytorch"])


# Where it is said.


def test_the_explanation_reaches_python_for_a_model(host, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(LFS)
    pointer = f"{path} is a git-lfs pointer"
    assert f"is not recognised: {pointer}" in refusal(InvalidEncoding, host.load, path)
    told = refusal(InvalidEncoding, host.load, b"<html>")
    assert "is not recognised: the model is an HTML page. A server gave" in told
    told = refusal(InvalidEncoding, host.load, b"\xe7 what is this")
    assert "it begins with b'\\xe7 what i'; give encoding=" in told
    assert pointer in refusal(UsageError, host.add_model, "m", path)
    told = refusal(InvalidEncoding, host.load, tmp_path)
    assert f"{tmp_path} is a folder. Name the file in it: m.onnx" in told
    told = refusal(RuntimeFailure, host.load, path, encoding="onnx")
    assert told.startswith(pointer)
    assert "onnxruntime rejects the model" in told
    host.add_model("named", path, encoding="onnx")
    assert refusal(RuntimeFailure, host.model, "named").startswith(pointer)
    path.write_bytes(onnx_model()[:-20])
    assert "an ONNX model that is cut off" in refusal(RuntimeFailure, host.load, path)


@pytest.mark.skipif(sys.platform != "linux", reason="file names are UTF-8 there")
def test_a_path_that_is_not_utf_8(host, tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/m\xff.onnx")
    with open(path, "wb") as file:
        file.write(onnx_model())
    told = refusal(RuntimeFailure, host.load, path)
    assert "m\\udcff.onnx is not UTF-8, which not every library opens: rename it" in told
    assert len(told) < 300


def test_the_explanation_reaches_python_for_a_guest(host, tmp_path):
    model = tmp_path / "m.onnx"
    model.write_bytes(onnx_model())
    told = refusal(UsageError, host.program, model)
    assert told.startswith(f"{model} is not a WebAssembly module or component: it is an ONNX model")
    assert "it is a folder. Name a .wasm file" in refusal(UsageError, host.program, tmp_path)
    assert "in the text format" in refusal(UsageError, host.program, b"(module)")
    damaged = tmp_path / "damaged.wasm"
    for content, says in (
        (b"\0asm\x01\0\0\0\x01\xff", "the WebAssembly module is damaged"),
        (b"\0asm\x0d\0\x01\0\x0a\x05x", "the component is damaged"),
        (b"\0asm\x0d\0\0\0", "this is not a WebAssembly module of version 1: it begins with b"),
    ):
        damaged.write_bytes(content)
        assert refusal(UsageError, host.program, damaged).startswith(f"{damaged}: {says}")
    # A function of a type that is not there.
    damaged.write_bytes(b"\0asm\x01\0\0\0\x03\x02\x01\x05\x0a\x04\x01\x02\0\x0b")
    told = refusal(UsageError, host.compile, damaged)
    assert told.startswith(f"{damaged}: wasmtime cannot compile the module")


def test_a_large_file_in_place_of_a_guest_is_not_read(host, tmp_path):
    path = tmp_path / "huge.gguf"
    with path.open("wb") as file:
        file.write(b"GGUF\x03\0\0\0")
        file.truncate(1 << 40)
    assert "it is a GGUF model" in refusal(UsageError, host.program, path)
