"""The canonical graphs of the conformance cases, in every encoding.

    python -m authoring.canonical [ENCODING ...]     writes conformance/graphs/ENCODING/…

| graph | inputs | outputs |
|---|---|---|
| identity | x f32 [1, 4] | y = x |
| add | x, y f32 [1, 4] | z = x + y |
| pair | a, b f32 [1, 4] | sum = a + b, difference = a − b |
| matmul | x f32 [1, 4] | y f32 [1, 3] = x · w, w[i, j] = 3 i + j |
| batch | x f32 [-1, 4] | y = x + x |
| identity_T | x T [1, 4] | y = x, for each tensor type T that the encoding has |

The files are checked in, so that the cases run without the authoring libraries. ggml's graph is the
tiny language model of language_model.py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from authoring.saving import save_onnx, save_torchscript

GRAPHS = Path(__file__).resolve().parents[1] / "graphs"
#: The files of a graph in the order of its builders.
SUFFIXES = {
    "onnx": (".onnx",),
    "openvino": (".xml", ".bin"),
    "tensorflowlite": (".tflite",),
    "pytorch": (".pt",),
}
#: The tensor types of the graphs beside f32, and numpy's and torch's names of all.
_ALL = ("f16", "f64", "bf16", "u8", "i32", "i64")
TYPES = {**dict.fromkeys(SUFFIXES, _ALL), "tensorflowlite": ("f16", "bf16", "u8", "i32", "i64")}
NAMES = {
    "f16": "float16", "f32": "float32", "f64": "float64", "bf16": "bfloat16", "u8": "uint8",
    "i32": "int32", "i64": "int64",
}  # fmt: skip
WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3)


def onnx(folder: Path) -> None:
    """ONNX, opset 17."""
    from onnx import helper

    kinds = {
        "f16": "FLOAT16", "f32": "FLOAT", "f64": "DOUBLE", "bf16": "BFLOAT16", "u8": "UINT8",
        "i32": "INT32", "i64": "INT64",
    }  # fmt: skip

    def save(name: str, nodes: list[Any], inputs: Any, outputs: Any, **more: Any) -> None:
        save_onnx(folder / f"{name}.onnx", nodes, inputs, outputs, **more)

    row, node = [1, 4], helper.make_node
    for kind in ("f32", *TYPES["onnx"]):
        name = "identity" if kind == "f32" else f"identity_{kind}"
        save(name, [node("Identity", ["x"], ["y"])], {"x": row}, {"y": row}, kind=kinds[kind])
    save("add", [node("Add", ["x", "y"], ["z"])], {"x": row, "y": row}, {"z": row})
    both = [node("Add", ["a", "b"], ["sum"]), node("Sub", ["a", "b"], ["difference"])]
    save("pair", both, {"a": row, "b": row}, {"sum": row, "difference": row})
    product = [node("MatMul", ["x", "w"], ["y"])]
    save("matmul", product, {"x": row}, {"y": [1, 3]}, weights={"w": WEIGHTS})
    save("batch", [node("Add", ["x", "x"], ["y"])], {"x": ["n", 4]}, {"y": ["n", 4]})


def openvino(folder: Path) -> None:
    """OpenVINO IR."""
    import openvino as library
    from openvino import opset13 as ops

    def parameter(name: str, kind: str = "f32", rows: int = 1) -> Any:
        made = ops.parameter([rows, 4], getattr(library.Type, kind), name)
        made.output(0).set_names({name})
        return made

    def save(name: str, outputs: dict[str, Any], *parameters: Any) -> None:
        results = []
        for output_name, value in outputs.items():
            value.output(0).set_names({output_name})
            results.append(ops.result(value))
        model = library.Model(results, list(parameters), name)
        library.serialize(model, folder / f"{name}.xml", folder / f"{name}.bin")

    for kind in ("f32", *TYPES["openvino"]):
        x = parameter("x", kind)
        shape = ops.constant(np.array([1, 4], np.int64))
        same = ops.reshape(x, shape, special_zero=False)
        save("identity" if kind == "f32" else f"identity_{kind}", {"y": same}, x)
    x, y = parameter("x"), parameter("y")
    save("add", {"z": ops.add(x, y)}, x, y)
    a, b = parameter("a"), parameter("b")
    save("pair", {"sum": ops.add(a, b), "difference": ops.subtract(a, b)}, a, b)
    x = parameter("x")
    save("matmul", {"y": ops.matmul(x, ops.constant(WEIGHTS), False, False)}, x)
    x = parameter("x", rows=-1)
    save("batch", {"y": ops.add(x, x)}, x)


def tensorflowlite(folder: Path) -> None:
    """TensorFlow Lite."""
    from authoring.flatbuffer import FlatModel

    def save(name: str, model: FlatModel, inputs: list[int], outputs: list[int]) -> None:
        (folder / f"{name}.tflite").write_bytes(model.finish(inputs, outputs))

    row = (1, 4)
    for kind in ("f32", *TYPES["tensorflowlite"]):
        model = FlatModel()
        x, y = (model.tensor(name, row, NAMES[kind]) for name in "xy")
        model.operator("CONCATENATION", [x], [y])
        save("identity" if kind == "f32" else f"identity_{kind}", model, [x], [y])
    model = FlatModel()
    x, y, z = (model.tensor(name, row) for name in "xyz")
    model.operator("ADD", [x, y], [z])
    save("add", model, [x, y], [z])
    model = FlatModel()
    a, b, total, difference = (model.tensor(n, row) for n in ("a", "b", "sum", "difference"))
    model.operator("ADD", [a, b], [total])
    model.operator("SUB", [a, b], [difference])
    save("pair", model, [a, b], [total, difference])
    model = FlatModel()
    x, y = model.tensor("x", row), model.tensor("y", (1, 3))
    weights = model.constant("w", np.ascontiguousarray(WEIGHTS.T))
    zeros = model.constant("b", np.zeros(3, np.float32))
    model.operator("FULLY_CONNECTED", [x, weights, zeros], [y])
    save("matmul", model, [x], [y])
    model = FlatModel()
    x, y = (model.tensor(name, row, signature=(-1, 4)) for name in "xy")
    model.operator("ADD", [x, x], [y])
    save("batch", model, [x], [y])


def pytorch(folder: Path) -> None:
    """TorchScript."""
    import torch

    class Identity(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

    class Add(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x + y

    class Pair(torch.nn.Module):  # type: ignore[misc]
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return a + b, a - b

    class Matmul(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("w", torch.from_numpy(WEIGHTS))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.w

    class Batch(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + x

    row = torch.ones(1, 4)
    modules: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "add": (Add(), (row, row)),
        "pair": (Pair(), (row, row)),
        "matmul": (Matmul(), (row,)),
        "batch": (Batch(), (torch.ones(2, 4),)),
    }
    for kind in ("f32", *TYPES["pytorch"]):
        name = "identity" if kind == "f32" else f"identity_{kind}"
        modules[name] = (Identity(), (row.to(getattr(torch, NAMES[kind])),))
    for name, (module, example) in modules.items():
        save_torchscript(folder / f"{name}.pt", module, *example)


WRITERS: dict[str, Callable[[Path], None]] = {
    "onnx": onnx,
    "openvino": openvino,
    "tensorflowlite": tensorflowlite,
    "pytorch": pytorch,
}


def main() -> None:
    for encoding in sys.argv[1:] or WRITERS:
        folder = GRAPHS / encoding
        folder.mkdir(parents=True, exist_ok=True)
        WRITERS[encoding](folder)
        # The inputs of the guest programs.
        (folder / "input.raw").write_bytes(np.array([1, 2, 3, 4], "<f4").tobytes())
        print(f"{folder}: {len(list(folder.iterdir()))} files")


if __name__ == "__main__":
    main()
