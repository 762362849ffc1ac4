"""Find the package with the interpreter: LiteRT, or tflite-runtime if only that is installed.

The last version of tflite-runtime is 2.14, from 2023. It works only with numpy 1: with numpy 2 it
imports, and fails at the first model. LiteRT is its successor and has the same interface.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from wasi_nn.backend import installed_version

LITERT = "ai_edge_litert"
TFLITE_RUNTIME = "tflite_runtime"
_INSTALL = 'pip install "wasi-nn[tflite]"'


def missing() -> str | None:
    """Why no interpreter is usable, or None. Imports nothing."""
    if find_spec(LITERT) is not None:
        return None
    if find_spec(TFLITE_RUNTIME) is None:
        return f"ai-edge-litert is not installed; {_INSTALL}"
    if _numpy_major() >= 2:
        return f"tflite-runtime does not work with numpy 2 or newer; {_INSTALL}"
    return None


def interpreter_module() -> Any:
    """The module with ``Interpreter``."""
    package = LITERT if find_spec(LITERT) is not None else TFLITE_RUNTIME
    if find_spec("ml_dtypes") is not None:
        # This registers bfloat16 in numpy. LiteRT needs it to describe such tensors.
        import_module("ml_dtypes")
    return import_module(f"{package}.interpreter")


def describe() -> str:
    """The name and version of the package in use."""
    if find_spec(LITERT) is not None:
        return f"ai-edge-litert {installed_version('ai-edge-litert')}"
    return f"tflite-runtime {installed_version('tflite-runtime')}"


def _numpy_major() -> int:
    return int((installed_version("numpy") or "0").split(".")[0])
