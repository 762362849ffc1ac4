"""What a host does, step by step: for traces and metrics of your own.

``Host(observer=…)`` takes an object of a subclass. It is told of the start and the end of each run,
of each function that a guest calls, of each export that you call, and of each load of a model.
``wasi_nn.opentelemetry`` has one that makes spans. Without an observer, nothing of this is done.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal, Union

if TYPE_CHECKING:
    from wasi_nn._abi.guard import Failure

__all__ = ["Observer", "Step"]


class Step:
    """One thing that a host does. It lies within ``parent``, if there is one."""

    __slots__ = (
        *("error", "guest", "kind", "name", "parent", "request", "seconds", "started", "state"),
    )

    def __init__(
        self,
        kind: Literal["run", "export", "call", "load"],
        name: str,
        guest: str,
        request: str,
        parent: Step | None,
    ) -> None:
        #: ``run`` of a guest, a call of its ``export``, a ``call`` of a function of wasi-nn or of
        #: sockets, or of a ``Model`` without Wasm, or the ``load`` of a model by its library.
        self.kind = kind
        #: Of the program, the export, the function, or the model's file.
        self.name = name
        #: The guest's name; empty without one.
        self.guest = guest
        #: The name that the run was given with ``request=``; empty without one.
        self.request = request
        self.parent = parent
        #: ``time.perf_counter()`` at its start.
        self.started = time.perf_counter()
        #: How long it took; 0 until it has ended.
        self.seconds = 0.0
        #: What ended it, or why a call gave the guest an errno. The end of a text is not an error.
        self.error: Union[BaseException, Failure, None] = None
        #: The observer's own.
        self.state: Any = None

    def __repr__(self) -> str:
        return f"<Step {self.kind} {self.name}>"


class Observer:
    """Override what you need. The methods are called in the thread that does the step, so they
    must be quick, and may be called in several threads at a time. What they raise is logged."""

    def begin(self, step: Step) -> None:
        """The step begins."""

    def end(self, step: Step) -> None:
        """It has ended: ``seconds`` and ``error`` are set."""
