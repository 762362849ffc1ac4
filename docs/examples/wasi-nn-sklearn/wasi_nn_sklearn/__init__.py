"""Pipelines of scikit-learn, for wasi-nn, from files that skops wrote."""

from __future__ import annotations

from collections.abc import Sequence

from wasi_nn import ExecutionTarget, backend, errors, hookimpl
from wasi_nn.types import Availability

# Of the promise that wasi-nn gives to plugins.
WASI_NN_API = 1

# A zip archive whose first member's name is usual for skops: an array, or the schema.
_ZIP = b"PK\x03\x04"
_NAME_AT = 30


class Sklearn(backend.Backend):
    """Reads pipelines and estimators. Never a pickle."""

    name = "sklearn"  # as in --graph m=sklearn:FILE
    encodings = ("sklearn",)
    # Among the types of scikit-learn that skops trusts, some can open files by their parameters.
    models_are_programs = True
    # Types that the operator trusts besides those that skops does. A guest cannot.
    config_keys = frozenset({"trusted"})
    host_only_keys = frozenset({"trusted"})

    def availability(self, deep: bool = False) -> Availability:
        missing = backend.missing_library("skops", install="wasi-nn-sklearn")
        if missing is not None:
            return Availability(False, missing)
        if not deep:
            return Availability(True, "skops is installed")
        import sklearn
        import skops

        return Availability(True, f"scikit-learn {sklearn.__version__}, skops {skops.__version__}")

    def prepare(self) -> None:
        import wasi_nn_sklearn.graph  # noqa: F401

    def sniff(self, head: bytes) -> str | None:
        if not head.startswith(_ZIP):
            return None
        length = int.from_bytes(head[26:28], "little")
        name = head[_NAME_AT : _NAME_AT + length]
        number, _, suffix = name.partition(b".")
        array = number.isdigit() and suffix in (b"npy", b"npz")
        return "sklearn" if array or name == b"schema.json" else None

    def load(
        self, builders: Sequence[backend.Builder], options: backend.LoadOptions
    ) -> backend.Graph:
        from wasi_nn_sklearn.graph import read

        if len(builders) != 1:
            raise errors.InvalidArgument("a model of sklearn has one file")
        if options.target not in (ExecutionTarget.CPU, ExecutionTarget.AUTO):
            raise errors.UnsupportedOperation("sklearn runs on the CPU")
        trusted = options.config.get("trusted", [])
        if not isinstance(trusted, list) or not all(isinstance(one, str) for one in trusted):
            raise errors.InvalidArgument(
                f"the config's trusted must be a list of names of types, not {trusted!r}"
            )
        return read(builders[0], trusted)


@hookimpl
def wasi_nn_backends() -> list[backend.Backend]:
    """The backends of this plugin."""
    return [Sklearn()]
