"""The descriptors of a guest: its files, which are counted, and its outputs.

wasmtime's WASI opens as many files as a guest likes, and gives what a guest writes to a thread of
its own, which takes longer than a small guest runs. So the functions that open, close and write
come through Python. wasmtime's own functions use the memory that their caller exports. A call from
Python has no caller, so a small module of ours, the gate, imports the guest's memory, exports it
again, and calls them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache, partial

from wasi_nn.errors import GuestTrap
from wasi_nn.escaping import logger
from wasi_nn.runtime import BufferMemory, GuestMemory
from wasi_nn.runtime.open_files import OpenFiles
from wasi_nn.wasm.forwarding import forwarder
from wasi_nn_wasmtime.capi import POINTER, Extern, Instance, lean
from wasi_nn_wasmtime.engine import Compiled, Engine, compiled
from wasi_nn_wasmtime.failures import Trap, WasmtimeError, raise_error, raise_trap
from wasi_nn_wasmtime.functions import export_of
from wasi_nn_wasmtime.hostcalls import CallerMemory
from wasi_nn_wasmtime.linker import Linker

#: wasmtime's functions that a gate calls, unless it is told of others.
FORWARDED = (
    "path_open",
    "path_filestat_get",
    "fd_close",
    "fd_renumber",
    "fd_read",
    "fd_write",
)
#: Those that a guest with sockets needs besides.
OF_DESCRIPTORS = ("fd_fdstat_get", "fd_fdstat_set_flags", "fd_filestat_get")
_FAULT, _NOT_SUPPORTED = 21, 58
_call = lean(
    "wasmtime_func_call_unchecked", POINTER, POINTER, POINTER, POINTER, ctypes.c_size_t, POINTER
)
_instantiate = lean(
    "wasmtime_instance_new",
    *(POINTER, POINTER, POINTER, POINTER, ctypes.c_size_t, POINTER, POINTER),
)
# The parameter of path_open that says where the guest wants the descriptor.
_OPENED_AT = 8
# A filestat has at most so many bytes, and a file's type at 16. A FIFO is of no type that WASI has.
_FILESTAT, _TYPE_AT, _UNKNOWN = 64, 16, 0

log = logger("wasi_nn")


class Gate:
    """wasmtime's own functions, for a guest that imports WASI as ``module``."""

    def __init__(
        self,
        engine: Engine,
        module: str,
        memory: CallerMemory,
        check_stopped: Callable[[], None],
        forwarded: tuple[str, ...] = FORWARDED,
    ) -> None:
        self._forwarded = forwarded
        self._engine = engine
        self._check_stopped = check_stopped
        self._module = module
        self._memory = memory
        # The gate's functions, once the guest's memory is known.
        self._gate: dict[str, int] = {}
        self._kept: list[Extern] = []

    def call(self, name: str, *arguments: int) -> int:
        """Call a function within a host call. Returns the errno."""
        memory = self._memory.exported
        if memory is None:
            return _FAULT
        if not self._gate:
            self._open(memory)
        # Slots of 16 bytes. The first one takes the result.
        slots = (ctypes.c_uint64 * (2 * len(arguments)))()
        slots[::2] = list(arguments)
        trap = POINTER()
        error = _call(
            self._memory.context,
            self._gate[name],
            ctypes.addressof(slots),
            len(arguments),
            ctypes.addressof(trap),
        )
        try:
            raise_error(error)
            raise_trap(trap.value)
        except (Trap, WasmtimeError) as failure:
            self._check_stopped()
            raise GuestTrap(str(failure)) from None
        return slots[0] & 0xFFFFFFFF

    def _open(self, memory: Extern) -> None:
        linker, context = _wasi(self._engine), self._memory.context
        theirs = [linker.get(context, self._module, name) for name in self._forwarded]
        imports = (Extern * (len(theirs) + 1))(*theirs, memory)
        gate, trap = Instance(), POINTER()
        # (Kept here: of two threads that compile it at the same time, the cache keeps only one's.)
        module = _gate_module(self._engine, self._forwarded)
        made = _instantiate(
            context,
            module.at,
            *(ctypes.addressof(imports), len(imports)),
            *(ctypes.addressof(gate), ctypes.addressof(trap)),
        )
        raise_error(made)
        raise_trap(trap.value)
        for name in self._forwarded:
            at = ctypes.addressof(gate)
            function = export_of(context, at, name.encode(), Extern.FUNCTION)
            assert function is not None
            self._kept.append(function)
            self._gate[name] = function.of


class Descriptors:
    """The functions that open, close and write, for a guest whose own are not wasmtime's."""

    def __init__(
        self, gate: Gate, write: Callable[..., int] | None, files: OpenFiles | None
    ) -> None:
        """``write`` is the host's ``fd_write`` for the descriptors 1 and 2. With None, wasmtime
        writes them. ``files`` are those that the guest opens, if it can open any."""
        self._gate = gate
        self._write = write
        # Which of the guest's descriptors are its outputs: it can close and renumber them.
        self._outputs = {1: 1, 2: 2}
        self._files = files
        self._said = False

    def functions(self) -> dict[str, Callable[..., int]]:
        """By name. Each gets the guest's memory and the parameters."""
        made: dict[str, Callable[..., int]] = {}
        if self._write is not None or self._files is not None:
            made = {"fd_close": self._fd_close, "fd_renumber": self._fd_renumber}
        if self._write is not None:
            made["fd_write"] = self._fd_write
        if self._files is not None:
            made["path_open"] = self._path_open
        return made

    def _fd_write(self, memory: GuestMemory | None, descriptor: int, *where: int) -> int:
        output = self._outputs.get(descriptor)
        if output is None or self._write is None:
            return self._gate.call("fd_write", descriptor, *where)
        return self._write(memory, output, *where)

    def _path_open(self, memory: BufferMemory | None, *arguments: int) -> int:
        def opened() -> int:
            assert memory is not None
            return int.from_bytes(memory.read(arguments[_OPENED_AT], 4), "little")

        if self._is_fifo(memory, *arguments[:4]):
            if not self._said:
                self._said = True
                log.warning("the guest opens a FIFO, where nothing could end its wait: refused")
            return _NOT_SUPPORTED
        assert self._files is not None
        return self._files.path_open(partial(self._gate.call, "path_open", *arguments), opened)

    def _is_fifo(self, memory: BufferMemory | None, *path: int) -> bool:
        """Whether the parameters of path_open name a FIFO. (Opening one waits for its other side.
        wasmtime reads files at offsets, which a FIFO does not have.)"""
        if memory is None or memory.size < _FILESTAT:
            return False
        kept = bytes(memory.read(0, _FILESTAT))
        try:
            errno = self._gate.call("path_filestat_get", *path, 0)
            return errno == 0 and memory.read(_TYPE_AT, 1)[0] == _UNKNOWN
        finally:
            memory.write(0, kept)

    def _fd_close(self, memory: GuestMemory | None, descriptor: int) -> int:
        call = partial(self._gate.call, "fd_close", descriptor)
        errno = call() if self._files is None else self._files.fd_close(call, descriptor)
        if not errno:
            self._outputs.pop(descriptor, None)
        return errno

    def _fd_renumber(self, memory: GuestMemory | None, source: int, target: int) -> int:
        call = partial(self._gate.call, "fd_renumber", source, target)
        errno = call() if self._files is None else self._files.fd_renumber(call, source, target)
        if not errno and source != target:
            self._outputs.pop(target, None)
            if source in self._outputs:
                self._outputs[target] = self._outputs.pop(source)
        return errno


@lru_cache(maxsize=4)
def _wasi(engine: Engine) -> Linker:
    """wasmtime's own WASI."""
    return Linker(engine)


@lru_cache(maxsize=8)
def _gate_module(engine: Engine, names: tuple[str, ...]) -> Compiled:
    return compiled(engine, forwarder("wasi", names))
