"""Models for the benchmarks, made when they are needed."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper

from authoring.flatbuffer import FlatModel
from authoring.saving import save_onnx, save_torchscript

SMALL_DIMS = (1, 4)
LARGE_DIMS = (1, 3, 224, 224)
LARGE_OUT = (1, 64, 1, 1)
#: The channels of the large network, layer by layer. Each convolution is 3 × 3 with stride 2.
LAYERS = ((3, 64), (64, 128), (128, 320), (320, 64))
#: The sizes of the perceptron's layers.
PERCEPTRON = (1024, 2048, 2048, 448)
_SCALE = np.float32(0.03)


def small(folder: Path) -> Path:
    """y = x + x on 4 floats: almost no work."""
    node = helper.make_node("Add", ["x", "x"], ["y"])
    return save_onnx(folder / "small.onnx", [node], {"x": SMALL_DIMS}, {"y": SMALL_DIMS})


def large(folder: Path) -> Path:
    """Convolutions over a 224 × 224 image (602,112 bytes): some milliseconds of work."""
    random = np.random.default_rng(7)
    nodes, weights, name = [], {}, "x"
    for layer, (inputs, outputs) in enumerate(LAYERS):
        kernel = random.standard_normal((outputs, inputs, 3, 3), np.float32) * np.float32(0.05)
        weights[f"w{layer}"] = kernel
        nodes.append(
            helper.make_node(
                "Conv", [name, f"w{layer}"], [f"c{layer}"], strides=[2, 2], pads=[1, 1, 1, 1]
            )
        )
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]))
        name = f"r{layer}"
    nodes.append(helper.make_node("GlobalAveragePool", [name], ["y"]))
    return save_onnx(folder / "large.onnx", nodes, {"x": LARGE_DIMS}, {"y": LARGE_OUT}, weights)


def perceptron(folder: Path) -> Path:
    """Three layers of 29 MB of weights over n rows of 1,024 floats: a single row reads all of them
    for few products, so memory is what it waits for."""
    random = np.random.default_rng(3)
    nodes, weights, name = [], {}, "x"
    for layer, (inputs, outputs) in enumerate(pairwise(PERCEPTRON)):
        weights[f"w{layer}"] = random.standard_normal((inputs, outputs), np.float32) * _SCALE
        nodes.append(helper.make_node("MatMul", [name, f"w{layer}"], [f"m{layer}"]))
        nodes.append(helper.make_node("Tanh", [f"m{layer}"], [name := f"t{layer}"]))
    nodes[-1].output[0] = "y"
    dims, out = ("n", PERCEPTRON[0]), ("n", PERCEPTRON[-1])
    return save_onnx(folder / "perceptron.onnx", nodes, {"x": dims}, {"y": out}, weights)


def convolution(folder: Path) -> Path:
    """The convolutions of ``large`` over n images."""
    import onnx

    model = onnx.load(large(folder))
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "n"
    path = folder / "convolution.onnx"
    onnx.save(model, path)
    return path


def heavy(folder: Path, megabytes: int) -> Path:
    """A model of a given size in memory: one matrix."""
    side = 1024
    rows = megabytes * (1 << 20) // (4 * side)
    matrix = np.ones((side, rows), np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    dims, path = (1, side), folder / "heavy.onnx"
    return save_onnx(path, nodes, {"x": dims}, {"y": (1, rows)}, {"w": matrix})


def tflite(folder: Path) -> tuple[Path, Path, tuple[int, ...]]:
    """A small and a large network for TensorFlow Lite, and the input of the large one."""
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
    import torch

    class Double(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + x

    layers: list[Any] = []
    for inputs, outputs in LAYERS:
        layers += [torch.nn.Conv2d(inputs, outputs, 3, 2, 1), torch.nn.ReLU()]
    deep = torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1))
    deep.requires_grad_(False)
    small = save_torchscript(folder / "small.pt", Double(), torch.zeros(SMALL_DIMS))
    return small, save_torchscript(folder / "large.pt", deep, torch.zeros(LARGE_DIMS))
