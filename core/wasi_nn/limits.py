"""What a guest may use at most."""

from __future__ import annotations

import os
import threading
from functools import lru_cache
from numbers import Integral, Real
from typing import Any, NamedTuple

from wasi_nn.errors import UsageError

__all__ = ["Limits"]

# Engines count in 64 bits.
_MAX_VALUE = 1 << 63


@lru_cache(maxsize=1)
def _default_host_memory() -> int:
    from wasi_nn.backend.memory import group_memory

    try:
        half = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):
        half = 0
    most = max(4 << 30, half)
    group = group_memory()
    return most if group is None else min(most, group.limit)


class _Default(int):
    """The value of a field that was not given: the host's value then holds for a run."""


class Limits(NamedTuple):
    """Limits of one guest.

    - ``timeout``: seconds of wall-clock time, or None for no limit.
    - ``memory``: bytes of linear memory, or None for no limit.
    - ``fuel``: in the engine's units, or None for no limit.
    - ``graphs`` and ``contexts``: how many the guest may have at one time.
    - ``host_memory``: bytes that the host keeps for this guest alone (models, input tensors, the
      memory of language models). None is half of this machine's memory, at least 4 GiB, and at
      most what the container allows.
    - ``output``: bytes that are captured of each output stream.

    The limits of a run are laid over those of its host, field by field. Where the run gives no
    value, the host's value holds. Where both give one, the lower value holds. With ``loosen`` the
    run's own value holds, even if it allows more::

        host = Host(limits=Limits(timeout=10, memory=1 << 30))
        program.run(limits=Limits(timeout=2))  # 2 seconds and 1 GiB
        program.run(limits=Limits(memory=4 << 30))  # 10 seconds and 1 GiB
        program.run(limits=Limits(memory=4 << 30, loosen=True))  # 10 seconds and 4 GiB

    A timeout stops a guest that computes, in Wasm or in a library that can be stopped. If the
    guest is in a system call (it sleeps, it reads a terminal), it stops when the call returns.
    """

    timeout: float | None = None
    memory: int | None = None
    fuel: int | None = None
    graphs: int = _Default(1024)
    contexts: int = _Default(65536)
    host_memory: int | None = None
    output: int = _Default(256 << 20)
    loosen: bool = False

    def host_memory_bytes(self) -> int:
        """The value of ``host_memory``, or what None stands for on this machine."""
        return _default_host_memory() if self.host_memory is None else self.host_memory

    def over(self, host: Limits) -> Limits:
        """These limits laid over a host's. Raises ``UsageError`` as ``check`` does."""
        self.check()
        if self.host_memory is not None:
            host = host._replace(host_memory=host.host_memory_bytes())
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
            # Infinity, for example, is longer than any thread can wait.
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
            if value is None and name in ("memory", "fuel", "host_memory"):
                continue
            if (
                isinstance(value, bool)
                or not isinstance(value, Integral)
                or not 0 <= int(value) < _MAX_VALUE
            ):
                raise UsageError(
                    f"the limit {name} is {value!r}, and must be a whole number from 0 to 2^63 - 1"
                )


_FIELDS = Limits._fields[:-1]
