"""Map OpenVINO's element types, by name, to wasi-nn's tensor types.

Some types are carried as the bits of a type with the same size, as in the onnx backend: boolean and
i8 as u8, u32 as i32, u64 as i64.
"""

from __future__ import annotations

from wasi_nn.types import TensorType

ELEMENTS = {
    "f16": TensorType.F16,
    "f32": TensorType.F32,
    "f64": TensorType.F64,
    "bf16": TensorType.BF16,
    "u8": TensorType.U8,
    "i8": TensorType.U8,
    "boolean": TensorType.U8,
    "i32": TensorType.I32,
    "u32": TensorType.I32,
    "i64": TensorType.I64,
    "u64": TensorType.I64,
}
