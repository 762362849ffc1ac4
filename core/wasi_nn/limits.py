"""What a guest may use at most."""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """Limits of one guest; None is no limit.

    ``timeout`` is in seconds of wall-clock time, ``memory`` in bytes of linear memory, ``fuel`` in
    the engine's units. ``graphs`` counts the graphs, and ``contexts`` the execution contexts, that
    the guest holds at one time; ``output`` the bytes that are captured of each of its streams.
    """

    timeout: float | None = None
    memory: int | None = None
    fuel: int | None = None
    graphs: int = 1024
    contexts: int = 65536
    output: int = 256 << 20
