"""The process of one guest, and the messages to it and from it.

A message is ``{u32 kind, u32 length}`` and its bytes, little-endian. The host says PREPARE (a
module), LINK (JSON) and CALL (JSON), each answered by OK or FAILED (JSON). While one is under way
the guest may ask for HOST_CALL: ``{u32 function, u32 size of the memory, u32 whether there is
one}``, for each argument ``{u32 value, u32 length}``, and then for each argument the bytes that lie
there. It waits for RETURN (i32) or TRAP; before that the host may READ ``{u32 pointer, u32
length}``, answered by DATA, and WRITE ``{u32 pointer}`` and bytes, which has no answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Sequence
from importlib.resources import as_file, files
from struct import Struct
from typing import Any

from wasi_nn.errors import GuestTrap, InvalidArgument

PREPARE, LINK, CALL, READ, WRITE, RETURN, TRAP = range(1, 8)
OK, FAILED, HOST_CALL, DATA = range(1, 5)
_HEAD, _U32, _PAIR = Struct("<II"), Struct("<I"), Struct("<II")
CALL_HEAD = Struct("<III")
# A guest's memory has 4 GiB at most.
_MOST = (1 << 32) + 64
_PIPE_BYTES = 1 << 20


class Child:
    """A Node.js process. Used by one thread at a time, but for ``kill``."""

    def __init__(self, node: str, streams: Sequence[int] = ()) -> None:
        """``streams`` are the guest's standard descriptors; without them it has none."""
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        self._in, self._out = ours_in, ours_out
        self._lock = threading.Lock()
        self._gone = False
        for end in (ours_in, ours_out):
            _widen(end)
        theirs = (theirs_in, theirs_out, *streams)
        try:
            with as_file(files("wasi_nn_v8").joinpath("guest.cjs")) as script:
                self._process = subprocess.Popen(
                    [node, "--no-warnings", str(script), *map(str, theirs)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=theirs,
                )
        except OSError as error:
            os.close(ours_in)
            os.close(ours_out)
            raise GuestTrap(f"{node} does not start: {error}") from error
        finally:
            os.close(theirs_in)
            os.close(theirs_out)

    def send(self, kind: int, *parts: bytes | memoryview) -> None:
        """Send a message. Raises ``GuestTrap`` when the process is gone."""
        left: list[bytes | memoryview] = [
            _HEAD.pack(kind, sum(len(part) for part in parts)),
            *(part for part in parts if len(part)),
        ]
        try:
            while left:
                wrote = os.writev(self._out, left[:64])
                while left and wrote >= len(left[0]):
                    wrote -= len(left.pop(0))
                if wrote:
                    left[0] = memoryview(left[0])[wrote:]
        except OSError:
            raise self._ended() from None

    def receive(self) -> tuple[int, memoryview]:
        """The next message. Raises ``GuestTrap`` when the process is gone or talks nonsense."""
        kind, length = _HEAD.unpack(self._read(_HEAD.size))
        if kind not in (OK, FAILED, HOST_CALL, DATA) or length > _MOST:
            self.kill()
            raise GuestTrap("the guest's process does not keep to its protocol")
        return kind, self._read(length)

    def _read(self, length: int) -> memoryview:
        data = memoryview(bytearray(length))
        done = 0
        while done < length:
            try:
                got = os.readv(self._in, [data[done:]])
            except OSError:
                got = 0
            if not got:
                raise self._ended()
            done += got
        return data

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
        os.close(self._in)
        os.close(self._out)

    def _ended(self) -> GuestTrap:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        return GuestTrap(f"the guest's process ended with {self._process.returncode}")


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
            raise InvalidArgument(
                f"{length} bytes at 0x{pointer:x} are outside the guest's memory of {self.size} "
                "bytes"
            )

    def read(self, pointer: int, length: int) -> memoryview:
        self.check(pointer, length)
        if not length:
            return memoryview(b"")
        for at, data in self._peeks:
            if at <= pointer and pointer + length <= at + len(data):
                return data[pointer - at : pointer - at + length]
        self.flush()
        self._child.send(READ, _PAIR.pack(pointer, length))
        kind, data = self._child.receive()
        if kind != DATA or len(data) != length:
            self._child.kill()
            raise GuestTrap("the guest's process does not keep to its protocol")
        return data

    def write(self, pointer: int, data: memoryview | bytes) -> None:
        self.check(pointer, len(data))
        # What came along may be what is written over.
        self._peeks = []
        self._writes.append((pointer, bytes(data)))

    def flush(self) -> None:
        """Bring what was written to the guest."""
        for pointer, data in self._writes:
            self._child.send(WRITE, _U32.pack(pointer), data)
        self._writes.clear()


def as_json(value: Any) -> bytes:
    """JSON for the guest's process."""
    return json.dumps(value).encode()


def _widen(pipe: int) -> None:
    # A tensor goes through in pieces of the pipe's size (Linux: 64 KiB unless asked for more).
    import fcntl

    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
