"""Operators of the package onnxruntime-extensions, in models that bring their own preprocessing."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from wasi_nn.errors import RuntimeFailure

if TYPE_CHECKING:
    import onnxruntime

_UNKNOWN = re.compile(r"((?:ai\.onnx\.contrib|com\.microsoft\.extensions):\w+)\S* is not a regist")


def add(reason: str, settings: onnxruntime.SessionOptions, trusted: bool) -> bool:
    """Whether onnxruntime refused a model for operators of the extensions, which the settings now
    have. ``trusted``: the model is not a guest's.

    Raises ``RuntimeFailure`` where they cannot be had."""
    found = _UNKNOWN.search(reason)
    if found is None:
        return False
    what = f"the model uses the operator {found[1]} of onnxruntime-extensions"
    if not trusted:
        # Some of them read files that the model names.
        raise RuntimeFailure(f"{what}: a guest cannot bring it; register it by its path")
    if find_spec("onnxruntime_extensions") is None:
        raise RuntimeFailure(f"{what}: pip install onnxruntime-extensions")
    try:
        extensions = import_module("onnxruntime_extensions")
        settings.register_custom_ops_library(extensions.get_library_path())
    except Exception as error:
        raise RuntimeFailure(f"{what}, which cannot be used: {error}") from error
    return True
