"""Models of LightGBM, for wasi-nn, from its text format."""

from __future__ import annotations

from collections.abc import Sequence

from wasi_nn import ExecutionTarget, backend, errors, hookimpl
from wasi_nn.types import Availability

# Of the promise that wasi-nn gives to plugins.
WASI_NN_API = 1


class Lightgbm(backend.Backend):
    """Reads what ``Booster.save_model`` writes."""

    name = "lightgbm"  # as in --graph m=lightgbm:FILE
    encodings = ("lightgbm",)
    config_keys = frozenset({"raw_score"})

    def availability(self, deep: bool = False) -> Availability:
        missing = backend.missing_library("lightgbm", install="wasi-nn-lightgbm")
        if missing is not None:
            return Availability(False, missing)
        if not deep:
            return Availability(True, "lightgbm is installed")
        try:
            import lightgbm
        except OSError as error:  # of its shared library, which needs libgomp
            return Availability(False, f"lightgbm cannot be loaded: {error}")
        return Availability(True, f"LightGBM {lightgbm.__version__}")

    def prepare(self) -> None:
        import wasi_nn_lightgbm.graph  # noqa: F401

    def sniff(self, head: bytes) -> str | None:
        return "lightgbm" if head.startswith(b"tree\nversion=v") else None

    def load(
        self, builders: Sequence[backend.Builder], options: backend.LoadOptions
    ) -> backend.Graph:
        from wasi_nn_lightgbm.graph import read

        if len(builders) != 1:
            raise errors.InvalidArgument("a model of lightgbm has one file")
        if options.target not in (ExecutionTarget.CPU, ExecutionTarget.AUTO):
            raise errors.UnsupportedOperation("lightgbm runs on the CPU")
        raw = options.config.get("raw_score", False)
        if not isinstance(raw, bool):
            raise errors.InvalidArgument(
                f"the config's raw_score must be true or false, not {raw!r}"
            )
        return read(builders[0], raw)


@hookimpl
def wasi_nn_backends() -> list[backend.Backend]:
    """The backends of this plugin."""
    return [Lightgbm()]
