"""The OpenVINO backend. What a load needs is imported by the first load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from wasi_nn.backend import (
    Backend,
    Builder,
    Graph,
    LoadOptions,
    installed_version,
)
from wasi_nn.types import Availability

if TYPE_CHECKING:
    from pathlib import Path

    from wasi_nn_openvino.objects import Core


class OpenvinoBackend(Backend):
    """Runs OpenVINO IR (XML and weights), and other formats that OpenVINO reads from a file."""

    name = "openvino"
    encodings = ("openvino",)
    config_keys = frozenset(
        {
            "inference-precision",
            "performance-hint",
            "threads",
            "streams",
            "shape-cache",
            "cache-dir",
        }
    )
    # OpenVINO writes to this folder of the host, and reads compiled code from it.
    host_only_keys = frozenset({"cache-dir"})

    @cached_property
    def _core(self) -> Core:
        from wasi_nn_openvino.objects import Core

        return Core()

    def availability(self, deep: bool = False) -> Availability:
        from wasi_nn_openvino.library import OpenvinoError, missing

        reason = missing()
        if reason is not None or not deep:
            return Availability(reason is None, reason or "openvino is installed")
        try:
            devices = self._core.devices()
        except OpenvinoError as error:
            return Availability(False, f"openvino is installed and broken: {error}")
        version = installed_version("openvino")
        return Availability(True, f"openvino {version}", tuple(devices))

    def prepare(self) -> None:
        import wasi_nn_openvino.context
        import wasi_nn_openvino.graph  # noqa: F401

        # It opens the plugins of the devices.
        self._core.property("CPU", "FULL_DEVICE_NAME")

    def files(self, paths: Sequence[Path], config: Mapping[str, Any]) -> Sequence[Path]:
        from wasi_nn_openvino.beside import beside

        return [*paths, *beside(paths[0])] if len(paths) == 1 else paths

    def load(self, builders: Sequence[Builder], options: LoadOptions) -> Graph:
        from wasi_nn_openvino.graph import load

        return load(self._core, builders, options)
