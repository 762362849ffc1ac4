"""Which package has the interpreter: LiteRT, or tflite-runtime where that is what is installed.

tflite-runtime ended in 2023 with version 2.14 and works with numpy 1 only: with numpy 2 it imports,
and fails at the first model. LiteRT is its successor, with the same interface.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

LITERT = "ai_edge_litert"
TFLITE_RUNTIME = "tflite_runtime"
_INSTALL = 'pip install "wasi-nn[tflite]"'


def missing() -> str | None:
    """Why there is no usable interpreter, or None. Imports nothing."""
    if find_spec(LITERT) is not None:
        return None
    if find_spec(TFLITE_RUNTIME) is None:
        return f"ai-edge-litert is not installed; {_INSTALL}"
    if _numpy_major() >= 2:
        return f"tflite-runtime does not work with numpy 2 or newer; {_INSTALL}"
    return None


def interpreter_module() -> Any:
    """The module that has ``Interpreter``."""
    package = LITERT if find_spec(LITERT) is not None else TFLITE_RUNTIME
    if find_spec("ml_dtypes") is not None:
        # Teaches numpy bfloat16, without which LiteRT cannot describe such tensors.
        import_module("ml_dtypes")
    return import_module(f"{package}.interpreter")


def describe() -> str:
    """Name and version of what is used."""
    from importlib.metadata import version

    if find_spec(LITERT) is not None:
        return f"ai-edge-litert {version('ai-edge-litert')}"
    return f"tflite-runtime {version('tflite-runtime')}"


def _numpy_major() -> int:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return int(version("numpy").split(".")[0])
    except PackageNotFoundError:
        return 0
