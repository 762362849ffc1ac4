"""System calls: a list of what may be called, by name; everything else gives EPERM (seccomp(2)).

libseccomp, through the package ``pyseccomp``, translates the names for the processor. A name that
the processor or this libseccomp does not know is skipped.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import mmap
import os
import socket
from collections.abc import Iterator
from typing import Any

from wasi_nn._sandbox import _kernel

# Whatever their arguments are, these reach nothing but this process and its open descriptors.
_ALLOWED = """
    read readv pread64 preadv preadv2 write writev lseek close dup dup2 dup3 fadvise64
    stat lstat fstat newfstatat statx statfs fstatfs access faccessat faccessat2
    readlink readlinkat getcwd getdents64
    poll ppoll select pselect6
    getsockopt getsockname getpeername shutdown
    brk munmap mremap mprotect madvise
    futex futex_waitv set_robust_list set_tid_address rseq membarrier sched_yield
    sched_getaffinity sched_getparam sched_getscheduler
    sched_get_priority_max sched_get_priority_min getpriority getcpu
    rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigsuspend rt_sigtimedwait
    sigaltstack restart_syscall pause
    clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time times
    getpid gettid getppid getuid geteuid getgid getegid getresuid getresgid getgroups getpgrp
    getpgid getrlimit getrusage sysinfo uname getrandom
    exit exit_group
""".split()

_INT = 0xFFFFFFFF  # The kernel looks at 32 bits of an int.
_CLONE_THREAD = 0x10000
# The flags that make a namespace.
_CLONE_NAMESPACES = 0x7E020080
_MAP_GROWSDOWN, _MAP_HUGETLB = 0x100, 0x40000
_O_WRITES = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC
_FIONREAD, _FIONBIO, _FIONCLEX, _FIOCLEX = 0x541B, 0x5421, 0x5450, 0x5451
_F_GET_SEALS = 1034
_PR_SET_NAME, _PR_GET_NAME = 15, 16
# The processor's large registers must be asked for before the first use.
_ARCH_GET_XCOMP_SUPP, _ARCH_GET_XCOMP_PERM, _ARCH_REQ_XCOMP_PERM = 0x1021, 0x1022, 0x1023
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2

# A rule: the name of a call, and its arguments as (position, mask, value).
_Rule = tuple[str, tuple[tuple[int, int, int], ...]]


def missing() -> str:
    """Why system calls cannot be filtered here, and what to do. "" if they can."""
    try:
        import pyseccomp as _pyseccomp  # noqa: F401  (it loads libseccomp)
    except ImportError:
        return "the package pyseccomp is missing: pip install pyseccomp"
    except (RuntimeError, OSError, AttributeError) as error:
        return (
            f"libseccomp cannot be used ({error}): install it (Debian, Ubuntu: apt install "
            "libseccomp2; Fedora: dnf install libseccomp)"
        )
    try:
        _kernel.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, 0)
    except OSError as error:
        if error.errno != errno.EFAULT:  # EFAULT: there are filters, and 0 is not one.
            reason = error.strerror or str(error)
            return f"this kernel has no seccomp filters ({reason}): use one that has them"
    return ""


def restrict() -> None:
    """Refuse what is not on the list to this thread and those that it starts. Raises ``OSError``.

    The process must not be forked afterwards: signals may go only to what is this process now."""
    import pyseccomp

    # So that abort() ends the process as everywhere.
    for name in ("kill", "tgkill"):
        _add(rules(), pyseccomp.ALLOW, name, (0, _INT, os.getpid()))
    rules().load()


@functools.cache
def rules() -> Any:
    """The rules that are the same for each process. It takes longer to make them than to load
    them, so a process makes them before it forks others. Raises ``OSError``."""
    import pyseccomp

    made = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
    # Calls of another architecture, such as 32-bit ones, have other numbers.
    made.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.KILL_PROCESS)
    for name in _ALLOWED:
        _add(made, pyseccomp.ALLOW, name)
    for name, arguments in _conditional():
        _add(made, pyseccomp.ALLOW, name, *arguments)
    # Libraries bind their threads to processors, and complain if they cannot. By its number, a
    # thread may be another process's: let them believe that it worked.
    _add(made, pyseccomp.ERRNO(0), "sched_setaffinity")
    # glibc starts threads with clone if there is no clone3, whose flags a filter cannot see.
    _add(made, pyseccomp.ERRNO(errno.ENOSYS), "clone3")
    return made


def _add(to: Any, action: int, name: str, *arguments: tuple[int, int, int]) -> None:
    import pyseccomp

    number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
    if number >= 0:
        compared = [
            pyseccomp.Arg(position, pyseccomp.MASKED_EQ, mask, value)
            for position, mask, value in arguments
        ]
        to.add_rule(action, number, *compared)


def _conditional() -> Iterator[_Rule]:
    """The calls that are allowed with some arguments only."""
    # Landlock alone would do, where it is there.
    yield "open", ((1, _O_WRITES, os.O_RDONLY),)
    yield "openat", ((2, _O_WRITES, os.O_RDONLY),)
    # Shared memory without a file, and a stack that grows, are not part of the limit for memory.
    kinds = mmap.MAP_SHARED | mmap.MAP_PRIVATE | mmap.MAP_ANON | _MAP_GROWSDOWN | _MAP_HUGETLB
    for kind in (mmap.MAP_PRIVATE, mmap.MAP_PRIVATE | mmap.MAP_ANON, mmap.MAP_SHARED):
        yield "mmap", ((3, kinds, kind),)
    yield "clone", ((0, _CLONE_THREAD | _CLONE_NAMESPACES, _CLONE_THREAD),)
    # Limits can be read, but not set.
    yield "prlimit64", ((0, _INT, 0), (2, (1 << 64) - 1, 0))
    # Nothing out of band, and no address beside the peer's. Without sendmsg, no descriptors can be
    # sent: while nobody receives them, they count against the host's user.
    for name, flags in (("recvfrom", 3), ("recvmsg", 2)):
        yield name, ((flags, socket.MSG_OOB, 0),)
    yield "sendto", ((3, socket.MSG_OOB, 0), (4, (1 << 64) - 1, 0))
    for request in (_FIONREAD, _FIONBIO, _FIONCLEX, _FIOCLEX):
        yield "ioctl", ((1, _INT, request),)
    for command in (
        fcntl.F_DUPFD,
        fcntl.F_DUPFD_CLOEXEC,
        fcntl.F_GETFD,
        fcntl.F_SETFD,
        fcntl.F_GETFL,
        fcntl.F_SETFL,
        _F_GET_SEALS,
    ):
        yield "fcntl", ((1, _INT, command),)
    for option in (_PR_SET_NAME, _PR_GET_NAME):
        yield "prctl", ((0, _INT, option),)
    for code in (_ARCH_GET_XCOMP_SUPP, _ARCH_GET_XCOMP_PERM, _ARCH_REQ_XCOMP_PERM):
        yield "arch_prctl", ((0, _INT, code),)
