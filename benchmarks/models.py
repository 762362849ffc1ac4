"""Models for the benchmarks, made when they are needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SMALL_DIMS = (1, 4)
LARGE_DIMS = (1, 3, 224, 224)
LARGE_OUT = (1, 64, 1, 1)
#: The channels of the large network, layer by layer. Each convolution is 3 × 3 with stride 2.
LAYERS = ((3, 64), (64, 128), (128, 320), (320, 64))


def _save(path: Path, nodes: list[Any], weights: list[Any], dims: Any, out_dims: Any) -> Path:
    graph = helper.make_graph(
        nodes,
        "bench",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(dims))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, list(out_dims))],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def small(folder: Path) -> Path:
    """y = x + x on 4 floats: almost no work."""
    node = helper.make_node("Add", ["x", "x"], ["y"])
    return _save(folder / "small.onnx", [node], [], SMALL_DIMS, SMALL_DIMS)


def large(folder: Path) -> Path:
    """Convolutions over a 224 × 224 image (602,112 bytes): some milliseconds of work."""
    random = np.random.default_rng(7)
    nodes, weights, name = [], [], "x"
    for layer, (inputs, outputs) in enumerate(LAYERS):
        kernel = random.standard_normal((outputs, inputs, 3, 3), np.float32) * np.float32(0.05)
        weights.append(numpy_helper.from_array(kernel, f"w{layer}"))
        nodes.append(
            helper.make_node(
                "Conv", [name, f"w{layer}"], [f"c{layer}"], strides=[2, 2], pads=[1, 1, 1, 1]
            )
        )
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]))
        name = f"r{layer}"
    nodes.append(helper.make_node("GlobalAveragePool", [name], ["y"]))
    return _save(folder / "large.onnx", nodes, weights, LARGE_DIMS, LARGE_OUT)


def heavy(folder: Path, megabytes: int) -> Path:
    """A model of a given size in memory: one matrix."""
    side = 1024
    rows = megabytes * (1 << 20) // (4 * side)
    matrix = np.ones((side, rows), np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    weights = [numpy_helper.from_array(matrix, "w")]
    return _save(folder / "heavy.onnx", nodes, weights, (1, side), (1, rows))


def tflite(folder: Path) -> tuple[Path, Path, tuple[int, ...]]:
    """A small and a large network for TensorFlow Lite, and the input of the large one."""
    from authoring.flatbuffer import FlatModel

    random = np.random.default_rng(7)
    tiny = FlatModel()
    x, y = tiny.tensor("x", SMALL_DIMS), tiny.tensor("y", SMALL_DIMS)
    tiny.operator("ADD", [x, x], [y])
    small = folder / "small.tflite"
    small.write_bytes(tiny.finish([x], [y]))
    model = FlatModel()
    dims, side = (1, 224, 224, 3), 224
    first = last = model.tensor("x", dims)
    for layer, (inputs, outputs) in enumerate(LAYERS):
        kernel = (random.standard_normal((outputs, 3, 3, inputs)) * 0.05).astype(np.float32)
        side = (side - 3) // 2 + 1
        made = model.tensor(f"r{layer}", (1, side, side, outputs))
        weights = model.constant(f"w{layer}", kernel)
        bias = model.constant(f"b{layer}", np.zeros(outputs, np.float32))
        model.operator("CONV_2D", [last, weights, bias], [made])
        last = made
    result = model.tensor("y", (1, LAYERS[-1][1]))
    model.operator("MEAN", [last, model.constant("axes", np.array([1, 2], np.int32))], [result])
    large = folder / "large.tflite"
    large.write_bytes(model.finish([first], [result]))
    return small, large, dims


def torchscript(folder: Path) -> tuple[Path, Path]:
    """The small and the large network as TorchScript."""
    import warnings

    import torch

    class Double(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + x

    layers: list[Any] = []
    for inputs, outputs in LAYERS:
        layers += [torch.nn.Conv2d(inputs, outputs, 3, 2, 1), torch.nn.ReLU()]
    deep = torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1))
    paths = []
    for name, module, dims in (("small", Double(), SMALL_DIMS), ("large", deep, LARGE_DIMS)):
        path = folder / f"{name}.pt"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.jit.trace(module.eval().requires_grad_(False), torch.zeros(dims)).save(str(path))
        paths.append(path)
    return paths[0], paths[1]
