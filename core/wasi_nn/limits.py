"""What a guest may use at most."""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """Limits of one guest; None is no limit.

    ``timeout`` is in seconds of wall-clock time, ``memory`` in bytes of linear memory, ``fuel`` in
    the engine's units. ``graphs`` counts the graphs, and ``contexts`` the execution contexts, that
    the guest holds at one time; ``held`` the bytes of the models and input tensors that the host
    keeps for it alone; ``output`` the bytes that are captured of each of its streams.

    A deadline reaches a guest that computes, in Wasm or in a library that can be stopped. One that
    sits in a system call (it sleeps, it reads a terminal) is noticed when the call returns.
    """

    timeout: float | None = None
    memory: int | None = None
    fuel: int | None = None
    graphs: int = 1024
    contexts: int = 65536
    held: int = 4 << 30
    output: int = 256 << 20
