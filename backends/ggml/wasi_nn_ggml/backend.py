"""The llama.cpp backend. What a load needs is imported by the first load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from wasi_nn.backend import Backend, Builder, Graph, LoadOptions
from wasi_nn.errors import NnError
from wasi_nn.types import Availability
from wasi_nn_ggml import keys

if TYPE_CHECKING:
    from pathlib import Path


class GgmlBackend(Backend):
    """llama.cpp: GGUF models. Builder 0 is the model. The optional builder 1 is a guest's JSON
    config, or the projector file of a registered model."""

    name = "ggml"
    encodings = ("ggml",)
    config_keys = keys.KEYS
    host_only_keys = keys.HOST_ONLY
    always_in_worker = True
    reads_beside = True

    def availability(self, deep: bool = False) -> Availability:
        from wasi_nn_ggml.llama import provider

        if provider.find() is None:
            return Availability(False, f"llama.cpp is not installed; {provider.INSTALL}")
        if not deep:
            return Availability(True, "llama.cpp is installed")
        from wasi_nn_ggml.llama.loader import library

        native = library()
        devices = ("cpu", "gpu") if native.llama_supports_gpu_offload() else ("cpu",)
        return Availability(True, native.version, devices)

    def prepare(self) -> None:
        import wasi_nn_ggml.protocol.graph  # noqa: F401
        from wasi_nn_ggml.llama.loader import library

        library()
        with suppress(ImportError):
            import llguidance  # noqa: F401
            import numpy  # noqa: F401

    def files(self, paths: Sequence[Path], config: Mapping[str, Any]) -> Sequence[Path]:
        from wasi_nn_ggml.guard import model_files

        found = [file for path in paths[:1] for file in model_files.files(path)] + [*paths[1:]]
        projector = config.get("mmproj")
        if paths and isinstance(projector, str) and projector:
            # A mistake in it is reported when an image needs the projector.
            with suppress(NnError):
                found.append(model_files.beside(paths[0], projector, "mmproj"))
        return found

    def load(self, builders: Sequence[Builder], options: LoadOptions) -> Graph:
        from wasi_nn_ggml.protocol.graph import load

        return load(self, builders, options)
