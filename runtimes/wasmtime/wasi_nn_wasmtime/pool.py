"""Room for memories and tables that wasmtime reserves once, for modules that come and go.

A guest in a slot finds the pages that the last one touched mapped already, and wasmtime has cleared
them. Without a slot, the system maps and unmaps the memory of each guest. So what does not fit a
slot, or comes when all are taken, runs all the same.
"""

from __future__ import annotations

import ctypes
import mmap
from threading import Lock

from wasi_nn.wasm.module import PAGE, WasmFile
from wasi_nn_wasmtime.capi import POINTER, lean
from wasi_nn_wasmtime.engine import Config

#: How many guests have a slot at a time, for each engine. Each slot takes 4 GiB of addresses.
SLOTS = 128
_MAX_PAGES = (4 << 30) // PAGE
# With the pages between two memories.
_SLOT_BYTES = (4 << 30) + (32 << 20)
# Bytes at the beginning of each memory that keep their pages: they are cleared, or copied from the
# module's data, when the guest has ended. Small guests touch no others.
_KEPT = 128 << 10
#: Elements of a table in a slot. All slots' tables together count as 4 MB of the process's memory.
MAX_ELEMENTS = 4096
# An instance takes as much as it needs.
_MAX_INSTANCE = 1 << 30

_new = lean("wasmtime_pooling_allocation_config_new", POINTER)
_delete = lean("wasmtime_pooling_allocation_config_delete", None, POINTER)
_use = lean("wasmtime_pooling_allocation_strategy_set", None, POINTER, POINTER)
_SETTINGS = {
    "total_memories": (ctypes.c_uint32, SLOTS),
    "total_tables": (ctypes.c_uint32, SLOTS),
    "total_gc_heaps": (ctypes.c_uint32, SLOTS),
    # (The second one is the gate of a guest with files.)
    "total_core_instances": (ctypes.c_uint32, 2 * SLOTS),
    "total_stacks": (ctypes.c_uint32, 0),
    "table_elements": (ctypes.c_size_t, MAX_ELEMENTS),
    "max_core_instance_size": (ctypes.c_size_t, _MAX_INSTANCE),
    "linear_memory_keep_resident": (ctypes.c_size_t, _KEPT),
    "table_keep_resident": (ctypes.c_size_t, _KEPT),
}


def fits(file: WasmFile) -> bool:
    """Whether a slot has room for all that the module may grow to."""
    memories, tables = file.memories, file.tables
    return (
        len(memories) <= 1
        and len(tables) <= 1
        and not any(memory.shared or memory.minimum > _MAX_PAGES for memory in memories)
        and all(t.maximum is not None and t.maximum <= MAX_ELEMENTS for t in tables)
    )


def has_addresses() -> bool:
    """Whether this process may have so many addresses. (wasmtime ends a process that may not.)"""
    try:
        # Twice as many, in case that other threads take some meanwhile.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        mmap.mmap(-1, 2 * SLOTS * _SLOT_BYTES, flags, prot=0).close()
    except (OSError, AttributeError):
        return False
    return True


def reserve_slots(config: Config) -> None:
    """Let an engine keep its memories and tables in slots."""
    pool = _new()
    for name, (kind, value) in _SETTINGS.items():
        lean(f"wasmtime_pooling_allocation_config_{name}_set", None, POINTER, kind)(pool, value)
    _use(config.at, pool)
    _delete(pool)


class Slots:
    """Counts the slots of an engine that are free. Thread-safe."""

    def __init__(self) -> None:
        self._free = SLOTS
        self._lock = Lock()

    def take(self) -> bool:
        """Take a slot. False if none is free."""
        with self._lock:
            if not self._free:
                return False
            self._free -= 1
            return True

    def give_back(self) -> None:
        """A guest that had a slot is closed."""
        with self._lock:
            self._free += 1
