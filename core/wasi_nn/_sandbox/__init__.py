"""What a process may still do, before it touches a stranger's model.

A native library that parses hostile bytes may end up running hostile code. ``confine`` takes from
the process, for good, what such code could do harm with. What is left is enough to load a model, to
compute on several threads, and to answer over a connected socket that is already open:

==============  =========================================================================
files           only what ``Confinement.read`` names can be opened, and only for reading
network         no socket can be made, connected, bound, or listened on
system calls    a short list; no program, process, signal, mount, debugger, or new limit
memory          a limit for the private memory, and no new shared memory
==============  =========================================================================

Landlock (``landlock``) guards the files, seccomp (``syscalls``) the rest. Each stands alone where
the other is missing. The kernel restricts one thread, so the process must have only one.

Not covered: the existence, size and owner of files can still be seen, the clock can be read, and
hostile code that takes away its own right to write to memory can hold more of it than the limit.
"""

from __future__ import annotations

import functools
import os
import sys
from typing import NamedTuple

from wasi_nn._sandbox.libraries import library_paths

if sys.platform == "linux":
    from wasi_nn._sandbox import descriptors, landlock, privileges, resources, syscalls

__all__ = ["Confinement", "Offered", "confine", "library_paths", "offered", "prepare"]

_ELSEWHERE = "run wasi-nn on Linux 5.13 or newer for it"


class Confinement(NamedTuple):
    """What is left to a process. Sizes are in bytes."""

    read: tuple[str, ...]
    """Files and folders that may be opened for reading. Missing ones are ignored."""
    memory: int | None = None
    """Private memory, beside what the process has when it is confined."""
    cpu_seconds: int | None = None
    """Processor time, of all threads and since the start of the process. SIGXCPU ends it."""
    descriptors: int = 256


class Offered(NamedTuple):
    """Which parts of the confinement this system offers. "" means that a part holds. Otherwise a
    sentence says what is missing and what to do."""

    files: str
    network: str
    system_calls: str
    memory: str

    @property
    def complete(self) -> bool:
        """Whether every part holds."""
        return not any(self)


@functools.cache
def offered() -> Offered:
    """What this kernel and the installed packages offer. Never raises. May start ``ldconfig``."""
    if sys.platform != "linux":
        missing = f"this system ({sys.platform}) has no {{}}: {_ELSEWHERE}"
        memory = missing.format("limit for private memory")
        return Offered(missing.format("Landlock"), *[missing.format("seccomp")] * 2, memory)
    filters = syscalls.missing()
    return Offered(landlock.missing(), filters, filters, "")


def prepare() -> None:
    """Load and make what the children of this process need to confine themselves: they cannot load
    it, and need not make it each time. Raises what ``confine`` raises."""
    if not offered().system_calls:
        syscalls.rules()


def confine(confinement: Confinement) -> None:
    """Take from this process what ``confinement`` does not leave it. There is no way back.

    What ``offered`` reports as missing is left out. Raises ``OSError`` if the kernel refuses a part
    that it offers, and ``RuntimeError`` if the process has more than one thread or a descriptor
    that leads out. After an error, end the process: it may be confined in part."""
    have = offered()
    if sys.platform != "linux":
        return
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise RuntimeError(
            f"a process with {threads} threads cannot be confined: only the calling thread would "
            "be. Confine it before anything starts a thread"
        )
    descriptors.check()
    privileges.drop()
    resources.limit(confinement.memory, confinement.cpu_seconds, confinement.descriptors)
    if not have.files:
        landlock.restrict(confinement.read)
    if not have.system_calls:
        syscalls.restrict()
