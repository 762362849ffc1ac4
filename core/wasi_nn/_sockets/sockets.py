"""The sockets of one guest, and the functions of WASI that see them as descriptors.

Each engine keeps its own WASI for files. Where a function takes a descriptor, ours comes first. If
the descriptor is not a socket, it returns ``PASS_ON``, and the engine's own function is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from struct import Struct
from typing import Any

from wasi_nn._abi.guard import Observer
from wasi_nn._sockets import errnos
from wasi_nn._sockets.addresses import INET4, INET6
from wasi_nn._sockets.calls import Calls, gather, read_vectors, scatter
from wasi_nn._sockets.endpoint import DATAGRAM, STREAM, Endpoint
from wasi_nn._sockets.errnos import WasiError, of_error
from wasi_nn._sockets.rights import Rights
from wasi_nn._sockets.table import FIRST, STREAMS, Table
from wasi_nn.errors import InvalidArgument, UsageError
from wasi_nn.policy import Policy
from wasi_nn.runtime import PASS_ON, GuestMemory, HostFunction, Instance, WasiConfig
from wasi_nn.runtime.engine import BESIDE_SOCKETS, WASI_MODULES
from wasi_nn.runtime.pause import Pause
from wasi_nn.runtime.wasi_polls import AtOnce, Polls, Source, of_stdin, subscribed
from wasi_nn.wasm.module import Import

#: Every function of sockets starts so. WasmEdge has another name for its version 2 of most.
PREFIX, _VERSION_2 = "sock_", "_v2"
_U32 = Struct("<I")
_STATUS = Struct("<BxHxxxxQQ")
_FILE_STATUS = Struct("<QQBxxxxxxxQQQQQ")
_TYPES = {DATAGRAM: 5, STREAM: 6}
_NONBLOCK, _APPEND, _ALL_FLAGS = 4, 1, 0x1F
# What a guest may do with a socket: read and write, set flags, poll, and WasmEdge's rights.
_RIGHTS = 1 << 1 | 1 << 3 | 1 << 6 | 1 << 27 | 0x1FF << 28


class Sockets:
    """The sockets. ``functions`` gives what the guest imports of them; ``stop`` ends its waits."""

    def __init__(self, policy: Policy, observer: Observer) -> None:
        self.pause = Pause()
        self._table = Table()
        self._rights = Rights(policy, observer, self.pause)
        self._observer = observer
        self._calls = Calls(self._table, self._rights, self.pause)
        self._polls = Polls(self._source, self.pause)
        self._other = of_stdin(None)
        self._opens_none = False

    def functions(self, imports: Iterable[Import]) -> list[HostFunction]:
        """Those that a module imports, of sockets and of the descriptors beside them."""
        served = self._calls.functions()
        versions: dict[str, list[int]] = {}
        for name, count in served:
            versions.setdefault(name, []).append(count)
        beside: dict[str, Callable[..., int]] = {
            "fd_close": self._close,
            "fd_fdstat_get": self._on_socket(_status),
            "fd_fdstat_set_flags": self._on_socket(_set_flags),
            "fd_filestat_get": self._file_status,
            "fd_read": self._on_socket(_read),
            "fd_renumber": self._renumber,
            "fd_write": self._on_socket(_write),
            "poll_oneoff": self._poll,
        }
        made = []
        imports = [*imports]
        names = {item.name for item in imports if item.module in WASI_MODULES}
        opens = "sock_open" in names or "sock_open_v2" in names
        self._opens_none = "sock_accept" in names and not opens
        for item in imports:
            if item.module not in WASI_MODULES:
                continue
            if item.name in BESIDE_SOCKETS:
                count = BESIDE_SOCKETS[item.name]
                made.append(self._function(item, count, beside[item.name]))
                continue
            name = item.name.removeprefix(PREFIX).removesuffix(_VERSION_2)
            if item.name.startswith(PREFIX) and name in versions:
                wanted = 0 if item.signature is None else len(item.signature.parameters)
                # (Without such a version, the guest is told of the newest one.)
                count = wanted if wanted in versions[name] else versions[name][-1]
                made.append(self._function(item, count, _none(served[name, count])))
        return made

    def begin(self, instance: Instance, wasi: WasiConfig) -> None:
        """The guest's instance is there, and runs soon. Raises ``UsageError`` for an address that
        the system does not give."""
        self._polls.clock_start = instance.clock_start
        self._other = of_stdin(wasi.stdin)
        if self._opens_none:
            self._open_listeners(None if wasi.preopens else STREAMS)

    def stop(self) -> None:
        """End the guest's wait, from another thread, and all later ones."""
        self.pause.stop()

    def close(self) -> None:
        """Close the sockets of a guest that has ended."""
        self._table.close_all()
        # (An engine may keep the functions until Python's collector finds them.)
        self.pause.close()

    def _open_listeners(self, first: int | None) -> None:
        """Give sockets that listen to a guest that can open none, from ``first`` on."""
        for number, (address, port) in enumerate(self._rights.listeners()):
            family = INET4 if address.version == 4 else INET6
            try:
                endpoint = Endpoint.opened(family, STREAM, self.pause)
                self._table.add(endpoint, None if first is None else first + number)
                endpoint.bind((str(address), port))
                endpoint.listen(128)
            except OSError as error:
                self.close()
                raise UsageError(f"cannot listen at {address}, port {port}: {error}") from error

    def _function(self, item: Import, count: int, call: Callable[..., int]) -> HostFunction:
        def guarded(memory: GuestMemory | None, *arguments: int) -> int:
            if memory is None:
                return errnos.FAULT
            try:
                return call(memory, *arguments)
            except WasiError as error:
                return error.number
            except InvalidArgument:
                return errnos.FAULT
            except OSError as error:
                return of_error(error)

        def says(errno: int, memory: GuestMemory | None, *arguments: int) -> str:
            return f"{item.name}({', '.join(map(str, arguments))}) -> {errno}"

        if item.name.startswith(PREFIX):
            guarded = self._observer.watch(item.name, guarded, says)
        return HostFunction(item.module, item.name, count, True, guarded)

    def _source(self, descriptor: int, reads: bool) -> Source:
        found = self._table.find(descriptor)
        if found is None and descriptor >= FIRST:
            return AtOnce(errnos.BADF)
        return self._other(descriptor, reads) if found is None else found

    def _poll(
        self, memory: GuestMemory, subscriptions: int, events: int, count: int, out: int
    ) -> int:
        if count == 0:
            # (WasmEdge waits forever, or returns.)
            return errnos.INVAL
        descriptors = subscribed(memory, subscriptions, count)
        if not any(each >= FIRST or each in self._table for each in descriptors):
            return PASS_ON
        return self._polls.poll_oneoff(memory, subscriptions, events, count, out)

    def _close(self, memory: GuestMemory, descriptor: int) -> int:
        if descriptor not in self._table:
            return PASS_ON
        self._table.close(descriptor)
        # What the guest had under this number before is closed with it.
        return PASS_ON if descriptor < STREAMS else 0

    def _renumber(self, memory: GuestMemory, source: int, target: int) -> int:
        if source not in self._table and target not in self._table:
            return PASS_ON
        self._table.renumber(source, target)
        return 0

    def _file_status(self, memory: GuestMemory, descriptor: int, out: int) -> int:
        endpoint = self._table.find(descriptor)
        if endpoint is None:
            return PASS_ON
        kind = _TYPES[endpoint.kind]
        memory.write(out, _FILE_STATUS.pack(0, descriptor, kind, 1, 0, 0, 0, 0))
        return 0

    def _on_socket(self, call: Callable[..., None]) -> Callable[..., int]:
        """A function of WASI that ``call`` serves for a socket, and the engine for the rest."""

        def called(memory: GuestMemory, descriptor: int, *arguments: int) -> int:
            endpoint = self._table.find(descriptor)
            if endpoint is None:
                return PASS_ON
            call(memory, endpoint, *arguments)
            return 0

        return called


def _read(memory: GuestMemory, endpoint: Endpoint, vectors: int, count: int, out: int) -> None:
    memory.check(out, _U32.size)
    pieces = read_vectors(memory, vectors, count)
    data, _, _ = endpoint.receive(sum(length for _, length in pieces), 0, False)
    scatter(memory, pieces, data)
    memory.write(out, _U32.pack(len(data)))


def _write(memory: GuestMemory, endpoint: Endpoint, vectors: int, count: int, out: int) -> None:
    memory.check(out, _U32.size)
    data = gather(memory, read_vectors(memory, vectors, count))
    memory.write(out, _U32.pack(endpoint.send(data)))


def _status(memory: GuestMemory, endpoint: Endpoint, out: int) -> None:
    flags = _NONBLOCK if endpoint.nonblocking else 0
    memory.write(out, _STATUS.pack(_TYPES[endpoint.kind], flags, _RIGHTS, _RIGHTS))


def _set_flags(memory: GuestMemory, endpoint: Endpoint, flags: int) -> None:
    if flags & ~_ALL_FLAGS:
        raise WasiError(errnos.INVAL)
    if flags & ~(_NONBLOCK | _APPEND):
        raise WasiError(errnos.NOTCAPABLE)
    endpoint.nonblocking = bool(flags & _NONBLOCK)


def _none(call: Callable[..., object]) -> Callable[..., int]:
    """A function that returns the errno of success."""

    def called(*arguments: Any) -> int:
        call(*arguments)
        return 0

    return called
