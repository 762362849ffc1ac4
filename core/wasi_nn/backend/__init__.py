"""The backend contract: what a machine-learning library has to offer to serve guests.

A backend turns graph builders into a graph, a graph gives execution contexts, and a context takes
inputs, computes and gives outputs. Nothing of Wasm is seen here. A complete plugin, in one module
named ``wasi_nn_upper`` with the entry point ``upper = "wasi_nn_upper"`` in the group ``wasi_nn``::

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

Errors: raise the exceptions of ``wasi_nn.errors`` (``InvalidArgument``, ``RuntimeFailure``, …) with
a reason that helps; anything else that escapes is reported to the guest as ``runtime_error`` and
logged with its traceback.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Union

from wasi_nn._attribute import attribute
from wasi_nn._distributions import installed_version as installed_version
from wasi_nn.errors import InvalidArgument, Unavailable
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
    "LoadOptions",
    "Reserve",
    "StreamingContext",
    "check_input",
    "installed_version",
    "missing_library",
    "position",
    "unlimited",
]

#: What to do where an execution target is not here, for the end of a message.
FALLBACK = "say --allow-fallback (from Python, allow_fallback=True) to run on the CPU"

#: One part of a model. Bytes from a guest or an embedder are a memoryview that is valid during
#: ``load`` only; a model of the registry is a path, so that a library can map it into memory.
Builder = Union[memoryview, "Path"]


class LoadOptions(NamedTuple):
    """How a graph is to be loaded.

    ``config`` is the backend's own (a JSON object of the guest or the person), with the keys that
    ``Backend.config_keys`` names; a wrong type raises ``InvalidArgument``.
    ``allow_fallback`` is the person's word that an unavailable target may run on the CPU instead.
    """

    encoding: str
    target: ExecutionTarget = ExecutionTarget.CPU
    config: Mapping[str, Any] = MappingProxyType({})
    allow_fallback: bool = False


class Generation(NamedTuple):
    """What a language model has read and written in a context, for ``--stats``.

    ``prompt_tokens`` were computed in ``prompt_seconds``; ``kept_tokens`` were known from an
    earlier prompt. ``tokens`` came in ``seconds``. ``texts`` were begun, and their first tokens
    together took ``first_seconds`` from the call that asked for them."""

    prompt_tokens: int = 0
    kept_tokens: int = 0
    prompt_seconds: float = 0.0
    tokens: int = 0
    seconds: float = 0.0
    texts: int = 0
    first_seconds: float = 0.0

    def plus(self, other: Generation) -> Generation:
        """Both together."""
        return Generation._make(a + b for a, b in zip(self, other, strict=True))


#: ``reserve(size)`` counts bytes that a context takes beside its inputs (a language model's KV
#: cache) against the guest's ``Limits.host_memory``. Call it before you take the bytes; a negative
#: size gives them back. Raises ``RuntimeFailure`` above the limit, and then counts nothing. When
#: the context is closed, or cannot be made, core gives back what is left.
Reserve = Callable[[int], None]


def unlimited(size: int) -> None:
    """The ``Reserve`` of a context that serves no guest: it counts nothing."""


class ExecutionContext(ABC):
    """One guest's inputs and outputs of a graph. Used by one thread at a time.

    ``key`` is an index from 0 or a name; an unknown one raises ``InvalidArgument``.
    """

    @abstractmethod
    def set_input(self, key: int | str, tensor: Tensor) -> None:
        """Copy the tensor's bytes to where the library reads them: ``tensor.data`` belongs to the
        guest again as soon as this returns. Core has checked that the length fits type and
        dimensions (but for graphs with ``untyped_bytes``). Raises ``InvalidArgument`` for a type
        or dimensions that the graph does not take."""

    @abstractmethod
    def compute(self) -> None:
        """Run the graph on the inputs, which stay set. Raises ``InvalidArgument`` when an input is
        missing and ``RuntimeFailure`` when the library fails."""

    @abstractmethod
    def get_output(self, key: int | str) -> Tensor:
        """An output of the last ``compute``, without a copy; its view stays valid until the next
        call on this context. Raises ``InvalidArgument`` before the first ``compute``."""

    def cancel(self) -> None:
        """Make a call that another thread has under way fail soon, where the library can: the
        guest is to end. The only method that is called from another thread."""

    def generation(self) -> Generation | None:
        """What a language model did here; None for every other graph."""
        return None

    def close(self) -> None:
        """Free what the context holds. Called once, whatever happened before."""


class StreamingContext(ExecutionContext):
    """A context that can also produce its output piece by piece (WasmEdge's extension). A backend
    declares streaming by giving contexts of this class."""

    @abstractmethod
    def compute_single(self) -> None:
        """Produce one more piece. Raises ``EndOfSequence`` when there is none."""

    @abstractmethod
    def get_output_single(self, key: int | str) -> Tensor:
        """The newest piece; valid until the next call on this context."""

    @abstractmethod
    def fini_single(self) -> None:
        """End the stream, early or not, and free what it held."""


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
        """The inputs by index; empty where the library cannot say."""
        return ()

    @attribute
    def outputs(self) -> Sequence[TensorInfo]:
        """The outputs by index; empty where the library cannot say."""
        return ()

    @abstractmethod
    def init_execution_context(self, reserve: Reserve) -> ExecutionContext:
        """A new context, which keeps its graph alive. A context that takes much memory beside its
        inputs calls ``reserve``, now or later; the others ignore it."""

    def close(self) -> None:
        """Free the model. Called once, when neither a handle nor a context needs it."""


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

    #: The distribution and version that it comes from; core sets it when the plugin registers.
    origin: str = ""

    @property
    def title(self) -> str:
        """Its name for messages: ``backend onnx (wasi-nn 0.1.0)``."""
        return f"backend {self.name} ({self.origin})" if self.origin else f"backend {self.name}"

    def availability(self, deep: bool = False) -> Availability:
        """Whether its library can be used, and if not, what to do about it.

        Core asks before every run: look without importing the library (see ``missing_library``).
        With ``deep`` (``wasi-nn doctor`` and ``wasi-nn plugins``), import it and report its version
        and the devices that it can run on."""
        return Availability(True, "ready", ("cpu",))

    def require_library(self) -> None:
        """Raise ``Unavailable`` unless ``availability`` says that the library can be used."""
        found = self.availability()
        if not found.usable:
            raise Unavailable(found.detail)

    def sniff(self, head: bytes) -> str | None:
        """The encoding, one of its own, of a model whose first builder begins with ``head``
        (4,096 bytes at most), or None. Well-known formats are recognised by core."""
        return None

    def files(self, paths: Sequence[Path], config: Mapping[str, Any]) -> Sequence[Path]:
        """Every file and folder that the answers of the model of ``paths`` depend on: the paths
        themselves, and what the library finds beside them or the config names. A folder stands for
        the files in it.

        When one of them changes, a new ``load`` follows; when one is missing, it is a
        ``ModelNotFound``, and nothing is loaded. Their sizes are the model's size. Core asks
        whenever the model is wanted, so remember what took long to find out, under the file's
        ``files.version``. Do not raise for a model that is not sound: ``load`` says what is
        wrong."""
        return paths

    @abstractmethod
    def load(self, builders: Sequence[Builder], options: LoadOptions) -> Graph:
        """Load a model. Raises ``InvalidArgument`` for a wrong number of builders or a config of
        the wrong type, ``UnsupportedOperation`` for a target that is not here,
        ``RuntimeFailure`` for a model that the library rejects, and ``Unavailable`` when the
        library is not installed."""


def missing_library(package: str, extra: str) -> str | None:
    """What to do when the Python package ``package`` is not installed; None when it is. Does not
    import it."""
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        found = None
    if found is not None:
        return None
    return f'{package} is not installed; pip install "wasi-nn[{extra}]"'


def position(key: int | str, tensors: Sequence[TensorInfo], what: str) -> int:
    """The index that ``key`` means among ``tensors``, or ``InvalidArgument``."""
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
    """Raise ``InvalidArgument`` unless the tensor's type and dimensions are what the input takes:
    -1 takes any dimension, and dimensions of None any at all."""
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
