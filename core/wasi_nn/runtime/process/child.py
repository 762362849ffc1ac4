"""The process of one guest, and the protocol between the host and it.

A message is ``{u32 kind, u32 length}`` and its bytes, little-endian.

The host sends PREPARE (a module), LINK (JSON) and CALL (JSON; see ``to_raws`` for its numbers). The
guest's process answers each with OK or FAILED (JSON).

Before that answer, the process may send HOST_CALL: ``{u32 function, u32 size of the memory, u32
whether there is one}``, then ``{u32 value, u32 length}`` for each argument, and then, for each
argument, the bytes that it points to. It waits for RETURN (i32) or TRAP. Before those, the host may
send READ ``{u32 pointer, u32 length}``, answered with DATA; WRITE ``{u32 pointer}`` and bytes,
which has no answer; and CALL.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from struct import Struct, error
from typing import Any

from wasi_nn._process.fork import keep
from wasi_nn._process.interrupts import shielded_from_sigint
from wasi_nn.errors import GuestTrap, WasiNnError
from wasi_nn.runtime import outside
from wasi_nn.runtime.instance import GuestExit
from wasi_nn.runtime.values import from_raw, to_raw
from wasi_nn.wasm.arguments import KINDS

__all__ = ["Child", "ProcessEnded"]

PREPARE, LINK, CALL, READ, WRITE, RETURN, TRAP = range(1, 8)
OK, FAILED, HOST_CALL, DATA = range(1, 5)
HEAD, U32, PAIR = Struct("<II"), Struct("<I"), Struct("<II")
CALL_HEAD = Struct("<III")
#: The bytes at each argument that a call carries, so that most structures need no READ.
PEEK = 64
# A guest's memory has 4 GiB at most, and a function 1,000 parameters.
_MAX_BYTES = (1 << 32) + 64
_MAX_CALL = CALL_HEAD.size + 1000 * (PAIR.size + PEEK)
_MAX_JSON = 16 << 20
#: The kinds of messages, each with its largest size in bytes. DATA has the size that was asked for.
TO_GUEST = dict.fromkeys(range(PREPARE, TRAP + 1), _MAX_BYTES)
FROM_GUEST = {OK: _MAX_JSON, FAILED: _MAX_JSON, HOST_CALL: _MAX_CALL, DATA: 0}
#: The errors of reading nonsense, from a process that a guest has taken over.
GARBLED = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, error)
_PIPE_BYTES = 1 << 20
# How long a process that has closed its pipes may take to end, in seconds.
_LEAVING_SECONDS = 5


class ProcessEnded(GuestTrap):
    """The guest's process has ended."""


class Channel:
    """Messages over two descriptors. Raises ``EOFError`` when the other end is closed, and after an
    exception in the middle of a message, because the rest of it would be read as a message."""

    def __init__(self, reader: int, writer: int, kinds: Mapping[int, int]) -> None:
        """``kinds`` are the kinds of incoming messages, each with its largest size."""
        self._reader, self._writer = reader, writer
        self._kinds = kinds
        self._amid = False

    def send(self, kind: int, *parts: bytes | memoryview) -> None:
        """Send a message."""
        self._begin()
        left: list[bytes | memoryview] = [
            HEAD.pack(kind, sum(len(part) for part in parts)),
            *(part for part in parts if len(part)),
        ]
        while left:
            try:
                wrote = os.writev(self._writer, left[:64])
            except OSError as error:
                raise EOFError from error
            while left and wrote >= len(left[0]):
                wrote -= len(left.pop(0))
            if wrote:
                left[0] = memoryview(left[0])[wrote:]
        self._amid = False

    def receive(self, data: int = 0) -> tuple[int, memoryview]:
        """The kind and the bytes of the next message. ``data`` is the size of the DATA that was
        asked for. Raises ``ValueError`` for an unknown kind or a size above its limit."""
        self._begin()
        kind, length = HEAD.unpack(self._read(HEAD.size))
        most = self._kinds.get(kind, -1)
        if length > (most or data):
            raise ValueError("a message of an unknown kind, or too long for it")
        body = self._read(length)
        self._amid = False
        return kind, body

    def _begin(self) -> None:
        if self._amid:
            raise EOFError
        self._amid = True

    def _read(self, length: int) -> memoryview:
        data = memoryview(bytearray(length))
        done = 0
        while done < length:
            try:
                got = os.readv(self._reader, [data[done:]])
            except OSError:
                got = 0
            if not got:
                raise EOFError
            done += got
        return data


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
        except ValueError:
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
    """The guest's memory during one host call. Reads that the call does not carry are requests to
    the process. Writes are kept until the next request, or the end of the call."""

    __slots__ = ("_child", "_peeks", "_writes", "size")

    def __init__(self, child: Child, size: int, peeks: list[tuple[int, memoryview]]) -> None:
        self._child = child
        self._peeks = peeks
        self._writes: list[tuple[int, bytes | memoryview]] = []
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

    def flush(self) -> None:
        """Send the writes to the guest."""
        for pointer, data in self._writes:
            self._child.send(WRITE, U32.pack(pointer), data)
        self._writes.clear()


def to_raws(kinds: Sequence[str], numbers: Sequence[float]) -> list[str]:
    """The numbers of a call as both sides exchange them: the eight bytes of each, as an unsigned
    integer in decimal. (JavaScript reads a JSON number as a double, and JSON has no NaN.)"""
    pairs = zip(kinds, numbers, strict=True)
    return [str(to_raw(KINDS.get(kind, -1), number)) for kind, number in pairs]


def from_raws(kinds: Sequence[str], raws: Sequence[str]) -> tuple[int | float, ...]:
    """The numbers that ``to_raws`` gave. Raises ``ValueError``, ``TypeError`` and
    ``OverflowError`` for what it does not give."""
    pairs = zip(kinds, raws, strict=True)
    return tuple(from_raw(KINDS.get(kind, -1), int(raw)) for kind, raw in pairs)


def as_json(value: Any) -> bytes:
    """JSON for the guest's process."""
    return json.dumps(value).encode()


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
