"""Calls into the Linux kernel that Python has no function for. Imported on Linux only."""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def call(number: int, *arguments: int) -> int:
    """The result of a system call with integers and addresses. Raises ``OSError``."""
    result: int = _libc.syscall(ctypes.c_long(number), *map(ctypes.c_ulong, arguments))
    if result < 0:
        raise _failure()
    return result


def prctl(option: int, *arguments: int) -> int:
    """The result of prctl(2). Raises ``OSError``."""
    padded = (*arguments, 0, 0, 0, 0)[:4]
    result: int = _libc.prctl(ctypes.c_int(option), *map(ctypes.c_ulong, padded))
    if result < 0:
        raise _failure()
    return result


def capset(header: ctypes.Structure, data: ctypes.Array[ctypes.c_uint32]) -> None:
    """capset(2). Raises ``OSError``."""
    if _libc.capset(ctypes.byref(header), ctypes.byref(data)) < 0:
        raise _failure()


def _failure() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
