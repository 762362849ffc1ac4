"""The messages between the host and a worker.

A message is ``{u8 kind, u32 subject, u32 length}`` and its bytes, little-endian. The subject is the
number of a graph or a context. Descriptors come with a message's first byte.

On the control connection, the host sends STEPS (with the memory of ``steps``), CHANNEL (with a
socket), CANCEL and DROP. They have no answer. The worker ends when this connection closes.

On each channel, one side waits for the other. The host sends a request: LOAD, OPEN, SET, COMPUTE,
SINGLE, FINISH, GET, GET_SINGLE, COUNT, RESUME, CLOSE or STATISTICS. Before it answers with OK or
ERROR, the worker may send RESERVE (answered with OK or ERROR), LOG, OUTPUT and JOURNAL. An error is
JSON: the name of a class of ``wasi_nn.errors``, and a text. Everything that a worker sends may come
from a hostile model.
"""

from __future__ import annotations

import array
import json
import select
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from struct import Struct
from typing import Any

from wasi_nn._worker.patience import Patience
from wasi_nn.backend.shared import Stopped, never
from wasi_nn.types import Tensor, TensorType

STEPS, CHANNEL, CANCEL, DROP = range(4)
LOAD, OPEN, SET, COMPUTE, SINGLE, FINISH, GET, GET_SINGLE, COUNT, CLOSE = range(4, 14)
STATISTICS, RESUME = 14, 15
OK, ERROR, RESERVE, LOG, OUTPUT, JOURNAL = range(32, 38)
#: Requests to the process that workers are forked from.
FORK, STATUS = range(64, 66)

_HEAD = Struct("<BII")
U32, I64 = Struct("<I"), Struct("<q")
#: The beginning of a request about a context: the number of this call among those to the context.
#: When the host gives up on a call, the worker may read it after a later one.
TURN = Struct("<Q")
#: The fields of a ``backend.Generation``.
GENERATION = Struct("<7d")
#: A part of a request: the number of an input and the length of its bytes, which follow.
INPUT = Struct("<IQ")
#: The length that says that an input's bytes are in shared memory.
SHARED = (1 << 64) - 1
_OUTPUT = Struct("<IBBQ")
#: The type of an output that must be asked for again, with memory for its bytes.
_LATER = 255
#: Bytes of a tensor that a message carries itself: shared memory costs more than a copy.
INLINE = 4096
#: Bytes of a message that the host accepts: JSON takes up to 40 times as much when it is parsed.
#: Descriptions of graphs are the longest ones.
MAX_MESSAGE = 8 << 20
#: Bytes to read at once.
_AT_ONCE = 8192
_ANCILLARY = socket.CMSG_SPACE(2 * array.array("i").itemsize)
_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
_TIMEOUT = Struct("ll")
# How often a wait for the other side looks whether it must end.
_WAIT_MICROSECONDS = 50_000
_TYPES = tuple(TensorType)
_NUMBERS = {kind: number for number, kind in enumerate(_TYPES)}


class Interrupted(Exception):
    """A thread must not wait any longer for the other side."""


class Channel:
    """Messages over a connected socket. Used by one thread at a time.

    Raises ``EOFError`` when the other side is gone, ``ValueError`` for what is not a message, and
    ``Interrupted`` once ``stopped`` says so. After each of them, close it."""

    def __init__(
        self, connection: socket.socket, most: int = MAX_MESSAGE, endable: bool = False
    ) -> None:
        """``most`` is the length of the longest incoming message. Only a channel that is
        ``endable`` looks at ``stopped``."""
        self.socket = connection
        self._most = most
        #: What has arrived of the next messages.
        self._rest = b""
        self._patience = Patience()
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        self._ready = poll.poll
        if endable:
            # The kernel's own timeouts cost no system call for each message, as Python's do.
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                wait = _TIMEOUT.pack(0, _WAIT_MICROSECONDS)
                connection.setsockopt(socket.SOL_SOCKET, option, wait)

    def send(
        self,
        kind: int,
        subject: int = 0,
        body: bytes | memoryview = b"",
        fds: Sequence[int] = (),
        stopped: Stopped = never,
    ) -> None:
        """Send a message."""
        data = _HEAD.pack(kind, subject, len(body)) + body
        at = 0
        while at < len(data):
            rest = memoryview(data)[at:] if at else data
            try:
                if fds:
                    at += socket.send_fds(self.socket, [rest], fds)
                    # They went with the first byte.
                    fds = ()
                else:
                    at += self.socket.send(rest)
            except BlockingIOError:
                if stopped():
                    raise Interrupted from None
            except OSError as error:
                raise EOFError from error

    def receive(
        self, fds: list[int] | None = None, stopped: Stopped = never
    ) -> tuple[int, int, memoryview]:
        """The kind, subject and bytes of the next message. Descriptors are added to ``fds``;
        without it they are not accepted."""
        data = self._rest
        while len(data) < _HEAD.size:
            data += self._read(_AT_ONCE, fds, stopped)
        kind, subject, length = _HEAD.unpack_from(data)
        end = _HEAD.size + length
        if length > self._most:
            raise ValueError(f"a message has {length} bytes")
        if len(data) < end:
            parts, missing = [data], end - len(data)
            while missing:
                # It says how long it is, and may never come.
                parts.append(self._read(min(missing, _AT_ONCE), fds, stopped))
                missing -= len(parts[-1])
            data = b"".join(parts)
        self._rest = data[end:]
        return kind, subject, memoryview(data)[_HEAD.size : end]

    def _read(self, most: int, fds: list[int] | None, stopped: Stopped) -> bytes:
        # (A socket without a message costs three times as much to read as to poll.)
        self._patience.look(self._ready)
        while True:
            try:
                data = self.socket.recv(most) if fds is None else self._read_with_fds(most, fds)
            except BlockingIOError:
                if stopped():
                    raise Interrupted from None
                continue
            except OSError as error:
                raise EOFError from error
            if not data:
                raise EOFError
            return data

    def _read_with_fds(self, most: int, fds: list[int]) -> bytes:
        data, ancillary, _, _ = self.socket.recvmsg(most, _ANCILLARY, _CLOEXEC)
        for _, _, numbers in ancillary:
            found = array.array("i")
            found.frombytes(numbers[: len(numbers) - len(numbers) % found.itemsize])
            fds += found
        return data

    def give_up(self) -> None:
        """Accept no further message. The other side learns of it when it sends one."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RD)

    @property
    def left(self) -> bool:
        """Whether the other side has closed the connection."""
        poll = select.poll()
        # It always reports POLLHUP.
        poll.register(self.socket, 0)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Close the connection; a second call does nothing."""
        self.socket.close()

    # A signal's handler can raise where nobody else has the channel.
    __del__ = close


def as_json(value: Any) -> bytes:
    """JSON for the other side. Any text of Python's comes through, surrogates included."""
    return json.dumps(value).encode()


def from_json(body: memoryview) -> Any:
    """What ``as_json`` was given. Raises ``ValueError``."""
    try:
        return json.loads(bytes(body))
    except RecursionError as error:
        raise ValueError("JSON that is nested too deep") from error


class OutputMessage:
    """What the host is told of one output. ``memory``, if there is any, is for bytes that are too
    many for a message."""

    def __init__(self, number: int, memory: memoryview | None) -> None:
        self._number = number
        self._memory = memory
        #: The type, dimensions and size of the last output, and the bytes that describe it.
        self._last: tuple[TensorType | None, tuple[int, ...], int] = (None, (), 0)
        self._head = b""

    def pack(self, output: Tensor) -> bytes:
        """Describe an output, with its bytes if they are few; others go to the memory. If that is
        too small, the host learns the size."""
        kind, dims, data = output
        size = data.nbytes
        memory = self._memory
        room = 0 if memory is None else len(memory)
        if self._last != (kind, dims, size):
            known = _LATER if size > max(INLINE, room) else _NUMBERS[kind]
            head = _OUTPUT.pack(self._number, known, len(dims), size)
            self._head = head + _dims(len(dims)).pack(*dims)
            self._last = kind, dims, size
        if size <= INLINE:
            return self._head + data
        if memory is not None and size <= room:
            # A second copy: the library chooses where an output lies, often after it has computed.
            memory[:size] = data.cast("B")
        return self._head


def unpack_outputs(
    body: memoryview, memory: Callable[[int], memoryview | None]
) -> list[tuple[int, Tensor | int]]:
    """The outputs of ``pack_output``, by number. ``memory`` gives the shared memory of an output.
    An output that must be asked for again is the size that it needs. The others are views of
    ``body`` and of the memory. Raises what reading nonsense raises."""
    found: list[tuple[int, Tensor | int]] = []
    at, end = 0, len(body)
    while at < end:
        number, kind, rank, size = _OUTPUT.unpack_from(body, at)
        at += _OUTPUT.size
        sizes = _dims(rank)
        dims = sizes.unpack_from(body, at)
        at += sizes.size
        if kind == _LATER:
            found.append((number, size))
            continue
        if size <= INLINE:
            data = body[at : at + size]
            at += size
            if at > end:
                raise ValueError("the bytes of an output are cut off")
        else:
            shared = memory(number)
            if shared is None or size > len(shared):
                raise ValueError("an output is larger than its memory")
            data = shared[:size]
        found.append((number, Tensor(_TYPES[kind], dims, data)))
    return found


@lru_cache
def _dims(rank: int) -> Struct:
    return Struct(f"<{rank}Q")
