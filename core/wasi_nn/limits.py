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
    - ``model_bytes``: bytes of the models that the guest has brought and still holds.
    - ``tensor_bytes``: bytes of tensors at one time: inputs that are set, tensors of a component,
      and the output that is read.
    - ``compute_timeout``: seconds of one computation, or None for no limit. The guest continues
      without its result.
    - ``compute_seconds``: seconds of all computations, or None for no limit. The guest ends.
    - ``tokens``: how many tokens the guest's language models may generate in all.
    - ``tokens_per_second``: how many tokens its language models may generate in a second on
      average, or None for no limit. The guest waits.
    - ``wasm_bytes``: bytes of the guest's binary. A compiler takes many times as much memory.
    - ``files``: how many files the guest may have open at one time. (A component is not limited.)
    - ``sockets``: how many sockets the guest may have at one time.
    - ``workers``: how many workers the guests of the host may have together when this guest needs
      one more. (A worker that guests share is not counted.)

    The limits of a run are laid over those of its host, field by field. Where the run gives no
    value, the host's value holds. Where both give one, the lower value holds. With ``loosen`` the
    run's own value holds, even if it allows more:

        host = Host(limits=Limits(timeout=10, memory=1 << 30))
        program.run(limits=Limits(timeout=2))  # 2 seconds and 1 GiB
        program.run(limits=Limits(memory=4 << 30))  # 10 seconds and 1 GiB
        program.run(limits=Limits(memory=4 << 30, loosen=True))  # 10 seconds and 4 GiB

    A timeout stops a guest that computes, in Wasm or in a library that can be stopped, and a guest
    that sleeps or waits for its standard input.
    """

    timeout: float | None = None
    memory: int | None = None
    fuel: int | None = None
    graphs: int = _Default(256)
    contexts: int = _Default(4096)
    host_memory: int | None = None
    output: int = _Default(256 << 20)
    model_bytes: int = _Default(2 << 30)
    tensor_bytes: int = _Default(1 << 30)
    compute_timeout: float | None = None
    compute_seconds: float | None = None
    tokens: int = _Default(1 << 20)
    tokens_per_second: float | None = None
    wasm_bytes: int = _Default(128 << 20)
    files: int = _Default(256)
    sockets: int = _Default(256)
    workers: int = _Default(256)
    loosen: bool = False

    def host_memory_bytes(self) -> int:
        """The value of ``host_memory``, or what None stands for on this machine."""
        return _default_host_memory() if self.host_memory is None else self.host_memory

    def given(self) -> Limits:
        """These limits without the defaults, for a program's own contexts."""
        most = _MAX_VALUE - 1
        limits = self if self.host_memory is not None else self._replace(host_memory=most)
        defaults: dict[str, Any] = {
            name: most for name in _FIELDS if isinstance(getattr(self, name), _Default)
        }
        return limits._replace(**defaults)

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
        for name in _SECONDS:
            if laid[name] is not None:
                # Infinity, for example, is longer than any thread can wait.
                laid[name] = min(laid[name], threading.TIMEOUT_MAX)
        return Limits(**laid)

    def check(self) -> None:
        """Raise ``UsageError`` for a value that is not a limit."""
        for name in _SECONDS:
            seconds = getattr(self, name)
            if seconds is not None and (
                isinstance(seconds, bool) or not isinstance(seconds, Real) or seconds != seconds
            ):
                raise UsageError(
                    f"the {name} is {seconds!r}, and must be a number of seconds or None"
                )
        for name in _FIELDS:
            value = getattr(self, name)
            if name == "tokens_per_second" and value is not None:
                if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                    raise UsageError(
                        f"the limit {name} is {value!r}, and must be a number above 0 or None"
                    )
                continue
            if name in _SECONDS or (value is None and name in _OPTIONAL):
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
_SECONDS = ("timeout", "compute_timeout", "compute_seconds")
_OPTIONAL = ("memory", "fuel", "host_memory", "tokens_per_second")
