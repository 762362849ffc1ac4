"""A model in a worker answers as it does in the host's process, mistakes included."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from wasi_nn import Host, Policy
from wasi_nn.errors import WasiNnError
from wasi_nn.types import ExecutionTarget, Tensor, TensorType

GRAPHS = Path(__file__).parents[2] / "conformance/graphs"
MODELS = {
    "onnx": ("onnxruntime", ["onnx/{}.onnx"]),
    "openvino": ("openvino", ["openvino/{}.xml", "openvino/{}.bin"]),
    "tensorflowlite": ("ai_edge_litert", ["tensorflowlite/{}.tflite"]),
    "pytorch": ("torch", ["pytorch/{}.pt"]),
}
F32, U8 = TensorType.F32, TensorType.U8


class Guest:
    """What a guest sees, as a list of texts."""

    def __init__(self, encoding: str, isolation: str) -> None:
        self.encoding = encoding
        rights = Policy(own_models=True, isolation=isolation, unsandboxed_programs=True)
        self.host = Host(policy=rights)
        self.session = self.host.open_session()
        self.seen: list[str] = []

    def load(self, *parts: bytes) -> None:
        builders = [memoryview(part) for part in parts]
        self.note(self.session.load, builders, self.encoding, ExecutionTarget.CPU)

    def named(self, name: str) -> None:
        files = MODELS[self.encoding][1]
        self.load(*((GRAPHS / file.format(name)).read_bytes() for file in files))
        self.context = self.session.contexts[self.session.init_execution_context(self.last)]
        for infos in (
            self.session.graphs[self.last].inputs,
            self.session.graphs[self.last].outputs,
        ):
            self.seen.append(repr(list(infos)))

    def note(self, function: Any, *arguments: Any) -> None:
        try:
            result = function(*arguments)
        except WasiNnError as error:
            self.seen.append(f"{function.__name__}: {type(error).__name__}: {error}")
        else:
            self.last = result
            self.seen.append(f"{function.__name__}: {shown(result)}")

    def set(self, key: Any, dims: tuple[Any, ...], data: Any, kind: TensorType = F32) -> None:
        self.note(self.context.set_input, key, Tensor(kind, dims, data))

    def compute(self) -> None:
        self.note(self.context.compute)

    def get(self, key: Any) -> None:
        self.note(self.context.get_output, key)


def shown(result: Any) -> str:
    if isinstance(result, Tensor):
        return f"{result.type} {result.dims} {bytes(result.data).hex()}"
    return repr(result)


def floats(*numbers: float) -> memoryview:
    import struct

    return memoryview(struct.pack(f"<{len(numbers)}f", *numbers))


def keys(guest: Guest) -> None:
    guest.named("add")
    one = floats(1, 2, 3, 4)
    for key in (0, -1, 2, 1 << 40, True, "x", "y", "no", "", "\ud800"):
        guest.set(key, (1, 4), one)
        guest.compute()
        guest.get(0)
    for key in (0, -1, 1, True, "z", "no", "\ud800", "x" * 4096):
        guest.get(key)


def order(guest: Guest) -> None:
    guest.named("add")
    guest.get(0)
    guest.compute()
    guest.set(0, (1, 4), floats(1, 1, 1, 1))
    guest.compute()
    guest.get(0)
    guest.set(1, (1, 4), floats(2, 2, 2, 2))
    guest.compute()
    guest.get(0)
    # What is set later does not change the outputs of the last computation.
    guest.set(0, (1, 4), floats(9, 9, 9, 9))
    guest.get("z")
    guest.set("x", (1, 4), floats(8, 8, 8, 8))
    guest.set(0, (1, 4), floats(7, 7, 7, 7))
    guest.compute()
    guest.get(0)


def looks(guest: Guest) -> None:
    import numpy as np

    guest.named("add")
    guest.set(1, (1, 4), floats(0, 0, 0, 0))
    guest.set(0, (1, 4), floats(1, 2, 3, 4))
    guest.set(0, (4,), floats(5, 5, 5, 5))
    guest.set(0, (1, 5), floats(5, 5, 5, 5, 5))
    guest.set(0, (), floats(5))
    guest.set(0, (0, 4), floats())
    guest.set(0, (1, 4), memoryview(bytes(4)), U8)
    guest.set(0, (1, 4), floats(1))
    guest.set(0, (1 << 40, 1 << 40), floats(1))
    guest.compute()
    guest.get(0)
    guest.set(0, (np.int64(1), np.int64(4)), floats(6, 6, 6, 6))
    guest.set(0, (1, 4), memoryview(bytes(32))[::2])
    guest.compute()
    guest.get(0)


def batches(guest: Guest) -> None:
    guest.named("batch")
    for rows in (1, 3, 2000, 3, 0, 1):
        width = 4
        guest.set(0, (rows, width), floats(*range(rows * width)))
        guest.compute()
        guest.get(0)


def aliases(guest: Guest) -> None:
    guest.named("identity")
    for size in (4, 4):
        guest.set(0, (1, size), floats(*range(size)))
        guest.compute()
        guest.set(0, (1, size), floats(*[9] * size))
        guest.get(0)


def damaged(guest: Guest) -> None:
    guest.load()
    guest.load(b"")
    guest.load(b"no model")
    guest.load(*[b"x"] * 40)
    guest.load(*[b"x"] * 300)


@pytest.mark.parametrize("steps", [keys, order, looks, batches, aliases, damaged])
@pytest.mark.parametrize("encoding", MODELS)
def test_a_worker_answers_as_the_hosts_process_does(encoding, steps):
    package, files = MODELS[encoding]
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    if steps is batches and not (GRAPHS / files[0].format("batch")).exists():
        pytest.skip("there is no such graph")
    seen = []
    for isolation in ("none", "guest"):
        guest = Guest(encoding, isolation)
        with guest.host, guest.session:
            steps(guest)
        seen.append(guest.seen)
    assert seen[0] == seen[1]
