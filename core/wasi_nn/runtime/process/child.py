"""The process of one guest, and the messages to it and from it.

A message is ``{u32 kind, u32 length}`` and its bytes, little-endian. The host says PREPARE (a
module), LINK (JSON) and CALL (JSON), each answered by OK or FAILED (JSON). While one is under way
the guest may ask for HOST_CALL: ``{u32 function, u32 size of the memory, u32 whether there is
one}``, for each argument ``{u32 value, u32 length}``, and then for each argument the bytes that lie
there. It waits for RETURN (i32) or TRAP; before that the host may READ ``{u32 pointer, u32
length}``, answered by DATA, WRITE ``{u32 pointer}`` and bytes, which has no answer, and CALL.
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
#: How many bytes at each argument go along with a call: most structures need no question.
PEEK = 64
# A guest's memory has 4 GiB at most, and a function 1,000 parameters.
_MOST = (1 << 32) + 64
_MOST_CALL = CALL_HEAD.size + 1000 * (PAIR.size + PEEK)
_MOST_JSON = 16 << 20
#: The kinds of messages, each with the most bytes that it may have; 0 is for what was asked for.
TO_GUEST = dict.fromkeys(range(PREPARE, TRAP + 1), _MOST)
FROM_GUEST = {OK: _MOST_JSON, FAILED: _MOST_JSON, HOST_CALL: _MOST_CALL, DATA: 0}
#: What comes of reading what a process says that is no longer ours.
GARBLED = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, error)
_PIPE_BYTES = 1 << 20
# Seconds that a process has to end by itself when it says no more.
_LEAVING = 5


class ProcessEnded(GuestTrap):
    """The guest's process is gone."""


class Channel:
    """Two descriptors that messages go through. Raises ``EOFError`` when nobody is at the other
    end, and after an exception in the middle of a message: what is left of that one is no
    message."""

    def __init__(self, reader: int, writer: int, kinds: Mapping[int, int]) -> None:
        """``kinds`` are those of the messages that come, each with the most bytes that it has."""
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
        """The next message; DATA of that many bytes was asked for. Raises ``ValueError`` for one
        that is none."""
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
    """The process of a guest. Used by one thread at a time, but for ``kill``."""

    def __init__(
        self,
        command: Sequence[str],
        streams: Sequence[int],
        adopts: bool,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """``command`` gets the descriptors to read from and to write to as further arguments.
        ``streams`` are the guest's standard ones (without them it has none): the process's own
        where it ``adopts`` them, further arguments otherwise."""
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
        """This is a child process now, and the guest's process is the parent's, which alone may
        hold the pipes: they end the guest's process with it."""
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
        """The next message; DATA of that many bytes was asked for. Raises ``ProcessEnded`` when the
        process is gone or talks nonsense."""
        try:
            return self._channel.receive(data)
        except EOFError:
            raise self._ended() from None
        except ValueError:
            raise self.nonsense() from None

    @contextlib.contextmanager
    def in_step(self) -> Iterator[None]:
        """End the process when an exception comes between a message and its answer: the next one
        would be answered by what this one has left behind."""
        try:
            yield
        except (WasiNnError, GuestExit):
            raise
        except BaseException:
            self.kill()
            raise

    def nonsense(self) -> ProcessEnded:
        """End a process that says what it should not."""
        self.kill()
        return ProcessEnded("the guest's process does not keep to its protocol")

    def kill(self) -> None:
        """End the process at once. Callable from any thread."""
        with self._lock:
            if not self._gone:
                self._process.kill()

    def close(self) -> None:
        """End the process and free what it had. Can come more than once."""
        with self._lock:
            if self._gone:
                return
            self._gone = True
            self._process.kill()
        self._process.wait()
        _close(self._ends)

    def _ended(self) -> ProcessEnded:
        try:
            self._process.wait(_LEAVING)
        except subprocess.TimeoutExpired:
            # It has closed its ends, and lives on.
            self.kill()
            self._process.wait()
        return ProcessEnded(f"the guest's process ended with {self._process.returncode}")


class RemoteMemory:
    """The guest's memory during one host call: what came along, and what has to be asked for.
    Writes are kept until the guest goes on, or is asked."""

    __slots__ = ("_child", "_peeks", "_writes", "size")

    def __init__(self, child: Child, size: int, peeks: list[tuple[int, memoryview]]) -> None:
        self._child = child
        self._peeks = peeks
        self._writes: list[tuple[int, bytes | memoryview]] = []
        self.size = size

    def follow(self, size: int) -> None:
        """The guest ran within the host call: its memory may be larger, and other bytes in it."""
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
        # What came along may be what is written over.
        self._peeks = []
        # Another copy, since the library's buffer may be another's when it is sent.
        self._writes.append((pointer, bytes(data)))

    def flush(self) -> None:
        """Bring what was written to the guest."""
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
    """A pipe's ends, none of them where a process has its standard streams: this one may have
    closed its own."""
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
    """Have the system end a process when this one is gone, however it went: a guest that computes
    would do so for ever. ``lifeline`` is the end to read from, open there, of a pipe that is only
    written to here; the signal of its close is SIGIO, which nobody waits for."""
    import fcntl

    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, process)
        flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)


def _widen(pipe: int) -> None:
    # A tensor goes through in pieces of the pipe's size (Linux: 64 KiB unless asked for more).
    import fcntl

    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
