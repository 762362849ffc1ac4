"""The runtime contract: what a Wasm engine must offer to run guests.

A runtime compiles a module. An instance of the module runs with host functions, a WASI
configuration and limits. A runtime knows nothing of tensors: a host function has a name, a number
of i32 parameters, and a callable that reads and writes guest memory. ``docs/write-a-runtime.md``
builds one. ``wasi_nn.runtime.engine.EngineInstance`` does what is the same for every engine.

Who provides what: core parses a module and checks its imports before ``Runtime.compile``. It gives
``Module.prepare`` the functions of wasi-nn that the module imports, and those of the embedder. The
runtime provides WASI, under the module names in ``Runtime.wasi_modules``, for every function of
WASI preview 1. An engine without WASI of its own can use ``wasi_nn.runtime.wasi_streams``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, Union

from wasi_nn._attribute import attribute
from wasi_nn.errors import InvalidArgument, UsageError
from wasi_nn.types import Availability, ExecutionTarget

if TYPE_CHECKING:
    from pathlib import Path

    from wasi_nn.policy import Policy
    from wasi_nn.runtime.component import Component
    from wasi_nn.wasm.module import Signature

__all__ = [
    "PASS_ON",
    "BufferMemory",
    "EngineLimits",
    "GuestMemory",
    "HostFunction",
    "Instance",
    "Module",
    "OfferedModel",
    "OwnNn",
    "Preopen",
    "Runtime",
    "RuntimeFeatures",
    "Stdin",
    "Stdout",
    "WasiConfig",
    "outside",
]


class GuestMemory(Protocol):
    """A guest's linear memory, during one host call or between two calls of its exports. What
    ``read`` returns is valid only until the guest runs again: then the memory may grow, and
    move."""

    def read(self, pointer: int, length: int) -> memoryview:
        """``length`` bytes at ``pointer`` (both unsigned), without a copy if the engine can.
        Raises ``InvalidArgument`` unless they are all inside the memory."""

    def write(self, pointer: int, data: memoryview | bytes) -> None:
        """Copy ``data`` (flat bytes) to ``pointer``. Raises ``InvalidArgument``, and writes
        nothing, unless all of it fits into the memory."""

    def check(self, pointer: int, length: int) -> None:
        """Raise ``InvalidArgument`` unless all of the bytes are inside the memory."""

    @property
    def size(self) -> int:
        """The present size in bytes."""


class BufferMemory:
    """Guest memory of an engine that shares it as a buffer. The runtime calls ``replace`` after the
    memory has grown or moved, before a host function reads it."""

    __slots__ = ("size", "view")

    def __init__(self, view: memoryview = memoryview(b"")) -> None:
        self.replace(view)

    def replace(self, view: memoryview) -> None:
        """Use ``view`` from now on."""
        self.view = view
        self.size = len(view)

    def read(self, pointer: int, length: int) -> memoryview:
        end = pointer + length
        if end > self.size:
            raise outside(pointer, length, self.size)
        return self.view[pointer:end]

    def write(self, pointer: int, data: memoryview | bytes) -> None:
        end = pointer + len(data)
        if end > self.size:
            raise outside(pointer, len(data), self.size)
        if pointer < end:  # (The view of no memory can be read-only.)
            self.view[pointer:end] = data

    def check(self, pointer: int, length: int) -> None:
        if pointer + length > self.size:
            raise outside(pointer, length, self.size)


def outside(pointer: int, length: int, size: int) -> InvalidArgument:
    """The error of a ``GuestMemory`` for bytes outside the memory."""
    return InvalidArgument(
        f"{length} bytes at 0x{pointer:x} are outside the guest's memory of {size} bytes"
    )


#: What a host function of WASI returns to leave a call to the runtime's own function.
PASS_ON = 0xFFFFFFFF


class HostFunction(NamedTuple):
    """A function that a guest can import. All parameters are i32, passed as unsigned ints.

    ``call(memory, *parameters)`` returns the i32 result (unsigned), or None if ``has_result`` is
    False. ``memory`` is the memory that the calling instance exports as ``memory``, at its present
    size, or None if it exports none. Look it up at each call: it may have grown since the last one,
    and the start function calls before ``instantiate`` returns. The function may call
    ``Instance.call`` of its own guest.

    A function of WASI preview 1 among them comes before the runtime's own one. If it returns
    ``PASS_ON``, the runtime calls its own with the same arguments, and returns what that returns.

    A function that only ends the guest may have a ``signature`` of other numbers than i32. Then
    ``call`` gets none of them.

    What ``call`` raises must end the guest. The runtime traps, and raises the same exception from
    ``Instance.instantiate``, ``start`` or ``call``. ``EngineInstance.raised`` does that.
    """

    module: str
    name: str
    parameters: int
    has_result: bool
    call: Callable[..., Any]
    signature: Signature | None = None

    @property
    def types(self) -> Signature:
        """The types of its parameters and of its result."""
        return self.signature or _of_i32(self.parameters, self.has_result)


@lru_cache(maxsize=64)
def _of_i32(parameters: int, has_result: bool) -> Signature:
    # (Listing the plugins does not need it.)
    from wasi_nn.wasm.module import Signature

    return Signature(("i32",) * parameters, ("i32",) * has_result)


#: Standard input: None for an empty one, ``"inherit"``, the bytes themselves, or a descriptor of
#: this process to read from. It stays its owner's, who closes it after the guest.
Stdin = Union[None, bytes, Literal["inherit"], int]
#: An output stream: None to discard, ``"inherit"``, or a callable that takes each piece of bytes.
Stdout = Union[None, Literal["inherit"], Callable[[bytes], Any]]


class Preopen(NamedTuple):
    """A host directory that the guest sees under ``guest``."""

    host: Path
    guest: str
    writable: bool = True


class WasiConfig(NamedTuple):
    """What the guest sees of the system (WASI preview 1)."""

    args: Sequence[str] = ()
    env: Sequence[tuple[str, str]] = ()
    preopens: Sequence[Preopen] = ()
    stdin: Stdin = None
    stdout: Stdout = "inherit"
    stderr: Stdout = "inherit"


class EngineLimits(NamedTuple):
    """The limits that an engine enforces. With None, there is none. Core sets ``memory`` and
    ``fuel`` only if ``RuntimeFeatures`` declares that the engine enforces them.

    ``memory`` is in bytes of linear memory, and about as much again for tables. ``fuel`` is in the
    engine's own units (about one per instruction on wasmtime).

    ``files`` is how many files the guest may have open at one time. Every runtime must hold it. If
    the engine's WASI cannot, ``wasi_nn.runtime.open_files`` counts them, or ``Isolated`` of
    ``wasi_nn.runtime.process.isolated`` runs the guests that can open files in processes of their
    own."""

    memory: int | None = None
    fuel: int | None = None
    files: int | None = None


class OfferedModel(NamedTuple):
    """A named model for an engine that computes models itself. ``paths`` are the graph builders."""

    encoding: str
    paths: Sequence[Path]
    target: ExecutionTarget
    config: Mapping[str, Any] = {}


class OwnNn(NamedTuple):
    """What an engine with a wasi-nn of its own needs to know of a guest.

    ``dialects`` are those that the guest can have, the most likely one first; none for a guest
    without wasi-nn. ``models`` are those that the policy allows. The engine must hold every rule
    and every limit of ``policy``, or refuse the guest with a ``UsageError``. It calls
    ``failed(function, arguments, errno, reason)`` for a call that gave the guest an errno."""

    dialects: Sequence[str]
    models: Mapping[str, OfferedModel]
    policy: Policy
    failed: Callable[[str, Sequence[int], int, str], None]


class RuntimeFeatures(NamedTuple):
    """What an engine can do, as ``wasi-nn plugins`` shows it. Core relies on what is declared."""

    #: It runs components: ``Runtime.compile_component`` does not refuse them.
    components: bool = False
    #: It has all of WASI preview 1, with directories.
    wasi: bool = True
    #: ``GuestMemory.read`` returns a view of the guest's memory, not a copy.
    zero_copy_memory: bool = True
    #: ``Instance.interrupt`` stops a guest in a loop. Without it, a host with a timeout runs guests
    #: in a process of their own, and a timeout for a single run is a ``UsageError``.
    interrupt: bool = False
    #: It enforces ``EngineLimits.memory``. Without it, core does as without ``interrupt``.
    memory_limit: bool = False
    #: It enforces ``EngineLimits.fuel``. Without it, a limit on fuel is a ``UsageError``.
    fuel: bool = False
    #: Other threads run while a guest runs, and an instance may be used by several threads, one at
    #: a time. In a program with signal handlers, core then runs guests of the main thread in
    #: another thread, so that handlers run at once. Without it, core uses an instance only on the
    #: thread that called ``Module.prepare``, and handlers of the main thread wait for the guest.
    threads: bool = True
    #: It keeps compiled code on disk.
    compile_cache: bool = False
    #: A guest may have a memory that is declared shared. Otherwise core refuses it with a
    #: ``LinkError``.
    shared_memory: bool = False


class Instance(ABC):
    """One guest in one store.

    One thread uses it at a time, except for ``interrupt``. With ``RuntimeFeatures.threads``, this
    need not be the thread that made it. Without, only that thread may use it: raise ``UsageError``
    on another one if the engine would fail there.

    Exits are not traps. ``instantiate`` and ``start`` return the code of a guest that called
    ``proc_exit``, and ``call`` raises ``GuestExited``. A trap raises ``GuestTrap``. In a runtime
    that uses ``EngineInstance``, the exception ``GuestExit`` carries the code to these methods."""

    @property
    def refused(self) -> Mapping[str, int]:
        """How often a limit gave the guest an errno of WASI, by the limit's name (``files``)."""
        return {}

    @property
    def clock_start(self) -> int:
        """``time.monotonic_ns()`` at the moment at which the guest's monotonic clock shows 0."""
        return 0

    @property
    def memory(self) -> GuestMemory | None:
        """The memory that the guest exports as ``memory``, at its present size: between two calls,
        and in a host function as well. None if it exports none, or is not instantiated. Raises
        ``UsageError`` if the engine cannot reach it from there."""
        raise UsageError("this runtime cannot reach a guest's memory between its calls")

    @abstractmethod
    def instantiate(self) -> int | None:
        """Link the module, and run its start function. Called before ``start`` and ``call``.

        Returns the exit code if the guest exits in its start function, and otherwise None. Raises
        ``LinkError`` for an import that nothing provides, ``LimitExceeded`` if the module starts
        above its limits, and the other kinds of ``GuestError``."""

    @abstractmethod
    def start(self) -> int:
        """Run ``_start``, and return the exit code. Raises ``UsageError`` if there is no such
        export, and the kinds of ``GuestError``."""

    @abstractmethod
    def call(self, export: str, *arguments: float) -> tuple[int | float, ...]:
        """Call an exported function, and return its results, integers signed. Core has converted
        the arguments: ints, signed or unsigned, for i32 and i64, and floats for f32 and f64. Raises
        ``UsageError`` if there is no such export, and the kinds of ``GuestError``."""

    @abstractmethod
    def interrupt(self) -> None:
        """Make the guest stop soon with ``Interrupted``. Called from any thread, at any time. Does
        nothing after the guest has ended."""

    @abstractmethod
    def close(self) -> None:
        """Free the store. Called once, when no thread is in the guest."""


class Module(ABC):
    """Compiled code, shared by all instances and threads."""

    @abstractmethod
    def prepare(
        self, functions: Sequence[HostFunction], wasi: WasiConfig, limits: EngineLimits
    ) -> Instance:
        """A guest in a store of its own. Runs nothing of it.

        ``functions`` are the host functions that the module imports. Some may take the place of
        functions of WASI (see ``HostFunction``). Raises
        ``UsageError`` for a WASI configuration that the engine cannot honour: directories if its
        WASI has none, read-only ones if it would let the guest write. Never give a guest more than
        ``wasi`` allows."""

    def prepare_own(
        self,
        functions: Sequence[HostFunction],
        wasi: WasiConfig,
        limits: EngineLimits,
        nn: OwnNn,
    ) -> Instance:
        """As ``prepare``, for a runtime with ``own_encodings``. ``functions`` has none of
        wasi-nn."""
        raise NotImplementedError


class Runtime(ABC):
    """A Wasm engine. One object per host. Import its library in the methods, not at the top of the
    module."""

    @attribute
    def name(self) -> str:
        """What users call it (``--runtime``). Unique among the installed plugins."""
        raise AttributeError("a Runtime must have a name")

    @attribute
    def features(self) -> RuntimeFeatures:
        """What the engine can do. Where that depends on the library, this is a property: core reads
        it only when the engine is available."""
        raise AttributeError("a Runtime must have features")

    @attribute
    def wasi_modules(self) -> frozenset[str]:
        """The import modules under which the runtime provides WASI. Core lets a guest import
        every function of WASI preview 1 from them."""
        return frozenset({"wasi_snapshot_preview1"})

    @attribute
    def own_encodings(self) -> frozenset[str]:
        """The encodings of the models that the engine computes itself, with a wasi-nn of its own.
        If there are any, no backend computes for its guests, and core calls ``Module.prepare_own``.
        Such a runtime is used only if it is named."""
        return frozenset()

    @attribute
    def survives_fork(self) -> bool:
        """Whether it can be used in a child process after it was used in the parent. True only for
        an engine that has no threads in this process."""
        return False

    @abstractmethod
    def availability(self) -> Availability:
        """Whether the engine can be used. Asked before every run; may load its library. Instead of
        saying that it cannot be used, it may raise ``Unavailable``."""

    @abstractmethod
    def compile(self, wasm: bytes, limits: EngineLimits) -> Module:
        """Compile a core module, or take it from the cache. Unless ``limits.fuel`` is None, the
        code must count fuel. Raises ``UsageError`` for an invalid module."""

    def compile_component(self, wasm: bytes, limits: EngineLimits) -> Component:
        """Compile a component, as ``compile`` does a core module. Raises ``UsageError`` for an
        invalid component, and if the engine runs none (``features.components`` is False)."""
        raise UsageError(
            f"{self.name} runs no components; wasmtime does (--runtime, or Host(runtime=…))"
        )
