"""Write models of the libraries that have their own file formats."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def save_onnx(
    path: Path,
    nodes: Sequence[Any],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Mapping[str, Sequence[int | str]],
    weights: Mapping[str, Any] = {},
    kind: str = "FLOAT",
) -> Path:
    """Write an ONNX model of opset 17. Its inputs and outputs, given by name with their dimensions,
    are of one type, named as in ``onnx.TensorProto``. ``weights`` are arrays."""
    import onnx
    from onnx import helper, numpy_helper

    infos = (
        [
            helper.make_tensor_value_info(name, getattr(onnx.TensorProto, kind), dims)
            for name, dims in tensors.items()
        ]
        for tensors in (inputs, outputs)
    )
    arrays = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, path.stem, *infos, arrays)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def save_torchscript(path: Path, module: Any, *example: Any) -> Path:
    """Trace a module with an example of its inputs, and write it."""
    import torch

    with warnings.catch_warnings():
        # TorchScript is deprecated, but many guests were made for it.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(module.eval(), example).save(str(path))
    return path
