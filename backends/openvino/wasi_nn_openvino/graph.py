"""Reading and compiling models with OpenVINO, and the graphs that come of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wasi_nn.backend import FALLBACK, Builder, ExecutionContext, Graph, LoadOptions, Reserve
from wasi_nn.backend.buffers import DescribedGraph
from wasi_nn.backend.config import choice, whole_number
from wasi_nn.backend.config import threads as number_of_threads
from wasi_nn.errors import InvalidArgument, RuntimeFailure, UnsupportedOperation
from wasi_nn.types import ExecutionTarget, TensorInfo
from wasi_nn_openvino.elements import ELEMENTS

if TYPE_CHECKING:
    import openvino

#: OpenVINO's devices by target; wasi-nn's tpu is OpenVINO's NPU.
DEVICES = {
    ExecutionTarget.CPU: "CPU",
    ExecutionTarget.GPU: "GPU",
    ExecutionTarget.TPU: "NPU",
}
_CPU = "CPU"
# OpenVINO computes in bf16 on CPUs that have it, unless it is told otherwise.
_PRECISIONS = ("f32", "f16", "bf16", "default")
_HINTS = ("latency", "throughput")
_XML = (b"<", b"\xef\xbb\xbf<")
_PLACES = re.compile(r"(?:Exception from|Check '.*?' failed at) \S+:\d+:? ?")
# How many kernels, compiled for the dimensions that were seen, the CPU's plugin keeps of a model.
_KERNELS, _MOST_KERNELS = "CPU_RUNTIME_CACHE_CAPACITY", 5000


class OpenvinoGraph(DescribedGraph):
    """A compiled model; every context has an infer request of its own, with the values of the
    model's variables, if it has any (``stateless``)."""

    stateless: bool

    def __init__(
        self, compiled: openvino.CompiledModel, weights: Any = None, stateless: bool = True
    ) -> None:
        inputs = [_describe(port, index) for index, port in enumerate(compiled.inputs)]
        outputs = [_describe(port, index) for index, port in enumerate(compiled.outputs)]
        super().__init__(inputs, outputs)
        self.compiled = compiled
        self.stateless = stateless
        # OpenVINO reads the weights of a model of bytes where they lie.
        self._weights = weights

    def init_execution_context(self, reserve: Reserve) -> ExecutionContext:
        from wasi_nn_openvino.context import OpenvinoContext

        return OpenvinoContext(self.compiled, self.inputs, self.outputs)


def load(core: openvino.Core, builders: Sequence[Builder], options: LoadOptions) -> Graph:
    """Read and compile a model; see ``Backend.load`` for what it raises."""
    settings = _settings(options.config)
    device = _device(core, options)
    if device != _CPU:
        settings.pop(_KERNELS, None)
    try:
        model, weights = _read(core, builders)
        stateless = not model.get_variables()
        return OpenvinoGraph(core.compile_model(model, device, settings), weights, stateless)
    except RuntimeError as error:
        raise RuntimeFailure(f"OpenVINO rejects the model: {said(error)}") from error


def _device(core: openvino.Core, options: LoadOptions) -> str:
    if options.target is ExecutionTarget.CPU:
        # To look at all devices, OpenVINO opens a library for each.
        return _CPU
    available = core.available_devices
    if options.target is ExecutionTarget.AUTO:
        gpu = [device for device in available if device.startswith("GPU")]
        return gpu[0] if gpu else _CPU
    wanted = DEVICES[options.target]
    if any(device.split(".")[0] == wanted for device in available):
        return wanted
    if options.allow_fallback:
        return _CPU
    raise UnsupportedOperation(
        f"the execution target {options.target} ({wanted}) is not available: OpenVINO has "
        f"{', '.join(available) or 'no device'}; {FALLBACK}"
    )


def _read(core: openvino.Core, builders: Sequence[Builder]) -> tuple[openvino.Model, Any]:
    import numpy as np
    import openvino

    if len(builders) == 1 and isinstance(builders[0], Path):
        return core.read_model(str(builders[0])), None
    if len(builders) != 2:
        raise InvalidArgument(
            f"an OpenVINO graph has two builders (XML and weights) or one file, not {len(builders)}"
        )
    xml, weights = builders
    if isinstance(xml, Path) and isinstance(weights, Path):
        return core.read_model(str(xml), str(weights)), None
    if isinstance(xml, Path) or isinstance(weights, Path):
        raise InvalidArgument("the builders must be both files or both bytes")
    text = bytes(xml)
    if not text.startswith(_XML) or b"<net" not in text:
        # Only IR is read from bytes: other formats can name files of the host. Nothing but XML
        # begins so: a line break in front may begin a protobuf, with the rest of this within.
        raise RuntimeFailure("the first builder of an OpenVINO graph is not IR XML")
    copy = np.frombuffer(weights, np.uint8).copy()
    empty = openvino.Tensor(openvino.Type.u8, [0])
    tensor = openvino.Tensor(copy, shared_memory=True) if copy.size else empty
    return core.read_model(text, tensor), (copy, tensor)


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": choice(config, "performance-hint", _HINTS).upper()
    }
    precision = choice(config, "inference-precision", _PRECISIONS)
    if precision != "default":
        settings["INFERENCE_PRECISION_HINT"] = precision
    threads = number_of_threads(config)
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    streams = number_of_threads(config, "streams")
    if streams:
        settings["NUM_STREAMS"] = streams
    if "shape-cache" in config:
        settings[_KERNELS] = whole_number(config, "shape-cache", 0, most=_MOST_KERNELS)
    folder = config.get("cache-dir")
    if folder is not None:
        if not isinstance(folder, str) or not folder:
            raise InvalidArgument(f"config 'cache-dir' must be a path, not {folder!r}")
        settings["CACHE_DIR"] = folder
    return settings


def _describe(port: Any, index: int) -> TensorInfo:
    shape = port.partial_shape
    dims = None
    if not shape.rank.is_dynamic:
        dims = tuple(dim.get_length() if dim.is_static else -1 for dim in shape)
    names = sorted(port.names)
    native = port.element_type.get_type_name()
    name = names[0] if names else str(index)
    return TensorInfo(name, ELEMENTS.get(native), dims, native, aliases=tuple(names[1:]))


def said(error: BaseException) -> str:
    """OpenVINO's message without the places in its source that it begins with."""
    text = " ".join(str(error).split())
    return _PLACES.sub("", text) or text
