"""A guest whose WASI calls a test makes, one by one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from struct import unpack_from

from wasi_nn import Host
from wasi_nn.runtime import GuestMemory, HostFunction, Preopen, WasiConfig
from wasi_nn.wasm.wasi_signatures import SIGNATURES
from wasi_nn_conformance.engine_tests.common import Wat

__all__ = ["CREATE", "DIRECTORY", "EXCLUSIVE", "READ", "TRUNCATE", "WRITE", "WasiCalls"]

CREATE, DIRECTORY, EXCLUSIVE, TRUNCATE = 1, 2, 4, 8
#: The rights that wasi-libc asks for to write, and otherwise.
WRITE = 1 << 0 | 1 << 6 | 1 << 8 | 1 << 22
READ = ((1 << 28) - 1) & ~WRITE
_ROOM = 1 << 16
# Where results are written; texts come after them.
_RESULT, _TEXTS = 0, 4096


class WasiCalls:
    """A guest with a directory. ``call`` makes one WASI call of it."""

    def __init__(
        self, host: Host, wat: Wat, preopen: Preopen, module: str = "wasi_snapshot_preview1"
    ) -> None:
        self._pending = b""
        self._memory = b""
        names = [name for name in SIGNATURES if name.startswith(("fd_", "path_", "poll_"))]
        extra = [
            HostFunction("test", "put", 1, False, self._put),
            HostFunction("test", "get", 1, False, self._get),
        ]
        self._guest = host.compile(wat(_module(module, names))).instantiate(
            wasi=WasiConfig(preopens=[preopen]), extra=extra
        )
        #: The directory's descriptor. (wasmer has a directory of its own before it.)
        self.top = 3
        while self.call("fd_prestat_get", self.top + 1, _RESULT) == 0:
            self.top += 1
        assert self.call("fd_fdstat_get", self.top, _RESULT) == 0
        self._most_rights = int.from_bytes(self.result(24)[16:], "little")

    def close(self) -> None:
        """End the guest."""
        self._guest.close()

    def call(self, name: str, *arguments: int | str | bytes) -> int:
        """The errno of a call. A text is passed as a pointer and a length."""
        at, texts, numbers = _TEXTS, b"", list[int]()
        for argument in arguments:
            if isinstance(argument, int):
                numbers.append(argument)
                continue
            text = argument.encode() if isinstance(argument, str) else argument
            numbers += (at, len(text))
            texts += text
            at += len(text)
        if texts:
            self.put(_TEXTS, texts)
        (errno,) = self._guest.call(name, *numbers)
        return int(errno)

    def put(self, at: int, data: bytes) -> None:
        """Write to the guest's memory, which has 64 KiB."""
        self._pending = data
        self._guest.call("put", at)

    def result(self, size: int = 4) -> bytes:
        """The bytes at the address of results, which is 0."""
        self._guest.call("get", _RESULT)
        return self._memory[:size]

    def number(self, size: int = 4) -> int:
        """The result as an unsigned integer."""
        return int.from_bytes(self.result(size), "little")

    def open(
        self,
        path: str,
        flags: int = 0,
        rights: int = READ,
        *,
        at: int | None = None,
        follow: bool = True,
        fd_flags: int = 0,
    ) -> tuple[int, int]:
        """The errno, and the descriptor."""
        at = self.top if at is None else at
        rights &= self._most_rights
        errno = self.call(
            "path_open", at, int(follow), path, flags, rights, rights, fd_flags, _RESULT
        )
        return errno, 0 if errno else self.number()

    def read(self, fd: int, size: int = 4096, offset: int | None = None) -> tuple[int, bytes]:
        """The errno, and up to ``size`` bytes of a file."""
        vector = (8192).to_bytes(4, "little") + size.to_bytes(4, "little")
        where = () if offset is None else (offset,)
        name = "fd_read" if offset is None else "fd_pread"
        errno = self._vectored(name, fd, vector, *where)
        if errno:
            return errno, b""
        data = self.result(8192 + size)
        return 0, data[8192 : 8192 + int.from_bytes(data[:4], "little")]

    def write(self, fd: int, data: bytes, offset: int | None = None) -> tuple[int, int]:
        """The errno, and the number of bytes that were written."""
        vector = (_TEXTS + 8).to_bytes(4, "little") + len(data).to_bytes(4, "little") + data
        where = () if offset is None else (offset,)
        errno = self._vectored("fd_write" if offset is None else "fd_pwrite", fd, vector, *where)
        return errno, 0 if errno else self.number()

    def names(self, fd: int, size: int = 4096) -> tuple[int, list[str]]:
        """The errno, and the sorted names in a directory."""
        found, cookie = list[str](), 0
        while True:
            errno = self.call("fd_readdir", fd, 8192, size, cookie, _RESULT)
            if errno:
                return errno, []
            data = self.result(8192 + size)
            end, at = 8192 + int.from_bytes(data[:4], "little"), 8192
            while at + 24 <= end:
                following, _, length, _ = unpack_from("<QQII", data, at)
                at += 24 + length
                if at > end:
                    break
                found.append(data[at - length : at].decode())
                cookie = following
            if end < 8192 + size:
                return 0, sorted(found)

    def _vectored(self, name: str, fd: int, vector: bytes, *where: int) -> int:
        # One vector, whose address replaces the pointer and the length of a text.
        self.put(_TEXTS, vector)
        (errno,) = self._guest.call(name, fd, _TEXTS, 1, *where, _RESULT)
        return int(errno)

    def _put(self, memory: GuestMemory, at: int) -> None:
        memory.write(at, self._pending)

    def _get(self, memory: GuestMemory, at: int) -> None:
        self._memory = bytes(memory.read(at, _ROOM - at))


def _module(module: str, names: Sequence[str]) -> str:
    imports, functions = "", ""
    for name in names:
        kinds = SIGNATURES[name].parameters
        parameters = " ".join(kinds)
        imports += (
            f'(import "{module}" "{name}" (func ${name} (param {parameters}) (result i32)))\n'
        )
        passed = "".join(f"(local.get {number})" for number in range(len(kinds)))
        functions += (
            f"(func (export {json.dumps(name)}) (param {parameters}) (result i32) "
            f"(call ${name} {passed}))\n"
        )
    return f"""(module {imports}
        (import "test" "put" (func $put (param i32))) (import "test" "get" (func $get (param i32)))
        (memory (export "memory") {_ROOM >> 16}) {functions}
        (func (export "put") (param i32) (call $put (local.get 0)))
        (func (export "get") (param i32) (call $get (local.get 0))))"""
