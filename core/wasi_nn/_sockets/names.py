"""``sock_getaddrinfo``: the addresses of a name, in a list that the guest has made.

An entry has 28 bytes: flags (u16) at 0, family, type and protocol (u8) at 2 to 4, the length of its
address at 8, a pointer to that at 12, a pointer to its canonical name at 16 and the length at 20,
and a pointer to the next entry at 24. An address has 12 bytes: a family (u8) at 0, a length at 4,
and a pointer at 8 to the port in network order and what comes after it (wasmedge api.hpp).
"""

from __future__ import annotations

import socket
from ipaddress import ip_address
from struct import Struct

from wasi_nn._policy.network import Address
from wasi_nn._sockets import errnos
from wasi_nn._sockets.addresses import aligned, family_of
from wasi_nn._sockets.endpoint import DATAGRAM, STREAM
from wasi_nn._sockets.errnos import WasiError
from wasi_nn._sockets.rights import Rights
from wasi_nn.runtime import GuestMemory

_ENTRY = Struct("<HBBBxxxIIIII")
_SOCKADDR = Struct("<BxxxII")
_U32 = Struct("<I")
_PASSIVE, _CANONNAME, _NUMERICHOST, _NUMERICSERV, _ALL_FLAGS = 1, 2, 4, 8, 127
_PROTOCOLS = {STREAM: 1, DATAGRAM: 2}
_SIZES = {4: 16, 6: 28}
_LONGEST_NAME, _MOST_RESULTS = 1024, 64


class _Wanted:
    """What a guest asks for."""

    def __init__(self, memory: GuestMemory, node: bytes, service: bytes, hints: int) -> None:
        self.flags, self.family, self.kind, self.protocol, *_ = _ENTRY.unpack(
            memory.read(hints, _ENTRY.size)
        )
        if not node and not service:
            raise WasiError(errnos.AINONAME)
        if self.flags & ~_ALL_FLAGS or (self.flags & _CANONNAME and not node):
            raise WasiError(errnos.AIBADFLAG)
        if self.family not in (0, 1, 2):
            raise WasiError(errnos.AIFAMILY)
        if self.protocol not in (0, 1, 2) or self.kind not in (0, DATAGRAM, STREAM):
            raise WasiError(errnos.NOSYS)
        self.node, self.service = node, service

    def kinds(self) -> list[int]:
        """The types of sockets that fit."""
        return [
            kind
            for kind, protocol in _PROTOCOLS.items()
            if self.kind in (0, kind) and self.protocol in (0, protocol)
        ]

    def port(self) -> int:
        text = self.service.decode("latin-1")
        if not text:
            return 0
        if text.isascii() and text.isdigit():
            if int(text) > 0xFFFF:
                raise socket.gaierror(socket.EAI_SERVICE, "not a port")
            return int(text)
        if self.flags & _NUMERICSERV:
            raise socket.gaierror(socket.EAI_NONAME, "not a number")
        try:
            return socket.getservbyname(text)
        except OSError:
            raise socket.gaierror(socket.EAI_SERVICE, "not a service") from None

    def addresses(self, rights: Rights) -> list[Address]:
        if not self.node:
            texts = ("0.0.0.0", "::") if self.flags & _PASSIVE else ("127.0.0.1", "::1")
            found = [ip_address(text) for text in texts]
        else:
            try:
                name = self.node.decode()
            except UnicodeDecodeError:
                raise WasiError(errnos.AINONAME) from None
            if self.flags & _NUMERICHOST:
                try:
                    found = [ip_address(name)]
                except ValueError:
                    raise WasiError(errnos.AINONAME) from None
            else:
                found = rights.resolve(name)
        return [each for each in found if self.family in (0, family_of(each))]


def resolve(
    rights: Rights,
    memory: GuestMemory,
    node: int,
    node_size: int,
    service: int,
    service_size: int,
    hints: int,
    first: int,
    most: int,
    count: int,
) -> None:
    """Answer ``sock_getaddrinfo``. Raises ``WasiError``, ``OSError`` and ``InvalidArgument``."""
    for pointer in (hints, first, count):
        aligned(pointer)
    memory.check(count, 4)
    if most < 1:
        raise WasiError(errnos.AIMEMORY)
    texts = _text(memory, node, node_size), _text(memory, service, service_size)
    wanted = _Wanted(memory, *texts, hints)
    port = wanted.port()
    (entry,) = _U32.unpack(memory.read(first, 4))
    wrote = 0
    for address in wanted.addresses(rights):
        for kind in wanted.kinds():
            if wrote < min(most, _MOST_RESULTS) and entry:
                taken, entry = _write(memory, entry, address, port, kind, wanted)
                wrote += taken
    if not wrote:
        raise WasiError(errnos.AINONAME)
    memory.write(count, _U32.pack(wrote))


def _text(memory: GuestMemory, pointer: int, size: int) -> bytes:
    """A text, which may end with a NUL before its size."""
    if size > _LONGEST_NAME:
        raise WasiError(errnos.INVAL)
    return bytes(memory.read(pointer, size)).partition(b"\0")[0]


def _write(
    memory: GuestMemory, entry: int, address: Address, port: int, kind: int, wanted: _Wanted
) -> tuple[int, int]:
    """Fill the guest's entry, if its address has room. Returns how many were filled, and the entry
    that comes next."""
    data = memory.read(aligned(entry), _ENTRY.size)
    *_, at, name_at, name_size, next_entry = _ENTRY.unpack(data)
    _, room, sockaddr_at = _SOCKADDR.unpack(memory.read(aligned(at), _SOCKADDR.size))
    if address.version == 4:
        packed = port.to_bytes(2, "big") + address.packed + bytes(8)
    else:
        packed = port.to_bytes(2, "big") + bytes(4) + address.packed + bytes(4)
    if room < len(packed):
        return 0, entry
    memory.write(sockaddr_at, packed)
    family = family_of(address)
    memory.write(at, _SOCKADDR.pack(family, len(packed), sockaddr_at))
    name = (wanted.node if wanted.flags & _CANONNAME else b"") + b"\0"
    if len(name) > name_size:
        name_size = 0
    else:
        memory.write(name_at, name)
        name_size = len(name) - 1
    made = _ENTRY.pack(
        wanted.flags,
        family,
        kind,
        _PROTOCOLS[kind],
        _SIZES[address.version],
        at,
        name_at,
        name_size,
        next_entry,
    )
    memory.write(entry, made)
    return 1, next_entry
