"""Guests that are components, in C, Python and JavaScript."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

import pytest
from conftest import needs

from wasi_nn import Host, Policy

needs("wasmtime")

ROOT = Path(__file__).resolve().parents[2]
GUESTS = ROOT / "conformance" / "guests"
GRAPHS = ROOT / "conformance" / "graphs"


@pytest.fixture
def host():
    with Host(runtime="wasmtime", policy=Policy(own_models=True)) as host:
        yield host


def large(name: str) -> Path:
    """A guest that `make guests` builds, which CI does."""
    path = ROOT / "build" / "guests" / f"{name}.wasm"
    if not path.exists():
        if os.environ.get("CI"):
            pytest.fail(f"{path.name} must be built in CI", pytrace=False)
        pytest.skip(f"{path.name} is not built; make guests")
    return path


class TestC:
    @pytest.mark.parametrize("model", ["name:net", "/graphs/identity.onnx"])
    def test_classify_by_name_and_from_bytes(self, host, tmp_path, model):
        needs("onnxruntime")
        host.add_model("net", GRAPHS / "onnx" / "identity.onnx")
        (tmp_path / "x").write_bytes(struct.pack("<4f", 1, 5, 3, -2))
        dirs = {"/in": tmp_path, "/graphs": GRAPHS / "onnx"}
        guest = host.compile(GUESTS / "classify-wit" / "classify-wit.wasm")
        result = guest.run([model, "/in/x", "1,4", "2"], dirs=dirs).check()
        assert result.stdout == b"1 5.0000\n2 3.0000\n"
        assert result.dialect == "wasi:nn@0.2.0-rc-2024-10-28"
        result = guest.run([model, "/in/x", "4,1"], dirs=dirs)
        assert (result.exit_code, result.stderr) == (1, b"classify: compute: invalid-argument\n")

    def test_chat_talks_with_a_model(self, host):
        needs("xllamacpp")
        config = {"temp": 0, "threads": 1, "ctx-size": 512, "grammar": 'root ::= "yes"'}
        host.add_model("default", GRAPHS / "ggml" / "tiny.gguf", config=config)
        guest = host.compile(GUESTS / "chat-wit" / "chat-wit.wasm")
        result = guest.run(["--system", 'be "x"'], stdin=b"Hello\nand you\n").check()
        assert result.stdout == b"yes\nyes\n"
        result = guest.run(["--config", '{"grammar": "root ::= \\"no\\""}'], stdin=b"Hello\n")
        assert result.check().stdout == b"no\n"
        result = guest.run(["--config", '{"temp": "x"}'], stdin=b"Hello\n")
        assert result.exit_code == 1
        assert b"compute: config 'temp' must be a number" in result.stderr


class TestPython:
    def test_ask_prints_every_output(self, host):
        needs("xllamacpp")
        config = {"temp": 0, "threads": 1, "ctx-size": 512}
        host.add_model("llm", GRAPHS / "ggml" / "tiny.gguf", config=config)
        guest = host.compile(large("ask"))
        result = guest.run(["llm", "Hello", '{"n-predict": 3}']).check()
        assert re.search(r'"output_tokens": 3\b', result.stdout.decode())
        result = guest.run(["lla", "Hello"])
        assert result.exit_code == 1
        assert b"NOT_FOUND: no model is registered as 'lla'" in result.stderr


class TestJavaScript:
    def test_infer_prints_the_output(self, host):
        needs("onnxruntime")
        host.add_model("net", GRAPHS / "onnx" / "add.onnx")
        guest = host.compile(large("infer"))
        result = guest.run(["net", "x=1,2,3,4", "y=10,20,30,40.5"]).check()
        assert result.stdout == b"z [1, 4]: 11 22 33 44.5\n"
        result = guest.run(["net", "x=1,2,3,4"])
        assert result.exit_code == 1
        assert result.stderr == b"invalid-argument: these inputs have not been set: y\n"
