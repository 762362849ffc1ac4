"""Privileges: none are left, and none can be gained."""

from __future__ import annotations

import ctypes
import errno

from wasi_nn._sandbox import _kernel

_SET_DUMPABLE, _CAPBSET_DROP, _SET_NO_NEW_PRIVS, _CAP_AMBIENT = 4, 24, 38, 47
_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def drop() -> None:
    """Drop all capabilities of this thread, also root's, and those that a program could gain. Other
    processes of the user can no longer read this one's memory. Raises ``OSError``."""
    _kernel.prctl(_SET_NO_NEW_PRIVS, 1)
    for capability in range(64):
        try:
            _kernel.prctl(_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno == errno.EINVAL:  # This kernel has fewer.
                break
            if error.errno == errno.EPERM:  # A process without privileges has none to drop.
                break
            raise
    try:
        _kernel.prctl(_CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL)
    except OSError as error:
        if error.errno != errno.EINVAL:  # Older than Linux 4.3.
            raise
    _kernel.capset(_Header(_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)())
    _kernel.prctl(_SET_DUMPABLE, 0)
