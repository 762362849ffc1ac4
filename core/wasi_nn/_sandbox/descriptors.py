"""Descriptors that were open before: what lies behind one of them is not refused later."""

from __future__ import annotations

import fcntl
import os
import socket
import stat


def check() -> None:
    """Raise ``RuntimeError`` for an open file that could be overwritten, for a disk, and for a
    socket that reaches more than one peer on this machine.

    A file that can only be written, such as a log, is harmless: its length is limited to 0."""
    for name in os.listdir("/proc/self/fd"):
        try:
            what = os.readlink(f"/proc/self/fd/{name}")
            danger = _danger(int(name), what)
        except OSError:  # That which listed the folder is closed again.
            continue
        if danger:
            raise RuntimeError(
                f"descriptor {name} ({what}) is {danger}: close it before the process is confined"
            )


def _danger(descriptor: int, what: str) -> str:
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISBLK(mode):
        return "a disk"
    if stat.S_ISREG(mode) and not what.startswith("/memfd:"):
        access = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
        return "a file open for reading and writing" if access == os.O_RDWR else ""
    if stat.S_ISSOCK(mode):
        with socket.socket(fileno=os.dup(descriptor)) as one:
            streams = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)
            if one.family != socket.AF_UNIX or one.type not in streams:
                return "a socket that reaches others than its peer"
    return ""
