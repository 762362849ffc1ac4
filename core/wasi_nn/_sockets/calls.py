"""WasmEdge's socket functions, in both of its versions, and those of WASI preview 1."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from struct import Struct

from wasi_nn._policy.network import Address
from wasi_nn._sockets import errnos, names, options
from wasi_nn._sockets.addresses import (
    INET4,
    INET6,
    LARGE,
    aligned,
    buffer_of,
    for_system,
    of_system,
    read_address,
    write_address,
)
from wasi_nn._sockets.endpoint import DATAGRAM, MOST_AT_ONCE, STREAM, Endpoint
from wasi_nn._sockets.errnos import WasiError
from wasi_nn._sockets.rights import Rights
from wasi_nn._sockets.table import Table
from wasi_nn.runtime import GuestMemory
from wasi_nn.runtime.pause import Pause

_U16, _U32, _PAIR = Struct("<H"), Struct("<I"), Struct("<II")
_MOST_VECTORS = 1024
_NONBLOCK, _ALL_FLAGS = 4, 0x1F
_PEEK, _WAITALL = 1, 2
_TRUNCATED = 1
_HOW = {1: socket.SHUT_RD, 2: socket.SHUT_WR, 3: socket.SHUT_RDWR}
_LOW = 0xFFFF
_UNIX = 3


class Calls:
    """The functions for one guest. What they raise (``WasiError``, ``OSError``,
    ``InvalidArgument``) becomes an errno. Pointers come first, then values, then the descriptor."""

    def __init__(self, table: Table, rights: Rights, pause: Pause) -> None:
        self._table = table
        self._rights = rights
        self._pause = pause

    def functions(self) -> dict[tuple[str, int], Callable[..., object]]:
        """By name and number of parameters: a guest's import says which version it means."""
        return {
            ("accept", 2): self.accept_1,
            ("accept", 3): self.accept,
            ("getlocaladdr", 4): partial(self._name_1, Endpoint.local),
            ("getlocaladdr", 3): partial(self._name, Endpoint.local),
            ("getpeeraddr", 4): partial(self._name_1, Endpoint.peer),
            ("getpeeraddr", 3): partial(self._name, Endpoint.peer),
            ("recv_from", 7): self.receive_from_1,
            ("recv_from", 8): self.receive_from,
            ("open", 3): self.open,
            ("bind", 3): self.bind,
            ("listen", 2): self.listen,
            ("connect", 3): self.connect,
            ("recv", 6): self.receive,
            ("send", 5): self.send,
            ("send_to", 7): self.send_to,
            ("shutdown", 2): self.shutdown,
            ("getsockopt", 5): self.get_option,
            ("setsockopt", 5): self.set_option,
            ("getaddrinfo", 8): partial(names.resolve, self._rights),
        }

    def open(self, memory: GuestMemory, family: int, kind: int, out: int) -> None:
        memory.check(aligned(out), 4)
        family, kind = family & 0xFF, kind & 0xFF
        if family == _UNIX:
            raise WasiError(errnos.NOSYS)
        if family not in (INET4, INET6) or kind not in (DATAGRAM, STREAM):
            raise WasiError(errnos.INVAL)
        self._rights.check_count(len(self._table))
        made = Endpoint.opened(family, kind, self._pause)
        memory.write(out, _U32.pack(self._table.add(made)))

    def bind(self, memory: GuestMemory, descriptor: int, pointer: int, port: int) -> None:
        address = read_address(memory, pointer)
        endpoint = self._table.socket(descriptor)
        port &= _LOW
        place = self._rights.bound(address, port, endpoint.kind == DATAGRAM)
        endpoint.bind(for_system(place, port, endpoint.family))

    def listen(self, memory: GuestMemory, descriptor: int, backlog: int) -> None:
        endpoint = self._table.socket(descriptor)
        address, port = endpoint.local()
        if not port:
            # The system would bind it.
            endpoint.bind(for_system(self._rights.bound(address, 0, False), 0, endpoint.family))
        endpoint.listen(min(backlog, _LOW))

    def accept_1(self, memory: GuestMemory, descriptor: int, out: int) -> None:
        self.accept(memory, descriptor, 0, out)

    def accept(self, memory: GuestMemory, descriptor: int, flags: int, out: int) -> None:
        memory.check(aligned(out), 4)
        flags &= _LOW
        if flags & ~_ALL_FLAGS:
            raise WasiError(errnos.INVAL)
        endpoint = self._table.socket(descriptor)
        self._rights.check_count(len(self._table))
        accepted = endpoint.accept(bool(flags & _NONBLOCK))
        memory.write(out, _U32.pack(self._table.add(accepted)))

    def connect(self, memory: GuestMemory, descriptor: int, pointer: int, port: int) -> None:
        address = read_address(memory, pointer)
        endpoint = self._table.socket(descriptor)
        port &= _LOW
        self._rights.check_connect(address, port)
        endpoint.connect(for_system(address, port, endpoint.family))

    def receive_from_1(
        self, memory: GuestMemory, descriptor: int, vectors: int, count: int, *rest: int
    ) -> None:
        pointer, flags, *outs = rest
        at, length = buffer_of(memory, pointer)
        name = self.receive(memory, descriptor, vectors, count, flags, *outs)
        # (WasmEdge's version 1 takes a buffer of any length, and writes what fits.)
        if (found := of_system(name)) and length >= len(found[0].packed):
            memory.write(at, found[0].packed)

    def receive_from(
        self, memory: GuestMemory, descriptor: int, vectors: int, count: int, *rest: int
    ) -> None:
        pointer, flags, port_out, *outs = rest
        at, length = buffer_of(memory, pointer)
        memory.check(aligned(port_out, 2), 2)
        if length not in (4, 16, LARGE):
            raise WasiError(errnos.INVAL)
        name = self.receive(memory, descriptor, vectors, count, flags, *outs)
        if found := of_system(name):
            write_address(memory, at, length, found[0])
            memory.write(port_out, _U16.pack(found[1]))

    def receive(
        self,
        memory: GuestMemory,
        descriptor: int,
        vectors: int,
        count: int,
        flags: int,
        out: int,
        out_flags: int,
    ) -> object:
        """Returns the sender's name, as Python's sockets give it."""
        memory.check(aligned(out), 4)
        memory.check(aligned(out_flags, 2), 2)
        pieces = read_vectors(memory, aligned(vectors), count)
        flags &= _LOW
        if flags & ~(_PEEK | _WAITALL):
            raise WasiError(errnos.INVAL)
        endpoint = self._table.socket(descriptor)
        data, name, truncated = endpoint.receive(
            sum(length for _, length in pieces),
            socket.MSG_PEEK if flags & _PEEK else 0,
            bool(flags & _WAITALL),
        )
        scatter(memory, pieces, data)
        memory.write(out, _U32.pack(len(data)))
        memory.write(out_flags, _U16.pack(_TRUNCATED if truncated else 0))
        return name

    def send(
        self, memory: GuestMemory, descriptor: int, vectors: int, count: int, flags: int, out: int
    ) -> None:
        data, endpoint = self._sending(memory, descriptor, vectors, count, flags, out)
        memory.write(out, _U32.pack(endpoint.send(data)))

    def send_to(
        self,
        memory: GuestMemory,
        descriptor: int,
        vectors: int,
        count: int,
        pointer: int,
        port: int,
        flags: int,
        out: int,
    ) -> None:
        address = read_address(memory, pointer)
        data, endpoint = self._sending(memory, descriptor, vectors, count, flags, out)
        port &= _LOW
        if not (self._rights.serve and endpoint.has_heard(address, port)):
            self._rights.check_connect(address, port)
        sent = endpoint.send(data, for_system(address, port, endpoint.family))
        memory.write(out, _U32.pack(sent))

    def _sending(
        self, memory: GuestMemory, descriptor: int, vectors: int, count: int, flags: int, out: int
    ) -> tuple[bytes | memoryview, Endpoint]:
        memory.check(aligned(out), 4)
        pieces = read_vectors(memory, aligned(vectors), count)
        if flags & _LOW:
            raise WasiError(errnos.INVAL)
        return gather(memory, pieces), self._table.socket(descriptor)

    def shutdown(self, memory: GuestMemory, descriptor: int, how: int) -> None:
        how &= 0xFF
        if how > max(_HOW):
            raise WasiError(errnos.INVAL)
        # (WasmEdge takes 0 for 1.)
        self._table.socket(descriptor).socket.shutdown(_HOW[how or 1])

    def get_option(
        self, memory: GuestMemory, descriptor: int, level: int, option: int, at: int, size: int
    ) -> None:
        (room,) = _U32.unpack(memory.read(aligned(size), 4))
        memory.check(at, room)
        value = options.get(self._table.socket(descriptor), level, option)[:room]
        memory.write(at, value)
        memory.write(size, _U32.pack(len(value)))

    def set_option(
        self, memory: GuestMemory, descriptor: int, level: int, option: int, at: int, size: int
    ) -> None:
        memory.check(at, size)
        value = bytes(memory.read(at, min(size, options.LONGEST)))
        options.put(self._table.socket(descriptor), level, option, value)

    def _name_1(
        self,
        name: Callable[[Endpoint], tuple[Address, int]],
        memory: GuestMemory,
        descriptor: int,
        pointer: int,
        kind: int,
        port: int,
    ) -> None:
        """``getlocaladdr`` or ``getpeeraddr``, as ``name`` says, of version 1."""
        at, length = buffer_of(memory, pointer)
        memory.check(aligned(kind), 4)
        memory.check(aligned(port), 4)
        if length not in (4, 16):
            raise WasiError(errnos.INVAL)
        address, number = name(self._table.socket(descriptor))
        write_address(memory, at, length, address)
        # (Version 1 says 4 or 6.)
        memory.write(kind, _U32.pack(address.version))
        memory.write(port, _U32.pack(number))

    def _name(
        self,
        name: Callable[[Endpoint], tuple[Address, int]],
        memory: GuestMemory,
        descriptor: int,
        pointer: int,
        port: int,
    ) -> None:
        at, length = buffer_of(memory, pointer)
        memory.check(aligned(port), 4)
        if length != LARGE:
            raise WasiError(errnos.INVAL)
        address, number = name(self._table.socket(descriptor))
        write_address(memory, at, length, address)
        memory.write(port, _U32.pack(number))


def read_vectors(memory: GuestMemory, at: int, count: int) -> list[tuple[int, int]]:
    """The pieces of memory that a guest lists, at most ``MOST_AT_ONCE`` bytes in all: a list can
    name the whole memory many times over. Raises ``WasiError`` and ``InvalidArgument``."""
    if count > _MOST_VECTORS:
        raise WasiError(errnos.INVAL)
    pieces = []
    left = MOST_AT_ONCE
    for start, length in list(_PAIR.iter_unpack(memory.read(at, _PAIR.size * count))):
        memory.check(start, length)
        taken = min(length, left)
        pieces.append((start, taken))
        left -= taken
    return pieces


def scatter(memory: GuestMemory, pieces: list[tuple[int, int]], data: bytes) -> None:
    """Write the bytes into the pieces, in order."""
    done = 0
    for at, length in pieces:
        if done >= len(data):
            break
        memory.write(at, data[done : done + length])
        done += length


def gather(memory: GuestMemory, pieces: list[tuple[int, int]]) -> bytes | memoryview:
    """The bytes of the pieces, in order."""
    if len(pieces) == 1:
        return memory.read(*pieces[0])
    return b"".join(memory.read(*piece) for piece in pieces)
