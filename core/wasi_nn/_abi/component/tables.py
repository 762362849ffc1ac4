"""The host's objects behind the resources of `wasi:nn`."""

from __future__ import annotations

from typing import NamedTuple

from wasi_nn.types import TensorType


class GuestTensor(NamedTuple):
    """A tensor that the guest made or received."""

    dims: tuple[int, ...]
    type: TensorType
    data: bytes


class GuestError(NamedTuple):
    """An error that the guest made or received."""

    code: str
    data: str


class GuestGraph:
    """A graph of the session. Its handle is released when the guest has dropped the graph and all
    of its contexts."""

    __slots__ = ("contexts", "dropped", "handle")

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.contexts = 0
        self.dropped = False


class GuestContext:
    """An execution context and the inputs set on it. ``handle`` is ``CLOSED`` if a fresh context
    was needed and could not be opened."""

    __slots__ = ("graph", "handle", "set")

    def __init__(self, handle: int, graph: GuestGraph) -> None:
        self.handle = handle
        self.graph = graph
        self.set: set[int | str] = set()


CLOSED = -1
NO_TENSOR = GuestTensor((0,), TensorType.U8, b"")
NO_ERROR = GuestError("too-large", "the guest holds more than its limit allows")
