"""The end of Python while other threads compute. (Guests: the engines' tests.)"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import needs, run_python

from wasi_nn._process import exit as python_exit

GRAPHS = Path(__file__).parents[2] / "conformance" / "graphs"
# A bound against a hang, in seconds.
_HANG = 60
START = """
import sys, threading
from pathlib import Path
import numpy as np
from wasi_nn import Host

host = Host()
paths = sys.argv[1:]
model = host.load(*paths)
"""
COMPUTE = """
def compute():
    with model.init_execution_context() as context:
        while True:
            for index, info in enumerate(model.inputs):
                sizes = [1, 4] if info.dims is None else [abs(size) for size in info.dims]
                context.set_input(index, np.ones(sizes, np.float32))
            context.compute()
            context.get_output(0)
            begun.set()
"""
LOAD = """
def compute():
    while True:
        host.load(*[Path(path).read_bytes() for path in paths], encoding=model.encoding)
        begun.set()
"""
END = """
for _ in range(3):
    begun = threading.Event()
    threading.Thread(target=compute, daemon=True).start()
    begun.wait()
"""
MODELS = {
    "onnxruntime": ["onnx/matmul.onnx"],
    "openvino": ["openvino/matmul.xml", "openvino/matmul.bin"],
    "torch": ["pytorch/identity.pt"],
    "ai_edge_litert": ["tensorflowlite/matmul.tflite"],
}


@pytest.mark.parametrize("work", [COMPUTE, LOAD], ids=["compute", "load"])
@pytest.mark.parametrize("library", MODELS)
def test_python_exits_cleanly_while_threads_work(library: str, work: str) -> None:
    needs(library)
    paths = [str(GRAPHS / name) for name in MODELS[library]]
    ended = run_python(START + work + END, *paths, timeout=_HANG)
    # (LiteRT says by itself what it does.)
    told = [line for line in ended.stderr.splitlines() if not line.startswith("INFO: ")]
    assert (ended.returncode, told) == (0, [])


def test_the_modules_whose_threads_are_stopped_exist():
    """They are known by their names."""
    assert all(find_spec(name) for name in python_exit._CALLERS)
