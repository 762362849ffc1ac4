"""What a guest may use at most, and what memory there is."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

from wasi_nn.errors import UsageError

# Engines count in 64 bits.
_MOST = 1 << 63
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


class _Default(int):
    """The value of a field that nobody has given: a run's own then leaves the host's as it is."""


class Limits(NamedTuple):
    """Limits of one guest; None is no limit.

    ``timeout`` is in seconds of wall-clock time, ``memory`` in bytes of linear memory, ``fuel`` in
    the engine's units. ``graphs`` counts the graphs, and ``contexts`` the execution contexts, that
    the guest holds at one time; ``held`` the bytes that the host keeps for it alone (models, input
    tensors, the memory of language models), by default half of this machine's memory and at least
    4 GiB, and never more than a container has; ``output`` the bytes that are captured of each of
    its streams.

    The limits of a run are laid over those of its host, field by field. A field that the run does
    not give is the host's; of one that both give the lower value holds. With ``loosen`` the run's
    own value holds, also where it allows more::

        host = Host(limits=Limits(timeout=10, memory=1 << 30))
        program.run(limits=Limits(timeout=2))  # 2 seconds and 1 GiB
        program.run(limits=Limits(memory=4 << 30))  # 10 seconds and 1 GiB
        program.run(limits=Limits(memory=4 << 30, loosen=True))  # 10 seconds and 4 GiB

    A deadline reaches a guest that computes, in Wasm or in a library that can be stopped. One that
    sits in a system call (it sleeps, it reads a terminal) is noticed when the call returns.
    """

    timeout: float | None = None
    memory: int | None = None
    fuel: int | None = None
    graphs: int = _Default(1024)
    contexts: int = _Default(65536)
    held: int = _Default(_default_held())
    output: int = _Default(256 << 20)
    loosen: bool = False

    def over(self, host: Limits) -> Limits:
        """These limits laid over a host's. Raises ``UsageError`` as ``check`` does."""
        self.check()
        laid: dict[str, Any] = {}
        for name in _FIELDS:
            own, outer = getattr(self, name), getattr(host, name)
            if own is None or isinstance(own, _Default):
                laid[name] = outer
            elif outer is None or self.loosen:
                laid[name] = own
            else:
                laid[name] = min(own, outer)
        if laid["timeout"] is not None:
            # Longer than any thread can wait, such as infinity.
            laid["timeout"] = min(laid["timeout"], threading.TIMEOUT_MAX)
        return Limits(**laid)

    def check(self) -> None:
        """Raise ``UsageError`` for a value that is not a limit."""
        seconds = self.timeout
        if seconds is not None and (
            isinstance(seconds, bool) or not isinstance(seconds, Real) or seconds != seconds
        ):
            raise UsageError(f"the timeout is {seconds!r}, and must be a number of seconds or None")
        for name in _FIELDS[1:]:
            value = getattr(self, name)
            if value is None and name in ("memory", "fuel"):
                continue
            if (
                isinstance(value, bool)
                or not isinstance(value, Integral)
                or not 0 <= int(value) < _MOST
            ):
                raise UsageError(
                    f"the limit {name} is {value!r}, and must be a whole number from 0 to 2^63 - 1"
                )


_FIELDS = Limits._fields[:-1]


def own_limits(limits: Limits | None, timeout: float | None) -> Limits:
    """What a run is given: its limits, and its timeout, where that is shorter. Raises
    ``UsageError`` as ``Limits.check`` does."""
    if limits is None:
        limits = Limits()
    elif not isinstance(limits, Limits):
        raise UsageError(f"the limits are {limits!r}, and must be Limits(…) or None")
    limits.check()
    if timeout is None:
        return limits
    with_timeout = limits._replace(timeout=timeout)
    with_timeout.check()
    if limits.timeout is not None and limits.timeout < timeout:
        return limits
    return with_timeout
