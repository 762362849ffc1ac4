"""What a guest may use at most, and what memory there is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# A control group without a limit says so with a number like this one.
_NO_LIMIT = 1 << 60


class GroupMemory(NamedTuple):
    """The memory that this process's control groups (a container's) leave it, in bytes."""

    limit: int
    left: int


def group_memory(root: Path = Path("/")) -> GroupMemory | None:
    """The tightest limit of the control groups that this process is in, and the least that is left
    of one; None without a limit. Files in the system's cache are not in the way."""
    found = list(_groups(root))
    if not found:
        return None
    return GroupMemory(min(limit for limit, _ in found), min(left for _, left in found))


def _groups(root: Path) -> Iterator[tuple[int, int]]:
    folder = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            for base in (folder, folder / "unified"):
                yield from _levels(base, path, "memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            names = "memory.limit_in_bytes", "memory.usage_in_bytes"
            yield from _levels(folder / "memory", path, *names, "total_")


def _levels(
    base: Path, path: str, limit: str, usage: str, prefix: str
) -> Iterator[tuple[int, int]]:
    """The limits of a group and of those around it. In a container the path may be the host's, and
    its own group the folder itself."""
    group = base / path.lstrip("/")
    for level in (group, *group.parents):
        try:
            most = int((level / limit).read_text("ascii"))
            used = int((level / usage).read_text("ascii"))
            pairs = (line.split() for line in (level / "memory.stat").read_text().splitlines())
            stat = {key: int(value) for key, value in pairs}
            cached = stat[f"{prefix}inactive_file"] + stat[f"{prefix}active_file"]
        except (OSError, ValueError, KeyError):
            most = _NO_LIMIT
        if most < _NO_LIMIT:
            yield most, max(0, most - max(0, used - cached))
        if level == base:
            return


def _default_held() -> int:
    try:
        half = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):
        half = 0
    most = max(4 << 30, half)
    group = group_memory()
    return most if group is None else min(most, group.limit)


class Limits(NamedTuple):
    """Limits of one guest; None is no limit.

    ``timeout`` is in seconds of wall-clock time, ``memory`` in bytes of linear memory, ``fuel`` in
    the engine's units. ``graphs`` counts the graphs, and ``contexts`` the execution contexts, that
    the guest holds at one time; ``held`` the bytes that the host keeps for it alone (models, input
    tensors, the memory of language models), by default half of this machine's memory and at least
    4 GiB, and never more than a container has; ``output`` the bytes that are captured of each of
    its streams.

    A deadline reaches a guest that computes, in Wasm or in a library that can be stopped. One that
    sits in a system call (it sleeps, it reads a terminal) is noticed when the call returns.
    """

    timeout: float | None = None
    memory: int | None = None
    fuel: int | None = None
    graphs: int = 1024
    contexts: int = 65536
    held: int = _default_held()
    output: int = 256 << 20
