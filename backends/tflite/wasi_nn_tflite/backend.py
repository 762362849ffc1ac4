"""Loading TensorFlow Lite models, and the graphs that come of them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wasi_nn.backend import (
    FALLBACK,
    Availability,
    Backend,
    Builder,
    ExecutionContext,
    Graph,
    LoadOptions,
)
from wasi_nn.bound import DescribedGraph
from wasi_nn.config import flag
from wasi_nn.config import threads as number_of_threads
from wasi_nn.errors import InvalidArgument, RuntimeFailure, Unavailable, UnsupportedOperation
from wasi_nn.types import ExecutionTarget, Quantization, TensorInfo, TensorType
from wasi_nn_tflite import library
from wasi_nn_tflite.packed import packed_tensors

RISK = "a damaged model can crash the process: give it models that you trust"

#: Types that wasi-nn has no word for travel as bits, as in the onnx backend.
ELEMENTS = {
    "float16": TensorType.F16,
    "float32": TensorType.F32,
    "float64": TensorType.F64,
    "bfloat16": TensorType.BF16,
    "uint8": TensorType.U8,
    "int8": TensorType.U8,
    "bool": TensorType.U8,
    "int32": TensorType.I32,
    "uint32": TensorType.I32,
    "int64": TensorType.I64,
    "uint64": TensorType.I64,
}


class TfliteGraph(DescribedGraph):
    """A model's bytes or file, over which every context has an interpreter of its own."""

    def __init__(self, source: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        self._source = source
        self._settings = settings
        self._lock = threading.Lock()
        # The interpreter that tells whether the model is sound serves the first context.
        self._spare: Any = self._interpreter()
        model = source.get("model_content")
        packed = packed_tensors(Path(source["model_path"]) if model is None else model)
        super().__init__(
            [_describe(detail, packed) for detail in self._spare.get_input_details()],
            [_describe(detail, packed) for detail in self._spare.get_output_details()],
        )

    def init_execution_context(self) -> ExecutionContext:
        from wasi_nn_tflite.context import TfliteContext

        with self._lock:
            interpreter, self._spare = self._spare, None
        if interpreter is None:
            interpreter = self._interpreter()
        return TfliteContext(interpreter, self.inputs, self.outputs)

    def _interpreter(self) -> Any:
        module = library.interpreter_module()
        settings = dict(self._settings)
        if not settings.pop("xnnpack"):
            kinds = module.OpResolverType
            settings["experimental_op_resolver_type"] = kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        interpreter = module.Interpreter(**self._source, **settings)
        interpreter.allocate_tensors()
        return interpreter


class TfliteBackend(Backend):
    """LiteRT or tflite-runtime: one flatbuffer, on the CPU."""

    name = "tflite"
    encodings = ("tensorflowlite",)
    config_keys = frozenset({"threads", "xnnpack"})

    def missing(self) -> str | None:
        return library.missing()

    def availability(self) -> Availability:
        reason = library.missing()
        if reason is not None:
            return Availability(False, reason)
        return Availability(True, library.describe(), ("cpu",), RISK)

    def load(self, builders: Sequence[Builder], options: LoadOptions) -> Graph:
        if len(builders) != 1:
            raise InvalidArgument(f"a TensorFlow Lite graph has one builder, not {len(builders)}")
        on_cpu = options.target in (ExecutionTarget.CPU, ExecutionTarget.AUTO)
        if not on_cpu and not options.allow_fallback:
            raise UnsupportedOperation(
                f"the execution target {options.target} is not available: TensorFlow Lite models "
                f"run on the CPU here; {FALLBACK}"
            )
        settings: dict[str, Any] = {"xnnpack": flag(options.config, "xnnpack", True)}
        threads = number_of_threads(options.config)
        if threads:
            settings["num_threads"] = threads
        reason = library.missing()
        if reason is not None:
            raise Unavailable(reason)
        builder = builders[0]
        source: dict[str, Any] = (
            {"model_path": str(builder)}
            if isinstance(builder, Path)
            else {"model_content": bytes(builder)}
        )
        try:
            return TfliteGraph(source, settings)
        except (ValueError, RuntimeError) as error:
            # It gives no reason where it runs out of memory.
            reason = str(error) or "it may need more memory than there is"
            raise RuntimeFailure(f"TensorFlow Lite rejects the model: {reason}") from error


def _describe(detail: Mapping[str, Any], packed: Mapping[int, str]) -> TensorInfo:
    native = packed.get(int(detail["index"])) or detail["dtype"].__name__
    signature = detail.get("shape_signature")
    shape = detail["shape"] if signature is None or not len(signature) else signature
    scale, zero = detail["quantization"]
    quantization = Quantization(float(scale), int(zero), native) if scale else None
    dims = tuple(int(dim) for dim in shape)
    return TensorInfo(detail["name"], ELEMENTS.get(native), dims, native, quantization)
