"""Addresses in a guest's memory.

An address is ``{u32 buffer, u32 length}``. In version 1 of WasmEdge's functions, the buffer has 4
bytes for IPv4 or 16 for IPv6. In version 2 it may also have 128: a family (u16), and then the
address. The port is a number of its own (wasmedge lib/host/wasi/wasifunc.cpp).
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from struct import Struct

from wasi_nn._policy.network import Address
from wasi_nn._sockets.errnos import ADDRNOTAVAIL, INVAL, NOMEM, WasiError
from wasi_nn.runtime import GuestMemory

#: WASI's numbers of the families.
INET4, INET6 = 1, 2
#: The length of a buffer that holds its family too.
LARGE = 128
_PAIR = Struct("<II")
_FAMILY = Struct("<H")
_SIZES = {INET4: 4, INET6: 16}


def aligned(pointer: int, size: int = 4) -> int:
    """The pointer. Raises ``WasiError`` unless it is a multiple of ``size``, as WasmEdge wants."""
    if pointer % size:
        raise WasiError(ADDRNOTAVAIL)
    return pointer


def buffer_of(memory: GuestMemory, pointer: int) -> tuple[int, int]:
    """The place and the length of an address, inside the memory."""
    at, length = _PAIR.unpack(memory.read(aligned(pointer), _PAIR.size))
    memory.check(at, length)
    return at, length


def read_address(memory: GuestMemory, pointer: int) -> Address:
    """The address that a guest names."""
    at, length = buffer_of(memory, pointer)
    if length == LARGE:
        (family,) = _FAMILY.unpack(memory.read(at, _FAMILY.size))
        at, length = at + _FAMILY.size, _SIZES.get(family, 0)
    if length not in _SIZES.values():
        raise WasiError(INVAL)
    return ip_address(bytes(memory.read(at, length)))


def write_address(memory: GuestMemory, at: int, length: int, address: Address) -> None:
    """Write an address into a buffer, if it takes one of this length."""
    packed = address.packed
    if length == LARGE:
        memory.write(at, _FAMILY.pack(family_of(address)) + packed)
    elif length >= len(packed):
        memory.write(at, packed)
    else:
        raise WasiError(NOMEM)


def family_of(address: Address) -> int:
    """WASI's number of an address's family."""
    return INET4 if address.version == 4 else INET6


def of_system(name: object) -> tuple[Address, int] | None:
    """The address and the port in what Python's sockets give; None for none."""
    if not isinstance(name, tuple) or len(name) < 2:
        return None
    # (The scope of a link's address comes after a percent sign.)
    return ip_address(name[0].partition("%")[0]), name[1]


def for_system(address: Address, port: int, family: int) -> tuple[str, int]:
    """What Python's sockets of this family take. Raises ``WasiError`` for an address of the other
    one."""
    if family == INET4 and address.version == 6:
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        if mapped is None:
            raise WasiError(INVAL)
        address = mapped
    if family == INET6 and isinstance(address, IPv4Address):
        address = IPv6Address(b"\0" * 10 + b"\xff\xff" + address.packed)
    return str(address), port
