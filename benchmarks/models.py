"""ONNX models for the benchmarks, authored on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SMALL_DIMS = (1, 4)
LARGE_DIMS = (1, 3, 224, 224)


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
    """y = x + x on 4 floats: next to no work."""
    node = helper.make_node("Add", ["x", "x"], ["y"])
    return _save(folder / "small.onnx", [node], [], SMALL_DIMS, SMALL_DIMS)


def large(folder: Path) -> Path:
    """Convolutions over a 224 × 224 picture (602,112 bytes): some milliseconds of work."""
    random = np.random.default_rng(7)
    nodes, weights, name = [], [], "x"
    for layer, (inputs, outputs) in enumerate([(3, 64), (64, 128), (128, 320), (320, 64)]):
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
    return _save(folder / "large.onnx", nodes, weights, LARGE_DIMS, (1, 64, 1, 1))


def heavy(folder: Path, megabytes: int) -> Path:
    """A model of a given size in memory: one matrix."""
    side = 1024
    rows = megabytes * (1 << 20) // (4 * side)
    matrix = np.ones((side, rows), np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    weights = [numpy_helper.from_array(matrix, "w")]
    return _save(folder / "heavy.onnx", nodes, weights, (1, side), (1, rows))
