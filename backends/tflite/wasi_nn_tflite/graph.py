"""Loading TensorFlow Lite models, and the graphs that come of them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wasi_nn.backend import Builder, ExecutionContext, Graph, LoadOptions, Reserve
from wasi_nn.backend.buffers import DescribedGraph
from wasi_nn.backend.config import choice, flag
from wasi_nn.backend.config import threads as number_of_threads
from wasi_nn.backend.files import Kept
from wasi_nn.errors import InvalidArgument, RuntimeFailure
from wasi_nn.types import Quantization, TensorInfo, TensorType
from wasi_nn_tflite import library
from wasi_nn_tflite.layout import layout
from wasi_nn_tflite.subgraph import Signature, Subgraph, main_tensors, signatures

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


# The signature of a SavedModel that has one.
_USUAL = "serving_default"


class TfliteGraph(DescribedGraph):
    """One subgraph of a model's bytes or file, over which every context has an interpreter of its
    own."""

    choices: Mapping[str, Sequence[str]]
    stateless: bool

    def __init__(
        self, model: Kept | bytes, settings: Mapping[str, Any], config: Mapping[str, Any]
    ) -> None:
        self._model = model
        self._settings = settings
        self._lock = threading.Lock()
        interpreter = self._interpreter()
        found = signatures(interpreter)
        self.choices = {"signature": tuple(found)} if found else {}
        name = _chosen(found, config)
        signature = found[name] if name is not None else Signature(0, {}, {})
        number = signature.subgraph
        read = layout(model if isinstance(model, bytes) else Path(model.path), number)
        self.stateless = read.stateless
        inputs, outputs = read.inputs, read.outputs
        if not number:
            inputs, outputs = main_tensors(interpreter)
        self._tensors = number, inputs, outputs
        # The interpreter that tells whether the model is sound serves the first context.
        self._spare: Subgraph | None = Subgraph(interpreter, *self._tensors)
        self._spare.allocate()
        super().__init__(
            _describe(self._spare, inputs, signature.inputs, read.packed),
            _describe(self._spare, outputs, signature.outputs, read.packed),
        )

    def init_execution_context(self, reserve: Reserve) -> ExecutionContext:
        from wasi_nn_tflite.context import TfliteContext

        with self._lock:
            subgraph, self._spare = self._spare, None
        if subgraph is None:
            subgraph = Subgraph(self._interpreter(), *self._tensors)
            subgraph.allocate()
        return TfliteContext(subgraph, self.inputs, self.outputs)

    def _interpreter(self) -> Any:
        module = library.interpreter_module()
        settings = dict(self._settings)
        if not settings.pop("xnnpack"):
            kinds = module.OpResolverType
            settings["experimental_op_resolver_type"] = kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        if isinstance(self._model, bytes):
            settings["model_content"] = self._model
        else:
            settings["model_path"] = self._model.path
        return module.Interpreter(**settings)


def load(builder: Builder, options: LoadOptions) -> Graph:
    """Read one model; see ``Backend.load`` for what it raises."""
    settings: dict[str, Any] = {"xnnpack": flag(options.config, "xnnpack", True)}
    threads = number_of_threads(options.config)
    if threads:
        settings["num_threads"] = threads
    model = Kept.of(builder)
    try:
        return TfliteGraph(model, settings, options.config)
    except (ValueError, RuntimeError) as error:
        # It gives no reason where it runs out of memory.
        reason = str(error) or "it may need more memory than there is"
        raise RuntimeFailure(f"TensorFlow Lite rejects the model: {reason}") from error


def _chosen(found: Mapping[str, Signature], config: Mapping[str, Any]) -> str | None:
    """The signature that the config names, or else the main subgraph's, where it has one."""
    if "signature" in config:
        if not found:
            raise InvalidArgument("the model has no signatures: leave config 'signature' out")
        return choice(config, "signature", tuple(found))
    main = [name for name, signature in found.items() if not signature.subgraph]
    return _USUAL if _USUAL in main else next(iter(main), None)


def _describe(
    subgraph: Subgraph, tensors: Sequence[int], names: Mapping[str, int], packed: Mapping[int, str]
) -> list[TensorInfo]:
    """Tensors by the names that a signature gives them: one may have several, and may occur
    several times. The tensor's own name comes last."""
    infos = []
    for position, at in enumerate(tensors):
        info = _describe_one(subgraph.details(at), packed.get(at))
        known = [name for name, tensor in names.items() if tensor == at]
        before = list(tensors[:position]).count(at)
        first = known.pop(min(before, len(known) - 1)) if known else info.name
        aliases = tuple(name for name in (*known, info.name) if name != first)
        infos.append(info._replace(name=first, aliases=aliases))
    return infos


def _describe_one(detail: Mapping[str, Any], packed: str | None) -> TensorInfo:
    native = packed or detail["dtype"].__name__
    signature = detail.get("shape_signature")
    shape = detail["shape"] if signature is None or not len(signature) else signature
    scale, zero = detail["quantization"]
    quantization = Quantization(float(scale), int(zero), native) if scale else None
    dims = tuple(int(dim) for dim in shape)
    return TensorInfo(detail["name"], ELEMENTS.get(native), dims, native, quantization)
