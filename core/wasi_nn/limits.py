"""What a guest may use at most."""

from __future__ import annotations

import os
from typing import NamedTuple


def _half_of_memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):
        return 0


class Limits(NamedTuple):
    """Limits of one guest; None is no limit.

    ``timeout`` is in seconds of wall-clock time, ``memory`` in bytes of linear memory, ``fuel`` in
    the engine's units. ``graphs`` counts the graphs, and ``contexts`` the execution contexts, that
    the guest holds at one time; ``held`` the bytes that the host keeps for it alone (models, input
    tensors, the KV caches of language models), by default half of this machine's memory and at
    least 4 GiB; ``output`` the bytes that are captured of each of its streams.

    A deadline reaches a guest that computes, in Wasm or in a library that can be stopped. One that
    sits in a system call (it sleeps, it reads a terminal) is noticed when the call returns.
    """

    timeout: float | None = None
    memory: int | None = None
    fuel: int | None = None
    graphs: int = 1024
    contexts: int = 65536
    held: int = max(4 << 30, _half_of_memory())
    output: int = 256 << 20
