"""Models of newname, for wasi-nn."""

from __future__ import annotations

from collections.abc import Sequence

from wasi_nn import ExecutionTarget, backend, errors, hookimpl
from wasi_nn.types import Availability

# Of the promise that wasi-nn gives to plugins.
WASI_NN_API = 1


class Newname(backend.Backend):
    """Reads the models that ``wasi_nn_newname.graph`` describes."""

    name = "newname"  # as in --graph m=newname:FILE
    encodings = ("newname",)

    def availability(self, deep: bool = False) -> Availability:
        # Hosts ask this before every run: look for your library without importing it, as in
        #     missing = backend.missing_library("mylibrary", install="wasi-nn-newname")
        #     if missing is not None:
        #         return Availability(False, missing)
        return Availability(True, "built in")

    def sniff(self, head: bytes) -> str | None:
        return "newname" if head.startswith(b"newname model") else None

    def load(
        self, builders: Sequence[backend.Builder], options: backend.LoadOptions
    ) -> backend.Graph:
        # Hosts import this module at every start, so import your library here and not above.
        from wasi_nn_newname.graph import read

        if len(builders) != 1:
            raise errors.InvalidArgument("a model of newname has one file")
        if options.target not in (ExecutionTarget.CPU, ExecutionTarget.AUTO):
            raise errors.UnsupportedOperation("newname runs on the CPU")
        return read(builders[0])


@hookimpl
def wasi_nn_backends() -> list[backend.Backend]:
    """The backends of this plugin."""
    return [Newname()]
