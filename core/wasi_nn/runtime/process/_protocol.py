"""The protocol between the host and the process of one guest.

A message is ``{u32 kind, u32 length}`` and its bytes, little-endian.

The host sends PREPARE (a module), LINK (JSON) and CALL (JSON; see ``to_raws`` for its numbers). The
guest's process answers each with OK or FAILED (JSON).

Before that answer, the process may send HOST_CALL: ``{u32 function, u32 size of the memory, u32
whether there is one}``, then ``{u32 value, u32 length}`` for each argument, and then, for each
argument, the bytes that it points to. It waits for RETURN (i32) or TRAP. Before those, the host may
send READ ``{u32 pointer, u32 length}``, answered with DATA; WRITE ``{u32 pointer}`` and bytes,
which has no answer; and CALL. It may also send READ and WRITE between two CALLs.

A component's process gets INTERFACES (pickled) between PREPARE and LINK, and may get CHECK (empty)
in place of LINK. Its HOST_CALL is ``{u32 function}`` and the parameters, and the RETURN is the
result: see ``_values``. The functions are those of ``functions_of``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from struct import Struct, error
from typing import Any

from wasi_nn.runtime.values import from_raw, to_raw
from wasi_nn.wasm.arguments import KINDS

PREPARE, LINK, CALL, READ, WRITE, RETURN, TRAP, INTERFACES, CHECK = range(1, 10)
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
TO_GUEST = dict.fromkeys(range(PREPARE, CHECK + 1), _MAX_BYTES)
FROM_GUEST = {OK: _MAX_JSON, FAILED: _MAX_JSON, HOST_CALL: _MAX_CALL, DATA: 0}
#: The errors of reading nonsense, from a process that a guest has taken over.
GARBLED = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, error)


class Channel:
    """Messages over two descriptors. Raises ``EOFError`` when the other end is closed, and after an
    exception in the middle of a message, because the rest of it would be read as a message."""

    def __init__(self, reader: int, writer: int, kinds: Mapping[int, int]) -> None:
        """``kinds`` are the kinds of incoming messages, each with its largest size."""
        self._reader, self._writer = reader, writer
        self.kinds = kinds
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
        most = self.kinds.get(kind, -1)
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
