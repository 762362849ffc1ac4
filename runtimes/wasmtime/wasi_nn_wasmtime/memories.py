"""Linear memories that the host makes itself, so that it knows where they are.

wasmtime's C API tells a component's host function nothing of the guest's memory. But an engine can
be given a maker of memories (``wasmtime_config_host_memory_creator_set``), and whoever makes a
memory knows its address. What wasmtime expects of one (the Rust documentation of ``LinearMemory``
and ``MemoryCreator``): all of the reserved bytes and the guard behind them are mapped and cannot be
touched, but for the first ones, up to the memory's size; they are zero; and it never moves.
Compiled code leaves checks out because of that.

The price is that a memory's first content is copied, and not mapped from the compiled file.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import wasmtime

from wasi_nn.errors import GuestTrap
from wasi_nn.runtime.library import view_at
from wasi_nn_wasmtime.capi import POINTER, lean

_SIZE = ctypes.POINTER(ctypes.c_size_t)
_GET: Any = ctypes.CFUNCTYPE(POINTER, POINTER, _SIZE, _SIZE)
_GROW: Any = ctypes.CFUNCTYPE(POINTER, POINTER, ctypes.c_size_t)
_FREE: Any = ctypes.CFUNCTYPE(None, POINTER)


class _Made(ctypes.Structure):
    _fields_ = (("env", POINTER), ("get", _GET), ("grow", _GROW), ("free", _FREE))


_NEW: Any = ctypes.CFUNCTYPE(
    POINTER,
    POINTER,
    POINTER,
    ctypes.c_size_t,
    ctypes.c_size_t,
    ctypes.c_size_t,
    ctypes.c_size_t,
    ctypes.POINTER(_Made),
)


class _Maker(ctypes.Structure):
    _fields_ = (("env", POINTER), ("new", _NEW), ("free", POINTER))


_set_maker = lean("wasmtime_config_host_memory_creator_set", None, POINTER, ctypes.POINTER(_Maker))
_map_content = lean("wasmtime_config_memory_init_cow_set", None, POINTER, ctypes.c_bool)
_error_new = lean("wasmtime_error_new", POINTER, ctypes.c_char_p)

#: Whether memories can be made here: not on Windows, which has no mmap.
POSSIBLE = None not in (_set_maker, _map_content) and hasattr(mmap, "MAP_ANONYMOUS")
_READ_WRITE = 3


class LinearMemory:
    """One memory of one guest."""

    def __init__(self, size: int, reserved: int, guard: int) -> None:
        self._mapped = max(size, reserved) + guard
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
        address = _mmap(None, self._mapped, 0, flags, -1, 0)
        if address in (None, _FAILED):
            raise MemoryError("no room for a memory")
        self.address: int = address
        self.capacity = max(size, reserved)
        self.size = 0
        try:
            self.grow(size)
        except BaseException:
            self.free()
            raise

    def grow(self, size: int) -> None:
        """Make the memory larger. Raises ``MemoryError``."""
        if size > self.capacity:
            raise MemoryError("a memory does not grow that far")
        if size > self.size:
            if _mprotect(self.address + self.size, size - self.size, _READ_WRITE):
                raise MemoryError("no room for a larger memory")
            self.size = size

    def view(self, pointer: int, length: int) -> memoryview:
        """Bytes of the guest, without a copy; valid during a host call. Raises ``GuestTrap`` as
        wasmtime does for a list that is not inside of the memory."""
        if pointer + length > self.size:
            raise GuestTrap(
                f"a list of {length} bytes at 0x{pointer:x} is outside the guest's memory of "
                f"{self.size} bytes"
            )
        return view_at(self.address + pointer, length) if length else memoryview(bytearray())

    def free(self) -> None:
        """Give the pages back. The guest is gone."""
        _munmap(self.address, self._mapped)


class _Linking(threading.local):
    """Where the memories go that this thread's engine asks for."""

    memories: list[LinearMemory] | None = None


_linking = _Linking()
# By the number that wasmtime passes back; what is here lives as long as its store.
_memories: dict[int, LinearMemory] = {}


@contextmanager
def memories_into(made: list[LinearMemory]) -> Iterator[None]:
    """Put the memories that are made meanwhile, in this thread, on a list."""
    before = _linking.memories
    _linking.memories = made
    try:
        yield
    finally:
        _linking.memories = before


def make_memories(config: wasmtime.Config) -> None:
    """Have the engines of a configuration ask here for memories."""
    # wasmtime ends the process when it is to map content into a memory that it did not make.
    _map_content(ctypes.cast(config.ptr(), POINTER), False)
    _set_maker(ctypes.cast(config.ptr(), POINTER), ctypes.byref(_maker))


def _new(
    env: int, kind: int, minimum: int, maximum: int, reserved: int, guard: int, made: Any
) -> int | None:
    try:
        memory = LinearMemory(minimum, reserved, guard)
        _memories[memory.address] = memory
        if _linking.memories is not None:
            _linking.memories.append(memory)
        made[0] = _Made(memory.address, _get_callback, _grow_callback, _free_callback)
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
    made: int = _error_new(str(error).encode())
    return made


_get_callback, _grow_callback, _free_callback = _GET(_get), _GROW(_grow), _FREE(_free)
_new_callback = _NEW(_new)
_maker = _Maker(None, _new_callback, None)
# Engines and stores may outlive this module when the interpreter ends.
for _callback in (_get_callback, _grow_callback, _free_callback, _new_callback):
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(_callback))

if POSSIBLE:
    _process = ctypes.CDLL(None)
    _mmap = _process.mmap
    _mmap.restype = POINTER
    _mmap.argtypes = (POINTER, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    _munmap = _process.munmap
    _munmap.argtypes = (POINTER, ctypes.c_size_t)
    _mprotect = _process.mprotect
    _mprotect.argtypes = (POINTER, ctypes.c_size_t, ctypes.c_int)
    _FAILED = ctypes.c_void_p(-1).value
