"""Files, TCP, abstract sockets and signals: Landlock, the kernel's own sandbox (landlock(7)).

The kernel's header linux/landlock.h has the numbers. The system calls have the same numbers on all
architectures.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat

from wasi_nn._sandbox import _kernel

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1  # LANDLOCK_CREATE_RULESET_VERSION
_PATH_BENEATH = 1  # LANDLOCK_RULE_PATH_BENEATH
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
# All rights to files: how many there are, by the version of the ABI.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_TCP = 0b11  # to bind, to connect
_SCOPES = 0b11  # abstract sockets, signals


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def missing() -> str:
    """Why Landlock cannot be used here, and what to do. "" if it can."""
    try:
        _version()
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return (
                "Landlock is off in this kernel: add landlock to the list lsm= of the kernel's "
                "command line"
            )
        reason = error.strerror or str(error)
        return (
            f"this kernel or container offers no Landlock ({reason}): use Linux 5.13 or newer, "
            "and a container runtime that lets landlock_create_ruleset pass"
        )
    return ""


def restrict(readable: tuple[str, ...]) -> None:
    """Let this thread open only what is in ``readable``, and only for reading. Raises ``OSError``.

    The kernel must have been told that the thread gains no privileges (``privileges.drop``)."""
    version = _version()
    rights = (1 << _FILE_RIGHTS.get(version, 16)) - 1
    rules = _Ruleset(rights, _TCP if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    # An older kernel takes the longer structure if what it does not know is 0.
    ruleset = _kernel.call(_CREATE_RULESET, ctypes.addressof(rules), ctypes.sizeof(rules), 0)
    try:
        for path in readable:
            _allow(ruleset, path)
        _kernel.call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _version() -> int:
    return _kernel.call(_CREATE_RULESET, 0, 0, _VERSION)


def _allow(ruleset: int, path: str) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        folder = stat.S_ISDIR(os.fstat(opened).st_mode)
        rule = _PathBeneath(_READ_FILE | (_READ_DIR if folder else 0), opened)
        _kernel.call(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.addressof(rule), 0)
    finally:
        os.close(opened)
