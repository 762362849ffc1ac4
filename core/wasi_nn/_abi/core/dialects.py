"""Dialects: the numbers and layouts that guests were compiled against, one small table each.

The sources are all versions of the specification's witx, WasmEdge's plugin and WAMR's headers.
docs/dialects.md shows the tables side by side.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from wasi_nn._suggestion import did_you_mean
from wasi_nn.encodings import (
    AUTODETECT,
    GGML,
    ONNX,
    OPENVINO,
    PYTORCH,
    TENSORFLOW,
    TENSORFLOWLITE,
)
from wasi_nn.errors import ErrorCode, UsageError
from wasi_nn.types import ExecutionTarget, TensorType

#: The import module of every dialect except WAMR's oldest.
EPHEMERAL = "wasi_ephemeral_nn"
#: WAMR's own, deprecated since June 2025.
LEGACY = "wasi_nn"

F16, F32, F64, BF16, U8, I32, I64 = TensorType


class Dialect(NamedTuple):
    """``tensor_types`` and ``encodings`` by number, and the errno of every ``ErrorCode``.

    With ``unbounded_zero``, a buffer size of 0 in ``get_output`` means an unknown size: released
    versions of WasmEdge ignored the size for language models, and LlamaEdge passes 0.
    """

    name: str
    summary: str
    tensor_types: tuple[TensorType, ...]
    encodings: Mapping[int, str]
    errnos: Mapping[ErrorCode, int]
    module: str = EPHEMERAL
    unbounded_zero: bool = False


_TYPES_2020 = (F16, F32, U8, I32)
_TYPES_2023 = (F16, F32, F64, U8, I32, I64)
_TYPES_WIT = (F16, F32, F64, BF16, U8, I32, I64)

_ENCODINGS = {
    0: OPENVINO,
    1: ONNX,
    2: TENSORFLOW,
    3: PYTORCH,
    4: TENSORFLOWLITE,
    5: AUTODETECT,
    6: GGML,
}
_ENCODINGS_WAMR = {**_ENCODINGS, 5: GGML, 6: AUTODETECT}
_ENCODINGS_WASMEDGE = {
    **_ENCODINGS,
    7: "neuralspeed",
    8: "burn",
    9: "whisper",
    10: "mlx",
    11: "piper",
    12: "chattts",
    13: "openvinogenai",
    14: "bitnet",
}

_C = ErrorCode
_ERRNOS_LLM = {
    _C.INVALID_ARGUMENT: 1,
    _C.INVALID_ENCODING: 2,
    _C.MISSING_MEMORY: 3,
    _C.BUSY: 4,
    _C.RUNTIME_ERROR: 5,
    _C.UNSUPPORTED_OPERATION: 6,
    _C.TOO_LARGE: 7,
    _C.NOT_FOUND: 8,
    _C.END_OF_SEQUENCE: 100,
    _C.CONTEXT_FULL: 101,
    _C.PROMPT_TOO_LONG: 102,
    _C.MODEL_NOT_FOUND: 103,
    # Only `wasi:nn` has an error for it.
    _C.SECURITY: 6,
}
# Generated guest bindings have undefined behaviour for an unknown errno. So only guests of
# WasmEdge's dialects get WasmEdge's numbers.
_ERRNOS = {
    **_ERRNOS_LLM,
    _C.END_OF_SEQUENCE: 5,
    _C.CONTEXT_FULL: 5,
    _C.PROMPT_TOO_LONG: 7,
    _C.MODEL_NOT_FOUND: 8,
}
# This dialect has four values: success, invalid_argument, missing_memory and busy. Every other
# error becomes invalid_argument.
_ERRNOS_2020 = {**dict.fromkeys(ErrorCode, 1), _C.MISSING_MEMORY: 2, _C.BUSY: 3}
_ERRNOS_WAMR_2_1 = {
    **_ERRNOS_LLM,
    _C.MISSING_MEMORY: 1,
    _C.BUSY: 4,
    _C.RUNTIME_ERROR: 4,
    _C.UNSUPPORTED_OPERATION: 5,
    _C.TOO_LARGE: 6,
    _C.NOT_FOUND: 7,
    _C.SECURITY: 5,
}

DIALECTS = {
    dialect.name: dialect
    for dialect in (
        Dialect(
            "witx",
            "the specification since August 2023; crate wasi-nn 0.6; wasmtime",
            _TYPES_2023,
            _ENCODINGS,
            _ERRNOS,
        ),
        Dialect(
            "witx-2022",
            "the specification of August 2022; crates wasi-nn 0.2 to 0.5; AssemblyScript's",
            _TYPES_2020,
            _ENCODINGS,
            _ERRNOS,
        ),
        Dialect(
            "witx-2022-04",
            "the specification of December 2021 to July 2022: tensorflow is 1 and onnx is 2",
            _TYPES_2020,
            {0: OPENVINO, 1: TENSORFLOW, 2: ONNX},
            _ERRNOS_2020,
        ),
        Dialect(
            "witx-2020",
            "the specification of August 2020; crate wasi-nn 0.1: four errnos",
            _TYPES_2020,
            {0: OPENVINO, 1: ONNX, 2: TENSORFLOW, 3: PYTORCH},
            _ERRNOS_2020,
        ),
        Dialect(
            "wasmedge",
            "WasmEdge 0.15 and newer; crate wasmedge-wasi-nn 0.7 and newer",
            _TYPES_2023,
            _ENCODINGS_WASMEDGE,
            _ERRNOS_LLM,
            unbounded_zero=True,
        ),
        Dialect(
            "wasmedge-0.14",
            "WasmEdge up to 0.14 with the tensor types of 2022",
            _TYPES_2020,
            _ENCODINGS_WASMEDGE,
            _ERRNOS_LLM,
            unbounded_zero=True,
        ),
        Dialect(
            "wasmedge-2023-12",
            "WasmEdge of December 2023, three weeks: end of sequence is 9 and context full 10",
            _TYPES_2020,
            _ENCODINGS_WASMEDGE,
            {**_ERRNOS_LLM, _C.END_OF_SEQUENCE: 9, _C.CONTEXT_FULL: 10},
            unbounded_zero=True,
        ),
        Dialect(
            "wasmedge-2022",
            "WasmEdge's first PyTorch and TensorFlow Lite guests: pytorch is 1, tensorflowlite 3",
            _TYPES_2020,
            {0: OPENVINO, 1: PYTORCH, 2: TENSORFLOW, 3: TENSORFLOWLITE},
            _ERRNOS,
        ),
        Dialect(
            "wamr",
            "WAMR 2.4 and newer: ggml is 5 and autodetect is 6",
            _TYPES_2023,
            _ENCODINGS_WAMR,
            _ERRNOS_LLM,
        ),
        Dialect(
            "wamr-2.1",
            "WAMR 2.1 to 2.3: tensor types in the order of WIT, errnos of its own",
            _TYPES_WIT,
            _ENCODINGS_WAMR,
            _ERRNOS_WAMR_2_1,
        ),
        Dialect(
            "wamr-legacy",
            "WAMR's module wasi_nn: structs by pointer, sizes in f32 elements",
            _TYPES_2020,
            _ENCODINGS_WAMR,
            _ERRNOS_LLM,
            module=LEGACY,
        ),
    )
}

#: Number 3 is WasmEdge's. Every dialect accepts it, because none uses it for anything else.
TARGETS = (
    ExecutionTarget.CPU,
    ExecutionTarget.GPU,
    ExecutionTarget.TPU,
    ExecutionTarget.AUTO,
)


def dialect(name: str) -> Dialect:
    """The dialect of a name. Raises ``UsageError``."""
    try:
        return DIALECTS[name]
    except KeyError:
        hint = did_you_mean(name, DIALECTS)
        known = ", ".join(DIALECTS)
        raise UsageError(f"there is no dialect {name!r}{hint}; known: {known}") from None
