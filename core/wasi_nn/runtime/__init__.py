"""The runtime contract: what a Wasm engine has to offer to run guests.

A runtime compiles a module, and an instance of it runs with host functions, a WASI configuration
and limits. Nothing of tensors is seen here: a host function is a name, a number of i32 parameters
and a callable that reads and writes guest memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, Union

from wasi_nn._attribute import attribute
from wasi_nn.errors import InvalidArgument, UsageError
from wasi_nn.types import Availability

if TYPE_CHECKING:
    from pathlib import Path

    from wasi_nn.runtime.component import Component

__all__ = [
    "BufferMemory",
    "EngineLimits",
    "GuestMemory",
    "HostFunction",
    "Instance",
    "Module",
    "Preopen",
    "Runtime",
    "RuntimeFeatures",
    "Stdin",
    "Stdout",
    "WasiConfig",
    "outside",
]


class GuestMemory(Protocol):
    """A guest's linear memory during one host call. Nothing got from it outlives that call: the
    memory may grow, and move, as soon as the guest runs again."""

    def read(self, pointer: int, length: int) -> memoryview:
        """``length`` bytes at ``pointer`` (both unsigned), zero-copy where the engine can.
        Raises ``InvalidArgument`` when they are not wholly inside the memory."""

    def write(self, pointer: int, data: memoryview | bytes) -> None:
        """Copy ``data`` (flat bytes) to ``pointer``. Raises ``InvalidArgument`` when it does not
        fit there, and then writes nothing."""

    def check(self, pointer: int, length: int) -> None:
        """Raise ``InvalidArgument`` unless the bytes are wholly inside the memory."""

    @property
    def size(self) -> int:
        """Bytes of linear memory at this moment."""


class BufferMemory:
    """Guest memory of an engine that shares it as a buffer. The adapter replaces ``view`` whenever
    the memory has grown or moved, before a host function looks at it."""

    __slots__ = ("size", "view")

    def __init__(self, view: memoryview) -> None:
        self.view = view
        self.size = len(view)

    def replace(self, view: memoryview) -> None:
        """The memory is somewhere else, or larger, from now on."""
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
    """What a guest's memory raises for bytes that are not in it."""
    return InvalidArgument(
        f"{length} bytes at 0x{pointer:x} are outside the guest's memory of {size} bytes"
    )


class HostFunction(NamedTuple):
    """A function that a guest can import. All parameters are i32, passed as unsigned ints.

    ``call(memory, *parameters)`` gives the i32 result, or None where ``has_result`` is False.
    ``memory`` is None for a guest that exports no memory. ``call`` raises nothing but what must
    end the guest (``KeyboardInterrupt``): an adapter turns that into a trap and raises it again
    from ``Instance.start`` or ``call``.
    """

    module: str
    name: str
    parameters: int
    has_result: bool
    call: Callable[..., Any]


#: Standard input: None for an empty one, ``"inherit"``, or the bytes themselves.
Stdin = Union[None, bytes, Literal["inherit"]]
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
    """What an engine enforces; None is no limit. ``memory`` is in bytes (of linear memory, and
    about as much again for tables), ``fuel`` in the engine's own units (about one per instruction
    on wasmtime)."""

    memory: int | None = None
    fuel: int | None = None


class RuntimeFeatures(NamedTuple):
    """What an engine can do, as ``wasi-nn plugins`` shows it. ``zero_copy_memory`` is a view of
    guest memory and no copy of it; ``threads`` that guests of several threads run side by side;
    ``shared_memory`` that a guest may have a memory that is declared shared."""

    components: bool = False
    wasi: bool = True
    zero_copy_memory: bool = True
    interrupt: bool = False
    memory_limit: bool = False
    fuel: bool = False
    threads: bool = True
    compile_cache: bool = False
    shared_memory: bool = False


class Instance(ABC):
    """One guest in one store. Used by the thread that made it, but for ``interrupt``."""

    @abstractmethod
    def instantiate(self) -> int | None:
        """Link the module and run its start function; comes before ``start`` and ``call``.

        Gives an exit code when the guest ended there, and None otherwise. Raises ``LinkError`` for
        an import that nobody provides, ``LimitExceeded`` when the module starts above its limits,
        and the other kinds of ``GuestError``."""

    @abstractmethod
    def start(self) -> int:
        """Run ``_start`` and give the exit code. Raises the kinds of ``GuestError``."""

    @abstractmethod
    def call(self, export: str, *arguments: float) -> tuple[int | float, ...]:
        """Call an exported function. Raises ``UsageError`` when there is no such export and the
        kinds of ``GuestError``."""

    @abstractmethod
    def interrupt(self) -> None:
        """Make the guest stop soon with ``Interrupted``. Callable from any thread; does nothing
        once the guest has ended."""

    @abstractmethod
    def close(self) -> None:
        """Free the store. Called once, on the thread that made it."""


class Module(ABC):
    """Compiled code, shared by every instance and thread."""

    @abstractmethod
    def prepare(
        self, functions: Sequence[HostFunction], wasi: WasiConfig, limits: EngineLimits
    ) -> Instance:
        """An instance to be, in a store of its own; nothing of the guest has run. Raises
        ``UsageError`` for a WASI configuration that the engine refuses."""


class Runtime(ABC):
    """A Wasm engine. One object per host; its library is imported on first use."""

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
        """The import modules that the engine's own WASI provides."""
        return frozenset({"wasi_snapshot_preview1"})

    @attribute
    def survives_fork(self) -> bool:
        """Whether it can be used in a child process after it was used in the parent. True only for
        an engine that has no threads in this process."""
        return False

    @abstractmethod
    def availability(self) -> Availability:
        """Whether the engine can be used. Asked before every run; may load its library."""

    @abstractmethod
    def compile(self, wasm: bytes, limits: EngineLimits) -> Module:
        """Compile a core module, or take it from the cache. ``limits.fuel`` says whether the code
        must count fuel. Raises ``UsageError`` for bytes that are no valid module."""

    def compile_component(self, wasm: bytes, limits: EngineLimits) -> Component:
        """Compile a component, as ``compile`` does a core module. Raises ``UsageError`` where the
        engine runs none (``features.components`` says so before)."""
        raise UsageError(
            f"{self.name} runs no components; wasmtime does (--runtime, or Host(runtime=…))"
        )
