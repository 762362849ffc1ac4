"""Map torch's element types, by name, to wasi-nn's tensor types.

Some types are carried as the bits of a type with the same size, as in the onnx backend.
"""

from __future__ import annotations

from typing import Any

from wasi_nn.types import TensorType

ELEMENTS = {
    "torch.float16": TensorType.F16,
    "torch.float32": TensorType.F32,
    "torch.float64": TensorType.F64,
    "torch.bfloat16": TensorType.BF16,
    "torch.uint8": TensorType.U8,
    "torch.int8": TensorType.U8,
    "torch.bool": TensorType.U8,
    "torch.int32": TensorType.I32,
    "torch.uint32": TensorType.I32,
    "torch.int64": TensorType.I64,
    "torch.uint64": TensorType.I64,
}

_TORCH_NAMES = {
    TensorType.F16: "float16",
    TensorType.F32: "float32",
    TensorType.F64: "float64",
    TensorType.BF16: "bfloat16",
    TensorType.U8: "uint8",
    TensorType.I32: "int32",
    TensorType.I64: "int64",
}


def torch_dtype(kind: TensorType) -> Any:
    """The torch.dtype of a tensor type."""
    import torch

    return getattr(torch, _TORCH_NAMES[kind])
