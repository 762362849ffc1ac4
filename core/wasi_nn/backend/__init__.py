"""The backend contract: what a machine-learning library must offer to serve guests.

A backend loads a graph from graph builders. A graph makes execution contexts. A context takes
inputs, computes, and gives outputs. A backend does not see Wasm. This is a complete plugin: a
module ``wasi_nn_upper``, with the entry point ``upper = "wasi_nn_upper"`` in the group
``wasi_nn``:

    from wasi_nn import backend, errors, hookimpl, types

    class Context(backend.ExecutionContext):
        def set_input(self, key, tensor):
            self.text = bytes(tensor.data)          # the one copy on the way in
        def compute(self):
            self.upper = memoryview(self.text.upper())
        def get_output(self, key):
            return types.Tensor(types.TensorType.U8, (len(self.upper),), self.upper)

    class Graph(backend.Graph):
        def init_execution_context(self, reserve):
            return Context()

    class Upper(backend.Backend):
        name = "upper"
        encodings = ("upper",)
        def load(self, builders, options):
            return Graph()

    @hookimpl
    def wasi_nn_backends():
        return [Upper()]

Raise the exceptions of ``wasi_nn.errors`` (``InvalidArgument``, ``RuntimeFailure``, …) with a
reason that helps. Any other exception becomes ``runtime_error`` for the guest, and a traceback in
the log.

You may set the attributes of a contract as class attributes, as properties, or in ``__init__``.
"""

from __future__ import annotations

import importlib.util
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Union

from wasi_nn._attribute import attribute
from wasi_nn._distributions import installed_version as installed_version
from wasi_nn.backend._context import ExecutionContext as ExecutionContext
from wasi_nn.backend._context import Generation as Generation
from wasi_nn.backend._context import Journal as Journal
from wasi_nn.backend._context import Schedule as Schedule
from wasi_nn.backend._context import StreamingContext as StreamingContext
from wasi_nn.backend._context import discard as discard
from wasi_nn.errors import InvalidArgument
from wasi_nn.types import Availability, ExecutionTarget, Tensor, TensorInfo

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "FALLBACK",
    "Backend",
    "Builder",
    "ExecutionContext",
    "Generation",
    "Graph",
    "Journal",
    "LoadOptions",
    "Reserve",
    "Schedule",
    "StreamingContext",
    "check_input",
    "cores",
    "discard",
    "installed_version",
    "missing_library",
    "position",
    "unlimited",
]

#: What to do when an execution target is not available, for the end of a message.
FALLBACK = "say --allow-fallback (from Python, allow_fallback=True) to run on the CPU"

#: One part of a model. Bytes of a guest, or of a program that embeds the host, are a memoryview
#: that is valid only during ``load``. A named model is a path, so that a library can map it into
#: memory.
Builder = Union[memoryview, "Path"]


class LoadOptions(NamedTuple):
    """How to load a graph.

    ``config`` is a JSON object of the guest or the operator, with keys of ``Backend.config_keys``.
    A value of a wrong type raises ``InvalidArgument``. With ``allow_fallback`` the operator allows
    the CPU in place of a target that is not available."""

    encoding: str
    target: ExecutionTarget = ExecutionTarget.CPU
    config: Mapping[str, Any] = MappingProxyType({})
    allow_fallback: bool = False


#: ``reserve(size)`` counts bytes that a context takes beside its inputs (a language model's KV
#: cache) against the guest's ``Limits.host_memory``. Call it before you take the bytes; a negative
#: size gives them back. Above the limit it counts nothing and raises ``RuntimeFailure``. Core gives
#: back the rest when the context is closed or cannot be made.
Reserve = Callable[[int], None]


def unlimited(size: int) -> None:
    """The ``Reserve`` of a context without a guest: it counts nothing."""


class Graph(ABC):
    """A loaded model, shared by every context, thread and guest that uses it.

    Core reads the attributes once, when the graph is loaded, except ``inputs`` and ``outputs``."""

    @attribute
    def concurrent_contexts(self) -> bool:
        """Whether several contexts of the graph may compute at the same time, in several threads.
        If False, core lets only one context at a time into the graph."""
        return True

    @attribute
    def untyped_bytes(self) -> bool:
        """Whether tensors are strings of bytes (prompts, text, JSON), whose length does not follow
        from their type and dimensions."""
        return False

    @attribute
    def stateless(self) -> bool:
        """Whether its outputs follow from the inputs of the same ``compute`` alone, and contexts
        print nothing. Only then core can compute the inputs of several guests in one context, when
        the operator asks for it (config ``batching``)."""
        return False

    @attribute
    def choices(self) -> Mapping[str, Sequence[str]]:
        """The values of this model, such as its signatures, that a key of the config selects from,
        by key."""
        return {}

    @attribute
    def shared_memory(self) -> object | None:
        """What takes the model's memory, where several graphs share it: the same object for each of
        them. The memory then counts once against a guest's limit. None for a graph of its own."""
        return None

    @attribute
    def inputs(self) -> Sequence[TensorInfo]:
        """The inputs by index; empty if the library does not know them."""
        return ()

    @attribute
    def outputs(self) -> Sequence[TensorInfo]:
        """The outputs by index; empty if the library does not know them."""
        return ()

    @abstractmethod
    def init_execution_context(self, reserve: Reserve) -> ExecutionContext:
        """Make a context, which keeps its graph alive. A context that takes much memory beside its
        inputs calls ``reserve``, now or later. Other contexts ignore it."""

    def statistics(self) -> Mapping[str, float]:
        """What the operator sees of the graph's work now, by name: sequences, tokens per step,
        seconds in a queue, cells of a cache. Empty for a graph that counts nothing. Called from any
        thread, at any time."""
        return {}

    def close(self) -> None:
        """Free the model. Called once, when no handle and no context uses it."""


class Backend(ABC):
    """A machine-learning library as wasi-nn sees it. One object per host.

    Import the library in the methods, not at the top of the module. Core reads the attributes when
    the plugin registers."""

    @attribute
    def name(self) -> str:
        """What users call it (``--graph NAME=onnx:…``). Unique among the installed plugins."""
        raise AttributeError("a Backend must have a name")

    @attribute
    def encodings(self) -> tuple[str, ...]:
        """The graph encodings that it serves, at least one."""
        raise AttributeError("a Backend must have encodings")

    @attribute
    def config_keys(self) -> frozenset[str] | None:
        """The keys of its config. Others are logged and left out. None accepts every key."""
        return frozenset()

    @attribute
    def host_only_keys(self) -> frozenset[str]:
        """The keys that only the operator may set, such as paths of the host. A guest's config that
        has one is refused."""
        return frozenset()

    @attribute
    def survives_fork(self) -> bool:
        """Whether its graphs work in a child process after the parent used it. True only for a
        backend without native code, threads and locks."""
        return False

    @attribute
    def always_in_worker(self) -> bool:
        """Whether the models that the operator registers run in a worker process too: a guest's
        prompt or config can end the library's process."""
        return False

    @attribute
    def reads_beside(self) -> bool:
        """Whether a config may name files in the folder of the model. A worker can then read that
        whole folder, and otherwise only what ``files`` gives."""
        return False

    @attribute
    def models_are_programs(self) -> bool:
        """Whether a model is a program, which could open files and connections. Guests may then
        bring their own models only where the system can restrict a worker."""
        return False

    #: The distribution and version that it comes from. Core sets it when the plugin registers.
    origin: str = ""
    #: The module of the installed plugin that brings it. Core sets it when the plugin registers.
    #: Empty for a backend that a program registers itself, which cannot run in a worker.
    plugin: str = ""

    @property
    def title(self) -> str:
        """Its name in messages: ``backend onnx (wasi-nn 0.1.0)``."""
        return f"backend {self.name} ({self.origin})" if self.origin else f"backend {self.name}"

    def availability(self, deep: bool = False) -> Availability:
        """Whether its library can be used, and if not, what to do about it.

        It may raise ``Unavailable`` instead. Core asks before every run and every load: look
        without importing the library (see ``missing_library``). With ``deep`` (``wasi-nn doctor``
        and ``wasi-nn plugins``), import it and report its version and the devices that it can run
        on."""
        return Availability(True, "ready", ("cpu",))

    def prepare(self) -> None:
        """Import what a load and a computation need, in the process from which workers are forked.
        Start no threads. Not called in the host's process."""

    def sniff(self, head: bytes) -> str | None:
        """The encoding of a model whose first builder begins with ``head`` (at most 4,096 bytes).

        It is one of ``encodings``, or None. Core recognises the well-known formats itself."""
        return None

    def files(self, paths: Sequence[Path], config: Mapping[str, Any]) -> Sequence[Path]:
        """Every file and folder that the model's outputs depend on: ``paths``, and the files that
        the library finds beside them or that the config names. A folder stands for all files in it.

        If one of them changes, core loads the model again. If one is missing, core raises
        ``ModelNotFound`` and loads nothing. The sum of their sizes is the model's size. Core asks
        each time that the model is used, so cache what takes long to find, by the file's
        ``files.version``. Do not raise for a damaged model: ``load`` reports what is wrong."""
        return paths

    @abstractmethod
    def load(self, builders: Sequence[Builder], options: LoadOptions) -> Graph:
        """Load a model. Raises ``InvalidArgument`` for a wrong number of builders or a value of a
        wrong type in the config, ``UnsupportedOperation`` for a target that is not available,
        ``RuntimeFailure`` for a model that the library rejects, and ``Unavailable`` if the library
        is not installed."""


def missing_library(package: str, extra: str = "", install: str = "") -> str | None:
    """What to do about the Python package ``package`` that is not installed; None if it is. Does
    not import it. ``extra`` is the extra of ``wasi-nn`` that has it; a plugin of another
    distribution gives ``install``, what pip must install."""
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        found = None
    if found is not None:
        return None
    requirement = install or f"wasi-nn[{extra}]"
    return f'{package} is not installed; pip install "{requirement}"'


def cores() -> int:
    """The processor's cores that this process may use, where the system says so."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def position(key: int | str, tensors: Sequence[TensorInfo], what: str) -> int:
    """The index of the tensor that ``key`` names. Raises ``InvalidArgument`` if there is none."""
    if isinstance(key, int):
        if 0 <= key < len(tensors):
            return key
        raise InvalidArgument(f"{what} index {key} is out of range: the graph has {len(tensors)}")
    for index, info in enumerate(tensors):
        if info.name == key:
            return index
    for index, info in enumerate(tensors):
        if key in info.aliases:
            return index
    known = ", ".join(info.name for info in tensors)
    raise InvalidArgument(f"there is no {what} named {key!r}; the graph has: {known}")


def check_input(info: TensorInfo, tensor: Tensor) -> None:
    """Raise ``InvalidArgument`` unless the input takes the tensor's type and dimensions. A
    dimension of -1 takes any size, and ``dims`` of None any dimensions."""
    if info.type is None:
        raise InvalidArgument(
            f"input {info.name} is a {info.native_type}, which is not a tensor type of wasi-nn"
        )
    if tensor.type is not info.type:
        raise InvalidArgument(f"input {info.describe()} does not take {tensor.type} tensors")
    dims = info.dims
    if dims is not None and (
        len(dims) != len(tensor.dims)
        or any(wanted not in (-1, given) for wanted, given in zip(dims, tensor.dims, strict=True))
    ):
        raise InvalidArgument(
            f"input {info.describe()} does not take a tensor of dimensions {list(tensor.dims)}"
        )
