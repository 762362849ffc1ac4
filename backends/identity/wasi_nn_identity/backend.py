"""The identity backend. What a load needs is imported by the first load."""

from __future__ import annotations

from collections.abc import Sequence

from wasi_nn.backend import FALLBACK, Backend, Builder, Graph, LoadOptions
from wasi_nn.errors import InvalidArgument, UnsupportedOperation
from wasi_nn.types import ExecutionTarget

MAGIC = b"wasi-nn:identity"


class IdentityBackend(Backend):
    """Serves the encoding ``identity``. No dialect has a number for it."""

    name = "identity"
    survives_fork = True
    encodings = ("identity",)
    config_keys = frozenset({"stream", "untyped_bytes", "prints", "inputs"})

    def sniff(self, head: bytes) -> str | None:
        return "identity" if head.startswith(MAGIC) else None

    def load(self, builders: Sequence[Builder], options: LoadOptions) -> Graph:
        on_cpu = options.target in (ExecutionTarget.CPU, ExecutionTarget.AUTO)
        if not on_cpu and not options.allow_fallback:
            raise UnsupportedOperation(
                f"an identity graph does not run on {options.target}; {FALLBACK}"
            )
        if len(builders) != 1:
            raise InvalidArgument(f"an identity graph has one builder, not {len(builders)}")
        from wasi_nn_identity.graph import load

        return load(builders[0], options.config)
