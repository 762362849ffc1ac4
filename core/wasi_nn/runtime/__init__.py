"""The runtime contract: what a Wasm engine must offer to run guests.

A runtime compiles a module. An instance of the module runs with host functions, a WASI
configuration and limits. A runtime does not see tensors: a host function is a name, a number of i32
parameters, and a callable that reads and writes guest memory.
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
    """A guest's linear memory during one host call. Views of it are valid only during that call:
    the memory may grow and move when the guest runs again."""

    def read(self, pointer: int, length: int) -> memoryview:
        """``length`` bytes at ``pointer`` (both unsigned), without a copy if the engine can. Raises
        ``InvalidArgument`` unless they are wholly inside the memory."""

    def write(self, pointer: int, data: memoryview | bytes) -> None:
        """Copy ``data`` (flat bytes) to ``pointer``. If it does not fit there, write nothing and
        raise ``InvalidArgument``."""

    def check(self, pointer: int, length: int) -> None:
        """Raise ``InvalidArgument`` unless the bytes are wholly inside the memory."""

    @property
    def size(self) -> int:
        """The present size of the linear memory in bytes."""


class BufferMemory:
    """Guest memory of an engine that shares it as a buffer. If the memory has grown or moved, the
    runtime replaces ``view`` before a host function reads it."""

    __slots__ = ("size", "view")

    def __init__(self, view: memoryview) -> None:
        self.view = view
        self.size = len(view)

    def replace(self, view: memoryview) -> None:
        """Use another view: the memory has moved or grown."""
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
    """The error for bytes that are outside the guest's memory."""
    return InvalidArgument(
        f"{length} bytes at 0x{pointer:x} are outside the guest's memory of {size} bytes"
    )


class HostFunction(NamedTuple):
    """A function that a guest can import. All parameters are i32, passed as unsigned ints.

    ``call(memory, *parameters)`` gives the i32 result, or None if ``has_result`` is False.
    ``memory`` is None for a guest that exports no memory. ``call`` raises only what must end the
    guest (``KeyboardInterrupt``). The runtime turns that into a trap, and raises it again from
    ``Instance.start`` or ``call``."""

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
    """The limits that an engine enforces. With None, there is none.

    ``memory`` is in bytes of linear memory, and about as much again for tables. ``fuel`` is in the
    engine's own units (about one per instruction on wasmtime)."""

    memory: int | None = None
    fuel: int | None = None


class RuntimeFeatures(NamedTuple):
    """What an engine can do, as ``wasi-nn plugins`` shows it.

    - ``components``: it runs components.
    - ``wasi``: it has WASI preview 1.
    - ``zero_copy_memory``: host functions get a view of guest memory, not a copy.
    - ``interrupt``, ``memory_limit``, ``fuel``: it can enforce these limits.
    - ``threads``: guests of several threads run at the same time.
    - ``compile_cache``: it keeps compiled code on disk.
    - ``shared_memory``: a guest may have a memory that is declared shared."""

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
    """One guest in one store. Only the thread that made it uses it, except for ``interrupt``."""

    @abstractmethod
    def instantiate(self) -> int | None:
        """Link the module and run its start function. Comes before ``start`` and ``call``.

        Gives an exit code if the guest ended, and otherwise None. Raises ``LinkError`` for an
        import that nothing provides, ``LimitExceeded`` if the module starts above its limits, and
        the other kinds of ``GuestError``."""

    @abstractmethod
    def start(self) -> int:
        """Run ``_start`` and give the exit code. Raises the kinds of ``GuestError``."""

    @abstractmethod
    def call(self, export: str, *arguments: float) -> tuple[int | float, ...]:
        """Call an exported function. The arguments are ints for i32 and i64, and floats for f32 and
        f64. Raises ``UsageError`` if there is no such export, and the kinds of ``GuestError``."""

    @abstractmethod
    def interrupt(self) -> None:
        """Make the guest stop soon with ``Interrupted``. Any thread may call this. It does nothing
        if the guest has ended."""

    @abstractmethod
    def close(self) -> None:
        """Free the store. Called once, on the thread that made it."""


class Module(ABC):
    """Compiled code, shared by every instance and thread."""

    @abstractmethod
    def prepare(
        self, functions: Sequence[HostFunction], wasi: WasiConfig, limits: EngineLimits
    ) -> Instance:
        """Make an instance in a store of its own, without running any of the guest. Raises
        ``UsageError`` for a WASI configuration that the engine refuses."""


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
        """Compile a core module, or take it from the cache. Unless ``limits.fuel`` is None, the
        code must count fuel. Raises ``UsageError`` for bytes that are not a valid module."""

    def compile_component(self, wasm: bytes, limits: EngineLimits) -> Component:
        """Compile a component, as ``compile`` does a core module. Raises ``UsageError`` if the
        engine does not run components (``features.components``)."""
        raise UsageError(
            f"{self.name} runs no components; wasmtime does (--runtime, or Host(runtime=…))"
        )
