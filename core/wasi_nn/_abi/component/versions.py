"""The names in `wasi:nn`: its versions, error codes, tensor types and encodings."""

from __future__ import annotations

from collections.abc import Sequence

from wasi_nn.errors import ErrorCode, UsageError
from wasi_nn.types import TensorType

#: Newest first. The empty one is the interface before it had versions (2023-12-08 to 2024-06-25).
VERSIONS = ("0.2.0-rc-2024-10-28", "0.2.0-rc-2024-08-19", "0.2.0-rc-2024-06-25", "")
NAMED_TENSORS = frozenset(VERSIONS[:1])
ERROR_CONSTRUCTOR = frozenset(VERSIONS[2:])

PACKAGE = "wasi:nn/"
#: ``wit`` names outputs as the model does. ``wit-wasmtime`` names them "0", "1", as wasmtime does
#: for OpenVINO.
DIALECTS = ("wit", "wit-wasmtime")

ERROR_CODES = (
    "invalid-argument",
    "invalid-encoding",
    "timeout",
    "runtime-error",
    "unsupported-operation",
    "too-large",
    "not-found",
    "security",
    "unknown",
)
CODES = {
    ErrorCode.INVALID_ARGUMENT: "invalid-argument",
    ErrorCode.INVALID_ENCODING: "invalid-encoding",
    ErrorCode.MISSING_MEMORY: "invalid-argument",
    ErrorCode.BUSY: "timeout",
    ErrorCode.RUNTIME_ERROR: "runtime-error",
    ErrorCode.UNSUPPORTED_OPERATION: "unsupported-operation",
    ErrorCode.TOO_LARGE: "too-large",
    ErrorCode.NOT_FOUND: "not-found",
    ErrorCode.END_OF_SEQUENCE: "runtime-error",
    ErrorCode.CONTEXT_FULL: "too-large",
    ErrorCode.PROMPT_TOO_LONG: "too-large",
    ErrorCode.MODEL_NOT_FOUND: "not-found",
    ErrorCode.SECURITY: "security",
}
TENSOR_TYPES = {
    "FP16": TensorType.F16,
    "FP32": TensorType.F32,
    "FP64": TensorType.F64,
    "BF16": TensorType.BF16,
    "U8": TensorType.U8,
    "I32": TensorType.I32,
    "I64": TensorType.I64,
}
TYPE_NAMES = {kind: name for name, kind in TENSOR_TYPES.items()}
ENCODINGS = ("openvino", "onnx", "tensorflow", "pytorch", "tensorflowlite", "ggml", "autodetect")


def version_of(imports: Sequence[str]) -> str | None:
    """The version of `wasi:nn` that a component imports ("" for the unversioned one), or None.
    Raises ``UsageError`` for a version that was never published."""
    versions = {name.partition("@")[2] for name in imports if name.startswith(PACKAGE)}
    unknown = sorted(versions - set(VERSIONS))
    if unknown:
        served = ", ".join(version for version in VERSIONS if version)
        raise UsageError(
            f"it imports wasi:nn@{unknown[0]}; this host serves {served}, and the unversioned one"
        )
    return next((version for version in VERSIONS if version in versions), None)
