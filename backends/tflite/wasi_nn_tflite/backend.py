"""The TensorFlow Lite backend. What a load needs is imported by the first load."""

from __future__ import annotations

from collections.abc import Sequence

from wasi_nn.backend import (
    FALLBACK,
    Backend,
    Builder,
    Graph,
    LoadOptions,
)
from wasi_nn.errors import InvalidArgument, UnsupportedOperation
from wasi_nn.types import Availability, ExecutionTarget
from wasi_nn_tflite import library


class TfliteBackend(Backend):
    """Runs a flatbuffer on the CPU with LiteRT or tflite-runtime. A graph has one builder."""

    name = "tflite"
    encodings = ("tensorflowlite",)
    config_keys = frozenset({"threads", "xnnpack", "signature"})

    def availability(self, deep: bool = False) -> Availability:
        reason = library.missing()
        if reason is not None:
            return Availability(False, reason)
        return Availability(True, library.describe(), ("cpu",))

    def prepare(self) -> None:
        import wasi_nn_tflite.context
        import wasi_nn_tflite.graph  # noqa: F401

        library.interpreter_module()

    def load(self, builders: Sequence[Builder], options: LoadOptions) -> Graph:
        if len(builders) != 1:
            raise InvalidArgument(f"a TensorFlow Lite graph has one builder, not {len(builders)}")
        on_cpu = options.target in (ExecutionTarget.CPU, ExecutionTarget.AUTO)
        if not on_cpu and not options.allow_fallback:
            raise UnsupportedOperation(
                f"the execution target {options.target} is not available: TensorFlow Lite models "
                f"run on the CPU here; {FALLBACK}"
            )
        from wasi_nn_tflite.graph import load

        return load(builders[0], options)
