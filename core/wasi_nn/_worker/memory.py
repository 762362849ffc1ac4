"""Memory that the host and a worker share.

The host makes it, and seals its size: a worker that cut it off would end the host with SIGBUS.
"""

from __future__ import annotations

import ctypes
import functools
import os
import tempfile
import weakref
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate

from wasi_nn.errors import RuntimeFailure

# Linux's numbers, which Python's fcntl has since 3.9 only where the C library has them.
_ADD_SEALS, _SEAL_SEAL, _SEAL_SHRINK, _SEAL_GROW, _SEAL_WRITE = 1033, 1, 2, 4, 8
_PROT_READ, _PROT_WRITE, _MAP_SHARED = 1, 2, 1
_FAILED = ctypes.c_void_p(-1).value
# Libraries read numbers in a model in place, which must be aligned for that.
_ALIGNMENT = 64


def make(size: int) -> int:
    """A descriptor of ``size`` bytes of memory, at least one. Raises ``RuntimeFailure`` if there is
    no memory."""
    descriptor = _anonymous()
    try:
        os.ftruncate(descriptor, max(size, 1))
        _seal(descriptor, _SEAL_SEAL | _SEAL_SHRINK | _SEAL_GROW)
    except (OSError, OverflowError) as error:
        os.close(descriptor)
        raise RuntimeFailure(f"there is no memory for {size} bytes: {error}") from error
    return descriptor


def pack(parts: Sequence[memoryview]) -> int:
    """A descriptor of memory with a copy of ``parts``, which nobody can change. Raises
    ``RuntimeFailure`` if there is no memory."""
    descriptor = _anonymous()
    try:
        for part, start in zip(parts, _starts([len(part) for part in parts]), strict=True):
            at = 0
            while at < len(part):
                at += os.pwrite(descriptor, part[at:], start + at)
        # An empty file cannot be mapped.
        os.ftruncate(descriptor, max(os.fstat(descriptor).st_size, 1))
        _seal(descriptor, _SEAL_SEAL | _SEAL_SHRINK | _SEAL_GROW | _SEAL_WRITE)
    except OSError as error:
        os.close(descriptor)
        raise RuntimeFailure(f"there is no memory for a copy of the model: {error}") from error
    return descriptor


def unpack(descriptor: int, lengths: Sequence[int]) -> list[memoryview]:
    """The parts of ``pack``. Raises ``RuntimeFailure``."""
    view = map_shared(descriptor, False).toreadonly()
    return [
        view[start : start + length]
        for start, length in zip(_starts(lengths), lengths, strict=True)
    ]


def map_shared(descriptor: int, writable: bool = True) -> memoryview:
    """The memory behind a descriptor. The caller may close the descriptor. Raises
    ``RuntimeFailure``.

    (Python's mmap keeps a descriptor open as long as the memory is there, and a guest may have
    thousands of tensors.)"""
    size = os.fstat(descriptor).st_size
    protection = _PROT_READ | (_PROT_WRITE if writable else 0)
    libc = _libc()
    address = libc.mmap(None, size, protection, _MAP_SHARED, descriptor, 0)
    if address in (None, _FAILED):
        reason = os.strerror(ctypes.get_errno())
        raise RuntimeFailure(f"there is no memory for {size} bytes: {reason}")
    array = (ctypes.c_ubyte * size).from_address(address)
    weakref.finalize(array, libc.munmap, address, size).atexit = False
    return memoryview(array).cast("B")


def _starts(lengths: Sequence[int]) -> list[int]:
    rounded = (-(-length // _ALIGNMENT) * _ALIGNMENT for length in lengths)
    return list(accumulate(rounded, initial=0))[:-1]


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (
        *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int),
        ctypes.c_long,
    )
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    return libc


def _anonymous() -> int:
    try:
        if hasattr(os, "memfd_create"):
            # MFD_CLOEXEC | MFD_ALLOW_SEALING
            return os.memfd_create("wasi-nn", 0x1 | 0x2)
        descriptor, path = tempfile.mkstemp(prefix="wasi-nn-")
        os.unlink(path)
    except OSError as error:
        raise RuntimeFailure(f"there is no descriptor for shared memory: {error}") from error
    return descriptor


def _seal(descriptor: int, seals: int) -> None:
    import fcntl

    # Other systems have no seals.
    with suppress(OSError):
        fcntl.fcntl(descriptor, _ADD_SEALS, seals)
