"""Memory that the host and a worker share.

The host makes it, and seals its size: a worker that cut it off would end the host with SIGBUS.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from contextlib import suppress

from wasi_nn.errors import RuntimeFailure

# Linux's numbers, which Python's fcntl has since 3.9 only where the C library has them.
_ADD_SEALS, _SEAL_SEAL, _SEAL_SHRINK, _SEAL_GROW, _SEAL_WRITE = 1033, 1, 2, 4, 8


def make(size: int, content: memoryview | None = None) -> int:
    """A descriptor of ``size`` bytes of memory, at least one. With ``content``, they are its bytes,
    and nobody can change them. Raises ``RuntimeFailure`` if there is no memory."""
    try:
        descriptor = _anonymous()
    except OSError as error:
        raise RuntimeFailure(f"there is no descriptor for shared memory: {error}") from error
    try:
        os.ftruncate(descriptor, max(size, 1))
        at = 0
        while content is not None and at < len(content):
            at += os.write(descriptor, content[at:])
        _seal(descriptor, content is not None)
    except (OSError, OverflowError) as error:
        os.close(descriptor)
        raise RuntimeFailure(f"there is no memory for {size} bytes: {error}") from error
    return descriptor


def map_shared(descriptor: int, writable: bool = True) -> memoryview:
    """The memory behind a descriptor. The caller may close the descriptor. Raises
    ``RuntimeFailure``."""
    access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
    try:
        return memoryview(mmap.mmap(descriptor, os.fstat(descriptor).st_size, access=access))
    except (OSError, ValueError) as error:
        raise RuntimeFailure(f"shared memory cannot be mapped: {error}") from error


def _anonymous() -> int:
    if hasattr(os, "memfd_create"):
        # MFD_CLOEXEC | MFD_ALLOW_SEALING
        return os.memfd_create("wasi-nn", 0x1 | 0x2)
    descriptor, path = tempfile.mkstemp(prefix="wasi-nn-")
    os.unlink(path)
    return descriptor


def _seal(descriptor: int, content: bool) -> None:
    import fcntl

    seals = _SEAL_SEAL | _SEAL_SHRINK | _SEAL_GROW | (_SEAL_WRITE if content else 0)
    # Other systems have no seals.
    with suppress(OSError):
        fcntl.fcntl(descriptor, _ADD_SEALS, seals)
