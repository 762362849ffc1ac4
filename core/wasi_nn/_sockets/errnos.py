"""WASI's errnos, with those of names that WasmEdge adds."""

from __future__ import annotations

import errno
import socket

_NAMES = """
2BIG ACCES ADDRINUSE ADDRNOTAVAIL AFNOSUPPORT AGAIN ALREADY BADF BADMSG BUSY CANCELED CHILD
CONNABORTED CONNREFUSED CONNRESET DEADLK DESTADDRREQ DOM DQUOT EXIST FAULT FBIG HOSTUNREACH IDRM
ILSEQ INPROGRESS INTR INVAL IO ISCONN ISDIR LOOP MFILE MLINK MSGSIZE MULTIHOP NAMETOOLONG NETDOWN
NETRESET NETUNREACH NFILE NOBUFS NODEV NOENT NOEXEC NOLCK NOLINK NOMEM NOMSG NOPROTOOPT NOSPC NOSYS
NOTCONN NOTDIR NOTEMPTY NOTRECOVERABLE NOTSOCK NOTSUP NOTTY NXIO OVERFLOW OWNERDEAD PERM PIPE PROTO
PROTONOSUPPORT PROTOTYPE RANGE ROFS SPIPE SRCH STALE TIMEDOUT TXTBSY XDEV NOTCAPABLE
""".split()
_NUMBERS = {name: number for number, name in enumerate(_NAMES, 1)}
# (Some systems lack some of the names.)
_OF_SYSTEM = {
    getattr(errno, f"E{name}"): number
    for name, number in _NUMBERS.items()
    if hasattr(errno, f"E{name}")
}

ACCES, ADDRNOTAVAIL, AGAIN, BADF = 2, 4, 6, 8
FAULT, INPROGRESS, INVAL, IO, MFILE = 21, 26, 28, 29, 33
NOMEM, NOPROTOOPT, NOSYS, NOTCONN, NOTSOCK, NOTSUP = 48, 50, 52, 53, 57, 58
PERM, TIMEDOUT, NOTCAPABLE = 63, 73, 76
AIBADFLAG, AIFAIL, AIFAMILY, AIMEMORY, AINONAME = 79, 80, 81, 82, 84
# Errors of name resolution that have a number of their own, as WasmEdge has them.
_OF_NAMES = {
    getattr(socket, f"EAI_{name}"): number
    for name, number in (
        ("ADDRFAMILY", 77),
        ("AGAIN", 78),
        ("BADFLAGS", AIBADFLAG),
        ("FAIL", AIFAIL),
        ("FAMILY", AIFAMILY),
        ("MEMORY", AIMEMORY),
        ("NODATA", 83),
        ("NONAME", AINONAME),
        ("SERVICE", 85),
        ("SOCKTYPE", 86),
        ("SYSTEM", 87),
    )
    if hasattr(socket, f"EAI_{name}")
}


class WasiError(Exception):
    """What a guest's call returns."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def of_system(number: int | None) -> int:
    """WASI's errno for one of the system."""
    return _OF_SYSTEM.get(number or 0, IO)


def of_error(error: OSError) -> int:
    """The errno for what a socket or a name's resolution raised."""
    if isinstance(error, socket.gaierror):
        return _OF_NAMES.get(error.errno or 0, AIFAIL)
    if isinstance(error, TimeoutError):
        return TIMEDOUT
    return of_system(error.errno)
