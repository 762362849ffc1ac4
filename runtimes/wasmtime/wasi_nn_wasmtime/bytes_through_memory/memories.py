"""Linear memories that the host allocates, so that it knows their addresses.

In wasmtime's C API, a component's host function does not learn where the guest's memory is. But an
engine accepts a memory creator (``wasmtime_config_host_memory_creator_set``), and the creator of a
memory knows its address. wasmtime requires the following (the Rust documentation of
``LinearMemory`` and ``MemoryCreator``), because compiled code omits bounds checks:

- All reserved bytes and the guard after them are mapped.
- Only the bytes up to the memory's size are accessible. New bytes are zero.
- The memory never moves.

As a cost, the initial content of a memory is copied instead of mapped from the compiled file.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from wasi_nn.errors import GuestTrap
from wasi_nn.runtime.library import view_at
from wasi_nn_wasmtime.capi import POINTER, lean
from wasi_nn_wasmtime.engine import Config
from wasi_nn_wasmtime.failures import new_error

_SIZE = ctypes.POINTER(ctypes.c_size_t)
_GET: Any = ctypes.CFUNCTYPE(POINTER, POINTER, _SIZE, _SIZE)
_GROW: Any = ctypes.CFUNCTYPE(POINTER, POINTER, ctypes.c_size_t)
_FREE: Any = ctypes.CFUNCTYPE(None, POINTER)


class _Memory(ctypes.Structure):
    _fields_ = (("env", POINTER), ("get", _GET), ("grow", _GROW), ("free", _FREE))


_NEW: Any = ctypes.CFUNCTYPE(
    POINTER,
    POINTER,
    POINTER,
    ctypes.c_size_t,
    ctypes.c_size_t,
    ctypes.c_size_t,
    ctypes.c_size_t,
    ctypes.POINTER(_Memory),
)


class _Creator(ctypes.Structure):
    _fields_ = (("env", POINTER), ("new", _NEW), ("free", POINTER))


_set_creator = lean(
    "wasmtime_config_host_memory_creator_set", None, POINTER, ctypes.POINTER(_Creator)
)

#: Whether this system can allocate such memories. Windows has no mmap.
SUPPORTED = _set_creator is not None and hasattr(mmap, "MAP_ANONYMOUS")
_READ_WRITE = 3


class LinearMemory:
    """One memory of one guest."""

    def __init__(self, size: int, reserved: int, guard: int) -> None:
        self._mapped = max(size, reserved) + guard
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
        address = _mmap(None, self._mapped, 0, flags, -1, 0)
        if address in (None, _FAILED):
            raise MemoryError("there is no room for a memory")
        self.address: int = address
        self.capacity = max(size, reserved)
        self.size = 0
        try:
            self.grow(size)
        except BaseException:
            self.free()
            raise

    def grow(self, size: int) -> None:
        """Grow the memory to ``size`` bytes. Raises ``MemoryError``."""
        if size > self.capacity:
            raise MemoryError("a memory cannot grow above its capacity")
        if size > self.size:
            if _mprotect(self.address + self.size, size - self.size, _READ_WRITE):
                raise MemoryError("there is no room for a larger memory")
            self.size = size

    def view(self, pointer: int, length: int) -> memoryview:
        """Bytes of the guest, without a copy; valid during a host call. Raises ``GuestTrap`` for
        bytes outside the memory, where wasmtime traps too."""
        if pointer + length > self.size:
            raise GuestTrap(
                f"a list of {length} bytes at 0x{pointer:x} is outside the guest's memory of "
                f"{self.size} bytes"
            )
        return view_at(self.address + pointer, length)

    def free(self) -> None:
        """Unmap the memory, after the guest's end."""
        _munmap(self.address, self._mapped)


class _Linking(threading.local):
    """The list that receives the memories that this thread creates."""

    memories: list[LinearMemory] | None = None


_linking = _Linking()
# By address, which wasmtime passes back. A memory stays here until its store is gone.
_memories: dict[int, LinearMemory] = {}


@contextmanager
def memories_into(created: list[LinearMemory]) -> Iterator[None]:
    """Append the memories that this thread creates within the block to a list."""
    before = _linking.memories
    _linking.memories = created
    try:
        yield
    finally:
        _linking.memories = before


def create_memories(config: Config) -> None:
    """Let engines of this configuration create their memories here."""
    # wasmtime would abort the process if it mapped content into a memory that it did not create.
    config.set(memory_init_cow=False)
    _set_creator(config.at, _creator)


def _new(
    env: int, kind: int, minimum: int, maximum: int, reserved: int, guard: int, created: Any
) -> int | None:
    try:
        memory = LinearMemory(minimum, reserved, guard)
        _memories[memory.address] = memory
        if _linking.memories is not None:
            _linking.memories.append(memory)
        created[0] = _Memory(memory.address, _get_callback, _grow_callback, _free_callback)
        return None
    except BaseException as error:
        return _failed(error)


def _get(address: int, size: Any, capacity: Any) -> int:
    memory = _memories[address]
    size[0], capacity[0] = memory.size, memory.capacity
    return address


def _grow(address: int, size: int) -> int | None:
    try:
        _memories[address].grow(size)
        return None
    except BaseException as error:
        return _failed(error)


def _free(address: int) -> None:
    _memories.pop(address).free()


def _failed(error: BaseException) -> int:
    return new_error(str(error))


_get_callback, _grow_callback, _free_callback = _GET(_get), _GROW(_grow), _FREE(_free)
_new_callback = _NEW(_new)
_creator = _Creator(None, _new_callback, None)
# When the interpreter ends, engines and stores may outlive this module.
for _callback in (_get_callback, _grow_callback, _free_callback, _new_callback):
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(_callback))

if SUPPORTED:
    _process = ctypes.CDLL(None)
    _mmap = _process.mmap
    _mmap.restype = POINTER
    _mmap.argtypes = (POINTER, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    _munmap = _process.munmap
    _munmap.argtypes = (POINTER, ctypes.c_size_t)
    _mprotect = _process.mprotect
    _mprotect.argtypes = (POINTER, ctypes.c_size_t, ctypes.c_int)
    _FAILED = ctypes.c_void_p(-1).value
