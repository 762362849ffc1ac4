"""The onnxruntime backend. What a load needs is imported by the first load."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from wasi_nn.backend import (
    Backend,
    Builder,
    Graph,
    LoadOptions,
    missing_library,
)
from wasi_nn.errors import InvalidArgument
from wasi_nn.types import Availability

if TYPE_CHECKING:
    from pathlib import Path


class OnnxBackend(Backend):
    """Runs .onnx and .ort models with onnxruntime. A graph has one builder."""

    name = "onnx"
    encodings = ("onnx",)
    config_keys = frozenset({"threads", "inter-op-threads", "allow-spinning", "optimize"})

    def availability(self, deep: bool = False) -> Availability:
        reason = missing_library("onnxruntime", "onnx")
        if reason is not None or not deep:
            return Availability(reason is None, reason or "onnxruntime is installed")
        try:
            import onnxruntime

            from wasi_nn_onnx.providers import PROVIDERS
        except ImportError as error:
            return Availability(False, f"onnxruntime is installed and broken: {error}")
        available = onnxruntime.get_available_providers()
        devices = tuple(
            f"{target.value} ({provider})"
            for target, known in PROVIDERS.items()
            for provider in known
            if provider in available
        )
        return Availability(True, f"onnxruntime {onnxruntime.__version__}", devices)

    def prepare(self) -> None:
        # onnxruntime's telemetry is a thread.
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        import wasi_nn_onnx.context
        import wasi_nn_onnx.graph  # noqa: F401

    def files(self, paths: Sequence[Path], config: Mapping[str, Any]) -> Sequence[Path]:
        from wasi_nn.backend.onnx_files import external_files

        return [*paths, *(file for path in paths for file in external_files(path))]

    def load(self, builders: Sequence[Builder], options: LoadOptions) -> Graph:
        if len(builders) != 1:
            raise InvalidArgument(f"an ONNX graph has one builder, not {len(builders)}")
        from wasi_nn_onnx.graph import load

        return load(builders[0], options)
