"""The part of WASI preview 1 that Python serves well: streams, arguments, variables, exit codes,
and waiting.

For engines whose own functions fall short, or that have none. Standard streams can go anywhere.
Calls for other descriptors go to the engine's function of the same name (``OF_FILES``), which the
runtime sets in ``files``. Directories need an engine's WASI.

Layouts: an iovec is ``{u32 pointer, u32 length}`` (wasi_snapshot_preview1.witx).
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Sequence
from struct import Struct

from wasi_nn.errors import InvalidArgument
from wasi_nn.runtime import GuestMemory, HostFunction, Stdin, Stdout, WasiConfig
from wasi_nn.runtime.engine import proc_exit
from wasi_nn.runtime.pause import READABLE, Pause
from wasi_nn.runtime.wasi_polls import Polls, descriptor_of, of_stdin

__all__ = ["OF_FILES", "Preview1", "may_wait"]

#: The functions that serve files as well, and how many parameters they have.
OF_FILES = {"fd_write": 4, "fd_read": 4, "fd_fdstat_get": 2}
_BADF, _FAULT, _IO, _PIPE = 8, 21, 29, 64
# File type, flags, rights, inherited rights. A program asks whether a user reads its output: a
# terminal is a character device, and any other stream is "unknown".
_STATUS = Struct("<BxHxxxxQQ")
_TERMINAL, _UNKNOWN = 2, 0
_READ_RIGHT, _WRITE_RIGHT, _POLL_RIGHT = 1 << 1, 1 << 6, 1 << 27
_U32 = Struct("<I")
_PAIR = Struct("<II")
_STREAMS = 3
# The functions, but for proc_exit, and how many parameters they have.
_FUNCTIONS = {
    "poll_oneoff": 4,
    "fd_read": 4,
    "fd_write": 4,
    "fd_fdstat_get": 2,
    "args_get": 2,
    "args_sizes_get": 2,
    "environ_get": 2,
    "environ_sizes_get": 2,
}
_MOST_VECTORS = 1024
# A guest's vectors can name its whole memory many times over. Writing a part is allowed.
_MOST_AT_ONCE = 1 << 20


class Preview1:
    """The functions for one guest. What a callback for an output raises is added to
    ``failures``, and the guest sees an I/O error. A guest that waits does so in ``pause``, which an
    interrupt ends. ``clock_start`` is ``time.monotonic_ns()`` at the moment at which the engine's
    monotonic clock shows 0."""

    def __init__(
        self,
        wasi: WasiConfig,
        failures: list[BaseException],
        pause: Pause,
        clock_start: int = 0,
    ) -> None:
        self._failures = failures
        self._pause = pause
        self._clock_start = clock_start
        self._wasi = wasi
        self._stdin = memoryview(wasi.stdin) if isinstance(wasi.stdin, bytes) else None
        self._inherits_stdin = wasi.stdin == "inherit"
        self._reads_from = descriptor_of(wasi.stdin)
        self._outputs: dict[int, Stdout] = {1: wasi.stdout, 2: wasi.stderr}
        #: The engine's own functions by name, for descriptors that are not standard streams.
        self.files: dict[str, Callable[..., int]] = {}
        for stream, ours in ((wasi.stdout, sys.stdout), (wasi.stderr, sys.stderr)):
            # What Python has buffered comes before what the guest writes.
            if stream == "inherit" and ours is not None:
                ours.flush()

    def functions(self, module: str) -> list[HostFunction]:
        """The functions for one WASI module."""
        return [self.function(module, name) for name in ("proc_exit", *_FUNCTIONS)]

    def waiting_functions(self, module: str) -> list[HostFunction]:
        """Those of the functions in which a guest can wait, for an engine that serves the others
        itself. Its own would wait in the system, where an interrupt does not end them."""
        return [self.function(module, name) for name in ("poll_oneoff", "fd_read")]

    def function(self, module: str, name: str) -> HostFunction:
        """One of the functions for one WASI module."""
        if name == "proc_exit":
            return proc_exit(module)
        call = getattr(self, name)

        def guarded(memory: GuestMemory | None, *arguments: int) -> int:
            if memory is None:
                return _FAULT
            try:
                return int(call(memory, *arguments))
            except InvalidArgument:
                return _FAULT

        return HostFunction(module, name, _FUNCTIONS[name], True, guarded)

    def poll_oneoff(
        self, memory: GuestMemory, subscriptions: int, events: int, count: int, out: int
    ) -> int:
        polls = Polls(of_stdin(self._wasi.stdin), self._pause, self._clock_start)
        return polls.poll_oneoff(memory, subscriptions, events, count, out)

    def args_get(self, memory: GuestMemory, pointers: int, buffer: int) -> int:
        return _put(memory, self._wasi.args, pointers, buffer)

    def args_sizes_get(self, memory: GuestMemory, count: int, size: int) -> int:
        return _put_sizes(memory, self._wasi.args, count, size)

    def environ_get(self, memory: GuestMemory, pointers: int, buffer: int) -> int:
        return _put(memory, self._variables(), pointers, buffer)

    def environ_sizes_get(self, memory: GuestMemory, count: int, size: int) -> int:
        return _put_sizes(memory, self._variables(), count, size)

    def _variables(self) -> list[str]:
        return [f"{name}={value}" for name, value in self._wasi.env]

    def fd_write(
        self, memory: GuestMemory, descriptor: int, vectors: int, count: int, out: int
    ) -> int:
        if descriptor >= _STREAMS:
            return self._elsewhere("fd_write", descriptor, vectors, count, out)
        if descriptor == 0:
            return _BADF
        memory.check(out, 4)
        data = bytearray()
        for at, length in self._vectors(memory, vectors, count):
            data += memory.read(at, length)[: _MOST_AT_ONCE - len(data)]
        errno = self._write(descriptor, bytes(data))
        if not errno:
            memory.write(out, _U32.pack(len(data)))
        return errno

    def fd_read(
        self, memory: GuestMemory, descriptor: int, vectors: int, count: int, out: int
    ) -> int:
        if descriptor >= _STREAMS:
            return self._elsewhere("fd_read", descriptor, vectors, count, out)
        if descriptor:
            return _BADF
        memory.check(out, 4)
        pieces = self._vectors(memory, vectors, count)
        for at, length in pieces:
            memory.check(at, length)
        data = self._read(sum(length for _, length in pieces))
        done = 0
        for at, length in pieces:
            piece = data[done : done + length]
            memory.write(at, piece)
            done += len(piece)
        memory.write(out, _U32.pack(done))
        return 0

    def fd_fdstat_get(self, memory: GuestMemory, descriptor: int, out: int) -> int:
        if descriptor >= _STREAMS:
            return self._elsewhere("fd_fdstat_get", descriptor, out)
        inherits = self._outputs[descriptor] == "inherit" if descriptor else self._inherits_stdin
        kind = _TERMINAL if inherits and _is_terminal(descriptor) else _UNKNOWN
        rights = (_WRITE_RIGHT if descriptor else _READ_RIGHT) | _POLL_RIGHT
        memory.write(out, _STATUS.pack(kind, 0, rights, 0))
        return 0

    def _elsewhere(self, name: str, *arguments: int) -> int:
        function = self.files.get(name)
        return _BADF if function is None else function(*arguments)

    @staticmethod
    def _vectors(memory: GuestMemory, at: int, count: int) -> list[tuple[int, int]]:
        if count > _MOST_VECTORS:
            raise InvalidArgument(f"{count} vectors: at most {_MOST_VECTORS} are allowed")
        return [(at, length) for at, length in _PAIR.iter_unpack(memory.read(at, 8 * count))]

    def _write(self, descriptor: int, data: bytes) -> int:
        stream = self._outputs[descriptor]
        if callable(stream):
            try:
                if data:
                    stream(data)
            except BaseException as error:
                self._failures.append(error)
                return _IO
        elif stream == "inherit":
            view = memoryview(data)
            try:
                while view:
                    view = view[os.write(descriptor, view) :]
            except BrokenPipeError:
                return _PIPE
            except OSError:
                return _IO
        return 0

    def _read(self, most: int) -> bytes | memoryview:
        if self._reads_from is not None:
            self._pause.wait(None, {self._reads_from: READABLE})
            try:
                return os.read(self._reads_from, min(most, _MOST_AT_ONCE))
            except OSError:
                return b""
        if self._stdin is None:
            return b""
        piece, self._stdin = self._stdin[:most], self._stdin[most:]
        return piece


def may_wait(stdin: Stdin) -> bool:
    """Whether a read of standard input can wait: not for bytes, a file or ``/dev/null``."""
    descriptor = descriptor_of(stdin)
    if descriptor is None:
        return False
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not (stat.S_ISCHR(mode) and not os.isatty(descriptor))


def _is_terminal(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def _put(memory: GuestMemory, given: Sequence[str], pointers: int, buffer: int) -> int:
    texts = _encoded(given)
    memory.check(pointers, 4 * len(texts))
    memory.check(buffer, sum(map(len, texts)))
    for number, text in enumerate(texts):
        memory.write(pointers + 4 * number, _U32.pack(buffer))
        memory.write(buffer, text)
        buffer += len(text)
    return 0


def _put_sizes(memory: GuestMemory, given: Sequence[str], count: int, size: int) -> int:
    texts = _encoded(given)
    memory.check(size, 4)
    memory.write(count, _U32.pack(len(texts)))
    memory.write(size, _U32.pack(sum(map(len, texts))))
    return 0


def _encoded(texts: Sequence[str]) -> list[bytes]:
    return [text.encode() + b"\0" for text in texts]
