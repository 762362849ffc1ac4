"""How much memory this process may use, for backends that check before they allocate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["GroupMemory", "group_memory"]

# A control group without a limit reports a number like this one.
_NO_LIMIT = 1 << 60


class GroupMemory(NamedTuple):
    """The memory that this process's control groups (a container's) leave it, in bytes."""

    limit: int
    left: int


def group_memory(root: Path = Path("/")) -> GroupMemory | None:
    """The tightest limit of this process's control groups, and the least that any of them has left.

    None without a limit. Memory that the system uses to cache files counts as free."""
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
