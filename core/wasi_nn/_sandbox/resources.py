"""Memory, processor time and descriptors: the limits of setrlimit(2)."""

from __future__ import annotations

import resource

# The main thread's stack is not part of the private memory that is counted.
_STACK = 64 << 20


def limit(memory: int | None, cpu_seconds: int | None, descriptors: int) -> None:
    """Limit this process (see ``Confinement``). Files cannot grow. Raises ``OSError``.

    A process with privileges could raise the limits again: ``syscalls`` refuses that."""
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_NOFILE, descriptors)
    _lower(resource.RLIMIT_STACK, min(_STACK, _soft(resource.RLIMIT_STACK)))
    # A bomb of threads leaves half of the user's processes and threads to the host. (Linux exempts
    # root from this limit.)
    user = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    if user != resource.RLIM_INFINITY:
        _lower(resource.RLIMIT_NPROC, user // 2)
    if cpu_seconds is not None:
        # SIGXCPU first, which says why the process ended; SIGKILL if that is ignored.
        _lower(resource.RLIMIT_CPU, cpu_seconds, cpu_seconds + 1)
    if memory is not None:
        _lower(resource.RLIMIT_DATA, _private_memory() + memory)


def _soft(which: int) -> int:
    soft, _hard = resource.getrlimit(which)
    return _STACK if soft == resource.RLIM_INFINITY else soft


def _lower(which: int, soft: int, hard: int | None = None) -> None:
    _soft, most = resource.getrlimit(which)
    hard = soft if hard is None else hard
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(which, (soft, hard))


def _private_memory() -> int:
    """What RLIMIT_DATA counts, in bytes."""
    with open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"VmData:"):
                return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmData")
