"""The PyTorch backend. What a load needs is imported by the first load."""

from __future__ import annotations

from collections.abc import Sequence

from wasi_nn.backend import (
    Backend,
    Builder,
    Graph,
    LoadOptions,
    missing_library,
)
from wasi_nn.errors import InvalidArgument
from wasi_nn.types import Availability


class PytorchBackend(Backend):
    """Runs an archive with torch on the CPU or a CUDA GPU. A graph has one builder."""

    name = "pytorch"
    encodings = ("pytorch",)
    config_keys = frozenset({"threads"})
    models_are_programs = True

    def availability(self, deep: bool = False) -> Availability:
        reason = missing_library("torch", "pytorch")
        if reason is not None or not deep:
            return Availability(reason is None, reason or "torch is installed")
        try:
            import torch
        except (ImportError, OSError) as error:
            return Availability(False, f"torch is installed and broken: {error}")
        devices = ("cpu", "gpu (cuda)") if torch.cuda.is_available() else ("cpu",)
        return Availability(True, f"torch {torch.__version__}", devices)

    def prepare(self) -> None:
        import wasi_nn_pytorch.context
        import wasi_nn_pytorch.graph  # noqa: F401

    def load(self, builders: Sequence[Builder], options: LoadOptions) -> Graph:
        if len(builders) != 1:
            raise InvalidArgument(f"a PyTorch graph has one builder, not {len(builders)}")
        from wasi_nn_pytorch.graph import load

        return load(builders[0], options)
