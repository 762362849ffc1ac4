"""The measured backends: their models, and the fastest direct call of their libraries.

A direct call runs the model once on buffers that were bound before. ``Direct`` makes one for each
thread, over one loaded model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import models

#: No thread pools: those of two sides that alternate on the same cores would disturb each other.
ONE_THREAD = {"threads": 1}

Call = Callable[[], object]
Direct = Callable[[], Call]


class Network(NamedTuple):
    """A model's files, its input, the size of its output in bytes, and its direct calls."""

    paths: list[Path]
    dims: tuple[int, ...]
    output_bytes: int
    direct: Direct


def _pattern(dims: tuple[int, ...]) -> Any:
    count = int(np.prod(dims))
    return (np.arange(count) % 251 / 251).astype(np.float32).reshape(dims)


def _onnx(path: Path, dims: tuple[int, ...], out_dims: tuple[int, ...]) -> Network:
    import onnxruntime

    from wasi_nn_onnx.providers import session_options

    session = onnxruntime.InferenceSession(
        str(path), session_options(ONE_THREAD), providers=["CPUExecutionProvider"]
    )

    def direct() -> Call:
        x, y = _pattern(dims), np.zeros(out_dims, np.float32)
        binding = session.io_binding()
        binding.bind_input("x", "cpu", 0, np.float32, dims, x.ctypes.data)
        binding.bind_output("y", "cpu", 0, np.float32, out_dims, y.ctypes.data)
        run, inner = session._sess.run_with_iobinding, binding._iobinding
        keep = (x, y, binding)
        return lambda: (run(inner, None), keep)

    return Network([path], dims, 4 * int(np.prod(out_dims)), direct)


def onnx(folder: Path) -> tuple[Network, Network]:
    """The small and the large network on onnxruntime."""
    small = _onnx(models.small(folder), models.SMALL_DIMS, models.SMALL_DIMS)
    return small, _onnx(models.large(folder), models.LARGE_DIMS, models.LARGE_OUT)


def _openvino(source: Path, name: str, dims: tuple[int, ...], out_dims: tuple[int, ...]) -> Network:
    import openvino

    path = source.with_name(f"{name}.xml")
    openvino.save_model(openvino.convert_model(str(source)), str(path), compress_to_fp16=False)
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": 1,
    }
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)

    def direct() -> Call:
        x, y = _pattern(dims), np.zeros(out_dims, np.float32)
        request = compiled.create_infer_request()
        request.set_input_tensor(0, openvino.Tensor(x, shared_memory=True))
        request.set_output_tensor(0, openvino.Tensor(y, shared_memory=True))
        keep = (x, y)
        return lambda: (request.infer(), keep)

    return Network([path, path.with_suffix(".bin")], dims, 4 * int(np.prod(out_dims)), direct)


def openvino(folder: Path) -> tuple[Network, Network]:
    """The same networks as OpenVINO IR."""
    small = _openvino(models.small(folder), "small-ir", models.SMALL_DIMS, models.SMALL_DIMS)
    return small, _openvino(models.large(folder), "large-ir", models.LARGE_DIMS, models.LARGE_OUT)


def _tflite(path: Path, dims: tuple[int, ...], output_bytes: int) -> Network:
    from ai_edge_litert.interpreter import Interpreter

    def direct() -> Call:
        interpreter = Interpreter(model_path=str(path), num_threads=1)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], _pattern(dims))
        invoke = interpreter._interpreter.Invoke
        return lambda: (invoke(), interpreter)

    return Network([path], dims, output_bytes, direct)


def tflite(folder: Path) -> tuple[Network, Network]:
    """Networks of the same sizes, channels last, on LiteRT."""
    small, large, dims = models.tflite(folder)
    return _tflite(small, models.SMALL_DIMS, 16), _tflite(large, dims, 256)


def _pytorch(path: Path, dims: tuple[int, ...], output_bytes: int) -> Network:
    import torch

    torch.set_num_threads(1)
    module = torch.jit.load(str(path)).eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)

    def direct() -> Call:
        x = torch.from_numpy(_pattern(dims))

        def call() -> object:
            with torch.inference_mode():
                return module(x)

        return call

    return Network([path], dims, output_bytes, direct)


def pytorch(folder: Path) -> tuple[Network, Network]:
    """The same networks as TorchScript."""
    small, large = models.torchscript(folder)
    return _pytorch(small, models.SMALL_DIMS, 16), _pytorch(large, models.LARGE_DIMS, 256)


#: The subjects by the backend's name, with the package that each needs.
SUBJECTS: dict[str, tuple[str, Callable[[Path], tuple[Network, Network]]]] = {
    "onnx": ("onnxruntime", onnx),
    "openvino": ("openvino", openvino),
    "tflite": ("ai_edge_litert", tflite),
    "pytorch": ("torch", pytorch),
}
