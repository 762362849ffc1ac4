"""f32 tensors in place of a graph's quantised ones, for guests that know f32 alone."""

from __future__ import annotations

from collections.abc import Sequence

from wasi_nn._session.execution import Execution
from wasi_nn.types import Quantization, Tensor, TensorInfo, TensorType


def set_input(context: Execution, index: int, tensor: Tensor) -> None:
    """Set an input. An f32 tensor for a quantised input is quantised first."""
    info = _info(context.loaded.inputs, index)
    if tensor.type is TensorType.F32 and info is not None and info.quantization is not None:
        tensor = quantise(tensor, info)
    context.set_input(index, tensor)


def get_output(context: Execution, index: int) -> Tensor:
    """An output of the last compute. A quantised one is dequantised."""
    tensor = context.get_output(index)
    info = _info(context.loaded.outputs, index)
    if info is not None and info.quantization is not None:
        tensor = dequantise(tensor, info.quantization)
    return tensor


def _info(tensors: Sequence[TensorInfo], index: int) -> TensorInfo | None:
    return tensors[index] if index < len(tensors) else None


def quantise(tensor: Tensor, info: TensorInfo) -> Tensor:
    """An f32 tensor as the elements of a quantised input, rounded and kept in their range."""
    import numpy as np

    if info.quantization is None or info.type is None:
        raise ValueError("the input is not quantised")
    scale, zero_point, element = info.quantization
    limits = np.iinfo(element)
    values = np.frombuffer(tensor.data, np.float32) / np.float32(scale) + zero_point
    # What is not a number becomes the zero point, and not whatever the processor makes of it.
    values = np.nan_to_num(np.round(values), nan=zero_point)
    elements = np.clip(values, limits.min, limits.max).astype(element)
    return Tensor(info.type, tensor.dims, elements.view(np.uint8).data)


def dequantise(tensor: Tensor, quantization: Quantization) -> Tensor:
    """A quantised tensor as f32."""
    import numpy as np

    scale, zero_point, element = quantization
    elements = np.frombuffer(tensor.data, element).astype(np.float32)
    values = (elements - np.float32(zero_point)) * np.float32(scale)
    return Tensor(TensorType.F32, tensor.dims, values.view(np.uint8).data)
