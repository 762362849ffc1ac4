"""The options of sockets, with WasmEdge's numbers and the layouts of Linux on 64 bits."""

from __future__ import annotations

import socket
from struct import Struct, error

from wasi_nn._sockets import errnos
from wasi_nn._sockets.endpoint import DATAGRAM, STREAM, Endpoint
from wasi_nn._sockets.errnos import WasiError

_INT = Struct("<i")
_LINGER = Struct("<ii")
_TIME = Struct("<qq")
_TYPE, _ERROR, _LINGERS, _RECEIVE_TIME, _SEND_TIME, _ACCEPTS, _DEVICE = 1, 2, 9, 11, 12, 13, 14
# Those that are a number, by WasmEdge's number. Some systems lack some.
_NUMBERS = {
    number: getattr(socket, f"SO_{name}")
    for number, name in (
        (0, "REUSEADDR"),
        (3, "DONTROUTE"),
        (4, "BROADCAST"),
        (5, "SNDBUF"),
        (6, "RCVBUF"),
        (7, "KEEPALIVE"),
        (8, "OOBINLINE"),
        (10, "RCVLOWAT"),
        (_ACCEPTS, "ACCEPTCONN"),
    )
    if hasattr(socket, f"SO_{name}")
}
_READ_ONLY = {_TYPE, _ERROR, _ACCEPTS}
_LAST = 14
#: The longest value of an option.
LONGEST = 16
_MICROSECONDS = 10**6


def get(endpoint: Endpoint, level: int, option: int) -> bytes:
    """The value of an option. Raises ``WasiError`` and ``OSError``."""
    _check(level, option)
    if option == _TYPE:
        return _INT.pack({DATAGRAM: 1, STREAM: 2}[endpoint.kind])
    if option == _ERROR:
        failure = endpoint.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return _INT.pack(errnos.of_system(failure) if failure else 0)
    if option == _LINGERS:
        return _LINGER.pack(*endpoint.linger)
    if option in (_RECEIVE_TIME, _SEND_TIME):
        receives = option == _RECEIVE_TIME
        seconds = endpoint.receive_timeout if receives else endpoint.send_timeout
        whole = round((seconds or 0) * _MICROSECONDS)
        return _TIME.pack(*divmod(whole, _MICROSECONDS))
    if option not in _NUMBERS:
        raise WasiError(errnos.NOPROTOOPT)
    return _INT.pack(endpoint.socket.getsockopt(socket.SOL_SOCKET, _NUMBERS[option]))


def put(endpoint: Endpoint, level: int, option: int, value: bytes) -> None:
    """Set an option. Raises ``WasiError`` and ``OSError``."""
    _check(level, option)
    if option in _READ_ONLY:
        raise WasiError(errnos.NOPROTOOPT)
    try:
        if option == _LINGERS:
            on, seconds = _LINGER.unpack_from(value)
            # The host does not wait for a guest when it closes: it only drops what was not sent.
            packed = _LINGER.pack(on and not seconds, 0)
            endpoint.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, packed)
            endpoint.linger = on, seconds
        elif option in (_RECEIVE_TIME, _SEND_TIME):
            _put_time(endpoint, option, *_TIME.unpack_from(value))
        elif option == _DEVICE:
            # It would lead around the rules for addresses.
            raise WasiError(errnos.PERM)
        elif option not in _NUMBERS:
            raise WasiError(errnos.NOPROTOOPT)
        else:
            (number,) = _INT.unpack_from(value)
            endpoint.socket.setsockopt(socket.SOL_SOCKET, _NUMBERS[option], number)
    except error:
        # The value is too short.
        raise WasiError(errnos.INVAL) from None


def _put_time(endpoint: Endpoint, option: int, seconds: int, microseconds: int) -> None:
    if seconds < 0 or not 0 <= microseconds < _MICROSECONDS:
        raise WasiError(errnos.INVAL)
    whole = seconds + microseconds / _MICROSECONDS
    if option == _RECEIVE_TIME:
        endpoint.receive_timeout = whole or None
    else:
        endpoint.send_timeout = whole or None


def _check(level: int, option: int) -> None:
    if level != 0 or not 0 <= option <= _LAST:
        raise WasiError(errnos.INVAL)
