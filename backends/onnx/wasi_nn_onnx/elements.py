"""Map onnxruntime's element types to wasi-nn's tensor types.

wasi-nn does not have all of them. Some are carried as the bits of a type with the same size: bool
and int8 as u8, uint32 as i32, uint64 as i64.
"""

from __future__ import annotations

from wasi_nn.types import TensorInfo, TensorType

#: onnxruntime's name: (wasi-nn's type, the number in onnx.TensorProto.DataType).
_ELEMENTS: dict[str, tuple[TensorType, int]] = {
    "tensor(float)": (TensorType.F32, 1),
    "tensor(uint8)": (TensorType.U8, 2),
    "tensor(int8)": (TensorType.U8, 3),
    "tensor(int32)": (TensorType.I32, 6),
    "tensor(int64)": (TensorType.I64, 7),
    "tensor(bool)": (TensorType.U8, 9),
    "tensor(float16)": (TensorType.F16, 10),
    "tensor(double)": (TensorType.F64, 11),
    "tensor(uint32)": (TensorType.I32, 12),
    "tensor(uint64)": (TensorType.I64, 13),
    "tensor(bfloat16)": (TensorType.BF16, 16),
}


_OPTIONAL = "optional("


def tensor_type(native: str) -> TensorType | None:
    """The tensor type of an onnxruntime type such as ``tensor(float)``, or None."""
    known = _ELEMENTS.get(native)
    return known[0] if known else None


def input_type(native: str) -> TensorType | None:
    """The tensor type of an input. ``optional(tensor(float))`` is an input that may be unset."""
    return tensor_type(_content(native))


def is_optional(info: TensorInfo) -> bool:
    """Whether an input may be left out."""
    return info.native_type.startswith(_OPTIONAL)


def element_number(native: str) -> int:
    """The number of an onnxruntime type in ``onnx.TensorProto.DataType``."""
    return _ELEMENTS[_content(native)][1]


def _content(native: str) -> str:
    return native[len(_OPTIONAL) : -1] if native.startswith(_OPTIONAL) else native
