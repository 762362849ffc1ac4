"""One small convolutional network in every encoding, with the same weights.

Input ``x``: f32 [1, 3, 8, 8]. A 3 × 3 convolution to 4 channels (stride 2, padding 1), ReLU, the
mean over each channel, a linear layer to 3 scores, softmax: output ``y``, f32 [1, 3].

Each format is written from the same numpy arrays, with its own library or its schema. Only the
OpenVINO IR is converted: OpenVINO makes it from the ONNX model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from authoring.saving import save_onnx, save_torchscript

INPUT_DIMS = (1, 3, 8, 8)
OUTPUT_DIMS = (1, 3)


class Weights(NamedTuple):
    """The network's weights. ``kernel`` is [out, in, height, width]."""

    kernel: Any
    bias: Any
    linear: Any
    linear_bias: Any


def weights() -> Weights:
    """The weights, the same every time."""
    random = np.random.default_rng(11)

    def draw(*dims: int) -> Any:
        return (random.standard_normal(dims) * 0.5).astype(np.float32)

    return Weights(draw(4, 3, 3, 3), draw(4), draw(3, 4), draw(3))


def sample() -> Any:
    """An input."""
    return np.random.default_rng(12).standard_normal(INPUT_DIMS).astype(np.float32)


def reference(x: Any) -> Any:
    """The network's output, computed with numpy in f64."""
    w = weights()
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    out = np.zeros((1, 4, 4, 4))
    for row in range(4):
        for column in range(4):
            patch = padded[0, :, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            out[0, :, row, column] = np.tensordot(w.kernel, patch, 3) + w.bias
    pooled = np.maximum(out, 0).mean((2, 3))
    scores = np.exp(pooled @ w.linear.T.astype(np.float64) + w.linear_bias)
    return scores / scores.sum()


def onnx(folder: Path) -> list[Path]:
    """ONNX, with its own helpers."""
    from onnx import helper

    w = weights()
    arrays = {"k": w.kernel, "b": w.bias, "l": w.linear, "lb": w.linear_bias}
    nodes = [
        helper.make_node("Conv", ["x", "k", "b"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "l", "lb"], ["s"], transB=1),
        helper.make_node("Softmax", ["s"], ["y"], axis=1),
    ]
    path = folder / "network.onnx"
    return [save_onnx(path, nodes, {"x": INPUT_DIMS}, {"y": OUTPUT_DIMS}, arrays)]


def openvino(folder: Path) -> list[Path]:
    """OpenVINO IR, made from the ONNX model, with weights in f32."""
    import openvino as library

    path = folder / "network.xml"
    model = library.convert_model(str(onnx(folder)[0]))
    library.save_model(model, str(path), compress_to_fp16=False)
    return [path, path.with_suffix(".bin")]


def _module() -> Any:
    import torch

    class Network(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3, 2, 1)
            self.linear = torch.nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            pooled = torch.relu(self.conv(x)).mean((2, 3))
            return torch.softmax(self.linear(pooled), 1)

    w = weights()
    module = Network().eval().requires_grad_(False)
    for parameter, array in zip(module.parameters(), w, strict=True):
        parameter.copy_(torch.from_numpy(array))
    return module


def torchscript(folder: Path) -> list[Path]:
    """TorchScript, traced."""
    import torch

    return [save_torchscript(folder / "network.pt", _module(), torch.from_numpy(sample()))]


def exported(folder: Path) -> list[Path]:
    """A torch.export archive."""
    import torch

    path = folder / "network.pt2"
    torch.export.save(torch.export.export(_module(), (torch.from_numpy(sample()),)), str(path))
    return [path]


def tflite(folder: Path) -> list[Path]:
    """TensorFlow Lite, with its flatbuffer schema. A transposition at the start accepts the input
    layout of the other formats (channels first)."""
    from authoring.flatbuffer import FlatModel

    w = weights()
    model = FlatModel()
    x = model.tensor("x", INPUT_DIMS)
    nhwc = model.tensor("nhwc", (1, 8, 8, 3))
    order = model.constant("order", np.array([0, 2, 3, 1], np.int32))
    model.operator("TRANSPOSE", [x, order], [nhwc])
    padded = model.tensor("padded", (1, 10, 10, 3))
    edges = model.constant("edges", np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32))
    model.operator("PAD", [nhwc, edges], [padded])
    kernel = model.constant("kernel", np.ascontiguousarray(w.kernel.transpose(0, 2, 3, 1)))
    conv = model.tensor("conv", (1, 4, 4, 4))
    model.operator("CONV_2D", [padded, kernel, model.constant("bias", w.bias)], [conv])
    mean = model.tensor("mean", (1, 4))
    model.operator("MEAN", [conv, model.constant("axes", np.array([1, 2], np.int32))], [mean])
    scores = model.tensor("scores", OUTPUT_DIMS)
    linear = [model.constant("linear", w.linear), model.constant("linear_bias", w.linear_bias)]
    model.operator("FULLY_CONNECTED", [mean, *linear], [scores])
    y = model.tensor("y", OUTPUT_DIMS)
    model.operator("SOFTMAX", [scores], [y])
    path = folder / "network.tflite"
    path.write_bytes(model.finish([x], [y]))
    return [path]


#: The writers of every encoding, by the backend that runs it and the kind of file.
FORMATS: dict[str, Callable[[Path], list[Path]]] = {
    "onnx": onnx,
    "openvino": openvino,
    "tflite": tflite,
    "torchscript": torchscript,
    "pt2": exported,
}
