"""Models with operators of onnxruntime-extensions, and with operators of nobody."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
from onnx import TensorProto, helper

from wasi_nn.errors import RuntimeFailure

INSTALLED = find_spec("onnxruntime_extensions") is not None


def model(operator, domain):
    """y = operator(x), of two by two numbers."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in "xy")
    node = helper.make_node(operator, ["x"], ["y"], domain=domain)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)]
    graph = helper.make_graph([node], "g", [x], [y])
    made = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    return bytes(made.SerializeToString())


@pytest.fixture
def inverse(tmp_path):
    path = tmp_path / "inverse.onnx"
    path.write_bytes(model("Inverse", "ai.onnx.contrib"))
    return path


@pytest.mark.skipif(not INSTALLED, reason="onnxruntime-extensions is not installed")
def test_operators_of_the_extensions_package_work(host, inverse):
    host.add_model("net", inverse)
    result = host.model("net").run(np.float32([[2, 0], [0, 4]]))
    assert result["y"].tolist() == [[0.5, 0], [0, 0.25]]


@pytest.mark.skipif(INSTALLED, reason="onnxruntime-extensions is installed")
def test_missing_extensions_are_explained(host, inverse):
    host.add_model("net", inverse)
    with pytest.raises(RuntimeFailure, match=r"contrib:Inverse .* pip install onnxruntime-ext"):
        host.model("net")


@pytest.mark.parametrize("domain", ["ai.onnx.contrib", "com.microsoft.extensions"])
def test_a_guests_own_model_cannot_use_the_extensions(host, domain):
    with pytest.raises(RuntimeFailure, match="a guest cannot bring it; register it by its path"):
        host.load(model("Inverse", domain))


def test_an_operator_of_no_package_is_explained(host, tmp_path):
    path = tmp_path / "other.onnx"
    path.write_bytes(model("Foo", "my.operators"))
    host.add_model("net", path)
    with pytest.raises(RuntimeFailure, match=r"my\.operators:Foo.* is not a registered"):
        host.model("net")
