"""The messages between the host and a worker.

A message is ``{u8 kind, u32 subject, u32 length}`` and its bytes, little-endian. The subject is the
number of a graph or a context. Descriptors come with a message's first byte.

On the control connection, the host sends CHANNEL (with a socket), CANCEL and DROP. They have no
answer. The worker ends when this connection closes.

On each channel, one side waits for the other. The host sends a request: LOAD, OPEN, SET, COMPUTE,
SINGLE, FINISH, GET, GET_SINGLE, COUNT or CLOSE. Before it answers with OK or ERROR, the worker may
send RESERVE (answered with OK or ERROR), LOG and OUTPUT. An error is JSON: the name of a class of
``wasi_nn.errors``, and a text. Everything that a worker sends may come from a hostile model.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any

from wasi_nn.types import Tensor, TensorType

CHANNEL, CANCEL, DROP = range(1, 4)
LOAD, OPEN, SET, COMPUTE, SINGLE, FINISH, GET, GET_SINGLE, COUNT, CLOSE = range(4, 14)
OK, ERROR, RESERVE, LOG, OUTPUT = range(32, 37)
#: Requests to the process that workers are forked from.
FORK, STATUS = range(64, 66)

_HEAD = Struct("<BII")
U32, I64 = Struct("<I"), Struct("<q")
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
#: Bytes of a message that the host accepts. Descriptions of graphs are the longest ones.
MAX_MESSAGE = 64 << 20
MAX_FDS = 32
_TYPES = tuple(TensorType)
_NUMBERS = {kind: number for number, kind in enumerate(_TYPES)}


class Channel:
    """Messages over a connected socket. Used by one thread at a time.

    Raises ``EOFError`` when the other side is gone, and ``ValueError`` for what is not a
    message."""

    def __init__(self, connection: socket.socket, most: int = MAX_MESSAGE) -> None:
        """``most`` is the length of the longest incoming message."""
        self.socket = connection
        self._most = most
        self._buffer = memoryview(bytearray(8192))
        self._start = self._end = 0

    def send(
        self, kind: int, subject: int = 0, body: bytes | memoryview = b"", fds: Sequence[int] = ()
    ) -> None:
        """Send a message."""
        data = b"".join((_HEAD.pack(kind, subject, len(body)), body))
        try:
            sent = socket.send_fds(self.socket, [data], fds) if fds else self.socket.send(data)
            if sent < len(data):
                self.socket.sendall(memoryview(data)[sent:])
        except OSError as error:
            raise EOFError from error

    def receive(self, fds: list[int] | None = None) -> tuple[int, int, memoryview]:
        """The kind, subject and bytes of the next message. The bytes are valid until the next
        call. Descriptors are added to ``fds``; without it they are not accepted."""
        while self._end - self._start < _HEAD.size:
            self._fill(fds)
        kind, subject, length = _HEAD.unpack_from(self._buffer, self._start)
        start = self._start + _HEAD.size
        have = self._end - start
        if have >= length:
            self._start = start + length
            return kind, subject, self._buffer[start : start + length]
        if length > self._most:
            raise ValueError(f"a message has {length} bytes")
        body = memoryview(bytearray(length))
        body[:have] = self._buffer[start : self._end]
        self._start = self._end = 0
        while have < length:
            have += self._read(body[have:], fds)
        return kind, subject, body

    def has_message(self) -> bool:
        """Whether the next message has begun to arrive."""
        return self._end > self._start

    def _fill(self, fds: list[int] | None) -> None:
        if self._start:
            left = self._end - self._start
            self._buffer[:left] = bytes(self._buffer[self._start : self._end])
            self._start, self._end = 0, left
        self._end += self._read(self._buffer[self._end :], fds)

    def _read(self, into: memoryview, fds: list[int] | None) -> int:
        try:
            if fds is None:
                count = self.socket.recv_into(into)
            else:
                data, found, _, _ = socket.recv_fds(self.socket, len(into), MAX_FDS)
                count = len(data)
                into[:count] = data
                fds += found
        except OSError as error:
            raise EOFError from error
        if not count:
            raise EOFError
        return count

    def close(self) -> None:
        """Close the connection; a second call does nothing."""
        self.socket.close()


def as_json(value: Any) -> bytes:
    """JSON for the other side. Any text of Python's comes through, surrogates included."""
    return json.dumps(value).encode()


def from_json(body: memoryview) -> Any:
    """What ``as_json`` was given. Raises ``ValueError``."""
    try:
        return json.loads(bytes(body))
    except RecursionError as error:
        raise ValueError("JSON that is nested too deep") from error


def pack_output(number: int, output: Tensor, room: int) -> tuple[bytes, bool]:
    """An output's description, and whether its bytes belong into shared memory: they are too many
    for a message, and ``room`` is enough for them."""
    size = output.data.nbytes
    shared = INLINE < size <= room
    kind = _NUMBERS[output.type] if shared or size <= INLINE else _LATER
    head = _OUTPUT.pack(number, kind, len(output.dims), size)
    dims = Struct(f"<{len(output.dims)}Q").pack(*output.dims)
    inline = bytes(output.data) if size <= INLINE else b""
    return head + dims + inline, shared


def unpack_outputs(
    body: memoryview, memory: Callable[[int], memoryview | None]
) -> list[tuple[int, Tensor | int]]:
    """The outputs of ``pack_output``, by number. ``memory`` gives the shared memory of an output.
    An output that must be asked for again is the size that it needs. Raises ``ValueError``."""
    found: list[tuple[int, Tensor | int]] = []
    at = 0
    while at < len(body):
        if len(body) - at < _OUTPUT.size:
            raise ValueError("an output is cut off")
        number, kind, rank, size = _OUTPUT.unpack_from(body, at)
        at += _OUTPUT.size
        if len(body) - at < 8 * rank:
            raise ValueError("the dimensions of an output are cut off")
        dims = Struct(f"<{rank}Q").unpack_from(body, at)
        at += 8 * rank
        if kind == _LATER:
            found.append((number, size))
            continue
        if kind >= len(_TYPES):
            raise ValueError(f"there is no tensor type {kind}")
        if size <= INLINE:
            data = memoryview(bytes(body[at : at + size]))
            at += size
        else:
            shared = memory(number)
            if shared is None or size > len(shared):
                raise ValueError("an output is larger than its memory")
            data = shared[:size]
        if len(data) != size:
            raise ValueError("the bytes of an output are cut off")
        found.append((number, Tensor(_TYPES[kind], dims, data)))
    return found
