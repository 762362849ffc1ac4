"""One network, five formats: one guest gets the same answer from every backend."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from conftest import needs  # noqa: E402

from authoring import networks  # noqa: E402

LIBRARIES = {
    "onnx": ["onnxruntime"],
    "openvino": ["openvino"],
    "tflite": ["ai_edge_litert"],
    "torchscript": ["torch"],
    "pt2": ["torch"],
}
#: The five agree with the f64 reference to about 4e-8; f32 sums may be ordered otherwise elsewhere.
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("networks")


@pytest.fixture
def network(request, folder):
    for library in LIBRARIES[request.param]:
        needs(library)
    return networks.FORMATS[request.param](folder)


@pytest.mark.parametrize("network", networks.FORMATS, indirect=True)
def test_every_encoding_gives_numpys_answer(host, network):
    x = networks.sample()
    model = host.load(*network)
    with model.init_execution_context() as context:
        for _ in range(2):
            context.set_input(0, x)
            context.compute()
            y = context.get_output(0)
            np.testing.assert_allclose(y, networks.reference(x), atol=TOLERANCE, rtol=0)
        context.set_input(0, -x)
        context.compute()
        y = context.get_output(0)
        np.testing.assert_allclose(y, networks.reference(-x), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("network", networks.FORMATS, indirect=True)
def test_one_guest_gets_the_same_answer_from_every_encoding(host, guests, network, tmp_path):
    x = networks.sample()
    x.tofile(tmp_path / "in.raw")
    host.add_model("net", *network)
    result = host.run(
        guests / "classify/classify.wasm",
        ["name:net", "/d/in.raw", "1,3,8,8"],
        dirs={"/d": tmp_path},
    )
    assert result.exit_code == 0, result.stderr
    scores = networks.reference(x)[0]
    expected = "".join(f"{k} {scores[k]:.4f}\n" for k in np.argsort(-scores))
    assert result.stdout.decode() == expected
    assert result.failures == ()
