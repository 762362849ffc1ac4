"""The process of one guest."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence

from wasi_nn._process.fork import keep
from wasi_nn._process.interrupts import shielded_from_sigint
from wasi_nn.errors import GuestTrap, WasiNnError
from wasi_nn.runtime import outside
from wasi_nn.runtime.engine import GuestExit
from wasi_nn.runtime.process._protocol import (
    DATA,
    FROM_GUEST,
    HOST_CALL,
    PAIR,
    READ,
    U32,
    WRITE,
    Channel,
)

__all__ = ["Child", "ProcessEnded", "RemoteMemory"]

_PIPE_BYTES = 1 << 20
# What a process may take besides its guest's memory and tables, in bytes: the engine, its heap, and
# the code that it compiles.
_ENGINE_BYTES = 2 << 30
_MAX_GUEST_BYTES = 4 << 30
_MAX_LIMIT = 1 << 62
# The writes to a guest's memory that are kept before they are sent, in bytes.
_MAX_KEPT = 1 << 20
# How long a process that has closed its pipes may take to end, in seconds.
_LEAVING_SECONDS = 5


class ProcessEnded(GuestTrap):
    """The guest's process has ended."""


class Child:
    """The process of a guest. Used by one thread at a time, except for ``kill``."""

    def __init__(
        self,
        command: Sequence[str],
        streams: Sequence[int],
        adopts: bool,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """``command`` gets the descriptors to read from and to write to as further arguments.
        ``streams`` are the guest's standard streams; empty for none. If it ``adopts`` them, they
        are the process's own; otherwise they are further arguments."""
        made: list[int] = []
        try:
            for _ in range(3):
                made += _pipe()
            ours_in, theirs_out, theirs_in, ours_out, lifeline, ours_alive = made
            for end in (ours_in, ours_out):
                _widen(end)
            theirs = (theirs_in, theirs_out, *(() if adopts else streams))
            nothing = subprocess.DEVNULL
            own: Sequence[int | None] = streams if adopts and streams else (nothing, nothing, None)
            with shielded_from_sigint():
                self._process = subprocess.Popen(
                    [*command, *map(str, theirs)],
                    stdin=own[0],
                    stdout=own[1],
                    stderr=own[2],
                    pass_fds=(*theirs, lifeline),
                    env=environment,
                )
            _end_with_us(self._process.pid, lifeline)
        except BaseException as error:
            _close(made)
            if isinstance(error, OSError):
                raise GuestTrap(f"{command[0]} does not start: {error}") from error
            raise
        self._ends = (ours_in, ours_out, ours_alive)
        _close((theirs_in, theirs_out, lifeline))
        self._channel = Channel(ours_in, ours_out, FROM_GUEST)
        self._lock = threading.Lock()
        self._gone = False
        keep(self)

    def forked(self) -> None:
        """This is a child process now, and the guest's process belongs to the parent. Only the
        parent may hold the pipes: the guest's process ends when they close."""
        self._lock = threading.Lock()
        if not self._gone:
            self._gone = True
            _close(self._ends)

    def send(self, kind: int, *parts: bytes | memoryview) -> None:
        """Send a message. Raises ``ProcessEnded``."""
        try:
            self._channel.send(kind, *parts)
        except EOFError:
            raise self._ended() from None

    def receive(self, data: int = 0) -> tuple[int, memoryview]:
        """``Channel.receive``. Raises ``ProcessEnded`` if the process has ended or breaks the
        protocol."""
        try:
            return self._channel.receive(data)
        except EOFError:
            raise self._ended() from None
        except (ValueError, MemoryError):
            raise self.nonsense() from None

    @contextlib.contextmanager
    def in_step(self) -> Iterator[None]:
        """Kill the process if an exception interrupts a request; otherwise the stale answer would
        answer the next request."""
        try:
            yield
        except (WasiNnError, GuestExit):
            raise
        except BaseException:
            self.kill()
            raise

    def nonsense(self) -> ProcessEnded:
        """Kill a process that breaks the protocol."""
        self.kill()
        return ProcessEnded("the guest's process does not keep to its protocol")

    def allow_calls(self, size: int) -> None:
        """Let a HOST_CALL have up to ``size`` bytes."""
        self._channel.kinds = {**FROM_GUEST, HOST_CALL: size}

    def limit_files(self, count: int) -> None:
        """Let the process have ``count`` more files open than now. Only Linux can."""
        import resource

        with contextlib.suppress(OSError, AttributeError, ValueError):
            process = self._process.pid
            limit = count
            # The system limits the highest descriptor, and gives out the lowest free one.
            for number in sorted(int(name) for name in os.listdir(f"/proc/{process}/fd")):
                if number <= limit:
                    limit += 1
            resource.prlimit(process, resource.RLIMIT_NOFILE, (limit, limit))

    def limit_memory(self, guest: int | None) -> None:
        """Limit what the process may take, for a guest with this limit in bytes: as much for its
        memory, as much again for its tables, and some for the engine. Only Linux can."""
        import resource

        most = 2 * (_MAX_GUEST_BYTES if guest is None else guest) + _ENGINE_BYTES
        with contextlib.suppress(OSError, AttributeError, ValueError):
            # (What an engine reserves, and does not use yet, does not count.)
            process, which = self._process.pid, resource.RLIMIT_DATA
            _, hard = resource.prlimit(process, which)
            most = min(most, _MAX_LIMIT if hard == resource.RLIM_INFINITY else hard)
            resource.prlimit(process, which, (most, most))

    def kill(self) -> None:
        """Kill the process. Callable from any thread."""
        with self._lock:
            if not self._gone:
                self._process.kill()

    def close(self) -> None:
        """Kill the process and free its descriptors. Can be called more than once."""
        with self._lock:
            if self._gone:
                return
            self._gone = True
            self._process.kill()
        self._process.wait()
        _close(self._ends)

    def _ended(self) -> ProcessEnded:
        try:
            self._process.wait(_LEAVING_SECONDS)
        except subprocess.TimeoutExpired:
            # It has closed its pipes and goes on.
            self.kill()
            self._process.wait()
        return ProcessEnded(f"the guest's process ended with {self._process.returncode}")


class RemoteMemory:
    """The guest's memory, during one host call or between calls. Reads that the call does not carry
    are requests to the process. Small writes are kept until the next request, or the end of the
    call."""

    __slots__ = ("_child", "_kept", "_peeks", "_writes", "size")

    def __init__(self, child: Child, size: int, peeks: list[tuple[int, memoryview]]) -> None:
        self._child = child
        self._peeks = peeks
        self._writes: list[tuple[int, bytes | memoryview]] = []
        self._kept = 0
        self.size = size

    def follow(self, size: int) -> None:
        """The guest ran during the host call: its memory may have grown and changed."""
        self.size = size
        self._peeks = []

    def check(self, pointer: int, length: int) -> None:
        if pointer + length > self.size:
            raise outside(pointer, length, self.size)

    def read(self, pointer: int, length: int) -> memoryview:
        self.check(pointer, length)
        if not length:
            return memoryview(b"")
        for at, data in self._peeks:
            if at <= pointer and pointer + length <= at + len(data):
                return data[pointer - at : pointer - at + length]
        self.flush()
        with self._child.in_step():
            self._child.send(READ, PAIR.pack(pointer, length))
            kind, data = self._child.receive(length)
        if kind != DATA or len(data) != length:
            raise self._child.nonsense()
        return data

    def write(self, pointer: int, data: memoryview | bytes) -> None:
        self.check(pointer, len(data))
        # The bytes that the call carried may be overwritten now.
        self._peeks = []
        # A copy, since the library may reuse its buffer before this is sent.
        self._writes.append((pointer, bytes(data)))
        self._kept += len(data)
        if self._kept > _MAX_KEPT:
            self.flush()

    def flush(self) -> None:
        """Send the writes to the guest."""
        for pointer, data in self._writes:
            self._child.send(WRITE, U32.pack(pointer), data)
        self._writes.clear()
        self._kept = 0


def _pipe() -> list[int]:
    """A pipe's ends, above the standard streams' descriptors: this process may have closed its
    own, and a pipe would take their numbers."""
    import fcntl

    ends = list(os.pipe())
    for at, end in enumerate(ends):
        if end <= 2:
            ends[at] = fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3)
            os.close(end)
    return ends


def _close(ends: Iterable[int]) -> None:
    for end in ends:
        os.close(end)


def _end_with_us(process: int, lifeline: int) -> None:
    """Make the system end a process when this one ends in any way. Otherwise a guest that computes
    would never notice. ``lifeline`` is the read end of a pipe, open in the process; the write end
    is open only here. When it closes, the system sends SIGIO, which ends a process by default."""
    import fcntl

    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, process)
        flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)


def _widen(pipe: int) -> None:
    # A tensor is sent in pieces of the pipe's size (on Linux, 64 KiB by default).
    import fcntl

    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
