"""What stands behind the resources of `wasi:nn`."""

from __future__ import annotations

from typing import NamedTuple

from wasi_nn.types import TensorType


class GuestTensor(NamedTuple):
    """A tensor that the guest made or got."""

    dims: tuple[int, ...]
    type: TensorType
    data: bytes


class GuestError(NamedTuple):
    """An error that the guest made or got."""

    code: str
    data: str


class GuestGraph:
    """A graph of the session; its handle is given back when neither the guest nor a context of
    the guest's has it any more."""

    __slots__ = ("contexts", "dropped", "handle")

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.contexts = 0
        self.dropped = False


class GuestContext:
    """An execution context, with the inputs that are set on it; ``handle`` is ``CLOSED`` after a
    fresh one could not be opened in its place."""

    __slots__ = ("graph", "handle", "set")

    def __init__(self, handle: int, graph: GuestGraph) -> None:
        self.handle = handle
        self.graph = graph
        self.set: set[int | str] = set()


CLOSED = -1
NO_TENSOR = GuestTensor((0,), TensorType.U8, b"")
NO_ERROR = GuestError("too-large", "the guest holds more than its limit allows")
