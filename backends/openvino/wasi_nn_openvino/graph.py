"""Reading and compiling models with OpenVINO, and the graphs that come of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from wasi_nn.backend import FALLBACK, Builder, ExecutionContext, Graph, LoadOptions, Reserve
from wasi_nn.backend.buffers import DescribedGraph
from wasi_nn.backend.config import choice, whole_number
from wasi_nn.backend.config import threads as number_of_threads
from wasi_nn.encodings import ONNX, OPENVINO, head, recognise
from wasi_nn.errors import InvalidArgument, RuntimeFailure, UnsupportedOperation
from wasi_nn.types import ExecutionTarget
from wasi_nn_openvino.ir import has_variables, shared_names
from wasi_nn_openvino.library import OpenvinoError, Owned
from wasi_nn_openvino.objects import CompiledModel, Core, Tensor

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
# How many kernels, compiled for the dimensions that were seen, the CPU's plugin keeps of a model.
_KERNELS, _MOST_KERNELS = "CPU_RUNTIME_CACHE_CAPACITY", 5000


class OpenvinoGraph(DescribedGraph):
    """A compiled model; every context has an infer request of its own, with the values of the
    model's variables, if it has any (``stateless``)."""

    stateless: bool

    def __init__(self, compiled: CompiledModel, text: bytes | None, stateless: bool) -> None:
        names = [] if text is None else shared_names(text)
        super().__init__(compiled.describe("input", names), compiled.describe("output", names))
        self.compiled = compiled
        self.stateless = stateless

    def init_execution_context(self, reserve: Reserve) -> ExecutionContext:
        from wasi_nn_openvino.context import OpenvinoContext

        return OpenvinoContext(self.compiled, self.inputs, self.outputs)


class _Source(NamedTuple):
    """A model that OpenVINO has read, and the text of IR."""

    model: Owned
    text: bytes | None
    stateless: bool


def load(core: Core, builders: Sequence[Builder], options: LoadOptions) -> Graph:
    """Read and compile a model; see ``Backend.load`` for what it raises."""
    settings = _settings(options.config)
    try:
        device = _device(core, options)
        if device != _CPU:
            settings.pop(_KERNELS, None)
        source = _read(core, builders)
        compiled = core.compile(source.model, device, settings)
        return OpenvinoGraph(compiled, source.text, source.stateless)
    except OpenvinoError as error:
        raise RuntimeFailure(f"OpenVINO rejects the model: {error}") from error


def _device(core: Core, options: LoadOptions) -> str:
    if options.target is ExecutionTarget.CPU:
        # To look at all devices, OpenVINO opens a library for each.
        return _CPU
    available = core.devices()
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


def _read(core: Core, builders: Sequence[Builder]) -> _Source:
    if len(builders) == 1 and isinstance(builders[0], Path):
        return _read_files(core, builders[0], None)
    if len(builders) != 2:
        raise InvalidArgument(
            f"an OpenVINO graph has two builders (XML and weights) or one file, not {len(builders)}"
        )
    xml, weights = builders
    if isinstance(xml, Path) and isinstance(weights, Path):
        return _read_files(core, xml, weights)
    if isinstance(xml, Path) or isinstance(weights, Path):
        raise InvalidArgument("the builders must be both files or both bytes")
    text = bytes(xml)
    if not text.startswith(_XML) or b"<net" not in text:
        # Only IR is read from bytes: other formats can name files of the host. Nothing but XML
        # begins so: a line break in front may begin a protobuf, with the rest of this within.
        raise RuntimeFailure("the first builder of an OpenVINO graph is not IR XML")
    copy = Tensor.allocate(core.element("u8"), [weights.nbytes])
    copy.view()[:] = weights.cast("B")
    return _Source(core.read_bytes(text, copy), text, not has_variables(text))


def _read_files(core: Core, path: Path, weights: Path | None) -> _Source:
    """OpenVINO maps the weights into memory."""
    model = core.read_files(path, weights)
    encoding = recognise(head(path)) if path.is_file() else None
    if encoding == OPENVINO:
        text = path.read_bytes()
        return _Source(model, text, not has_variables(text))
    # (ONNX has no variables.)
    return _Source(model, None, encoding == ONNX)


def _settings(config: Mapping[str, Any]) -> dict[str, str]:
    settings = {"PERFORMANCE_HINT": choice(config, "performance-hint", _HINTS).upper()}
    precision = choice(config, "inference-precision", _PRECISIONS)
    if precision != "default":
        settings["INFERENCE_PRECISION_HINT"] = precision
    threads = number_of_threads(config)
    if threads:
        settings["INFERENCE_NUM_THREADS"] = str(threads)
    streams = number_of_threads(config, "streams")
    if streams:
        settings["NUM_STREAMS"] = str(streams)
    if "shape-cache" in config:
        settings[_KERNELS] = str(whole_number(config, "shape-cache", 0, most=_MOST_KERNELS))
    folder = config.get("cache-dir")
    if folder is not None:
        if not isinstance(folder, str) or not folder:
            raise InvalidArgument(f"config 'cache-dir' must be a path, not {folder!r}")
        settings["CACHE_DIR"] = folder
    return settings
