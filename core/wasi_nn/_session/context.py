"""A guest's open execution context, and what the session knows about it."""

from __future__ import annotations

from contextlib import AbstractContextManager

from wasi_nn._models.loading import LoadedGraph
from wasi_nn._process.fork import keep
from wasi_nn._process.signals import raised_by_handler
from wasi_nn._session.ledger import Reservation
from wasi_nn.backend import ExecutionContext, StreamingContext
from wasi_nn.errors import ForkedProcess, UnsupportedOperation
from wasi_nn.escaping import logger, trace_of

log = logger("wasi_nn")


class ContextEntry:
    """An open execution context; ``loaded`` keeps its graph alive."""

    __slots__ = (
        "__weakref__",
        "context",
        "graph_handle",
        "held",
        "loaded",
        "looks",
        "reservation",
        "turn",
        "unloaded",
    )

    def __init__(
        self,
        context: ExecutionContext,
        loaded: LoadedGraph,
        graph_handle: int,
        turn: AbstractContextManager[None],
        reservation: Reservation,
    ) -> None:
        self.context = context
        self.loaded = loaded
        #: A block of calls into the context.
        self.turn = turn
        self.reservation = reservation
        self.looks = loaded.checked.looks
        self.graph_handle = graph_handle
        self.unloaded = False
        keep(self)
        #: Bytes of each input that the host keeps.
        self.held: dict[int | str, int] = {}

    def stream(self) -> StreamingContext:
        """The context, where it streams. Raises ``UnsupportedOperation``."""
        if not isinstance(self.context, StreamingContext):
            raise UnsupportedOperation(
                f"backend {self.loaded.backend.name} does not stream: use compute and get_output"
            )
        return self.context

    def close(self) -> None:
        """Close the context; raises nothing but what a signal's handler does."""
        try:
            with self.loaded.turn(lambda: False):
                self.context.close()
        except ForkedProcess:
            pass  # (It is the parent's.)
        except Exception as error:
            if raised_by_handler(error) is not None:
                raise
            title = self.loaded.backend.title
            log.error("%s failed to close a context\n  %s", title, trace_of(error))
