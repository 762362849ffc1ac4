"""Guests that end workers which they share with others."""

from __future__ import annotations

from wasi_nn._worker.endings import WorkerEnded
from wasi_nn.errors import RuntimeFailure

# How often a guest may end a shared worker.
_MAX_OFFENCES = 3


class Offences:
    """How often one guest has ended a worker that others use too."""

    def __init__(self) -> None:
        self._count = 0

    def add(self) -> None:
        """The guest has ended one more."""
        self._count += 1

    def check(self) -> None:
        """Raise ``RuntimeFailure`` if the guest may not use such workers any more."""
        if self._count >= _MAX_OFFENCES:
            raise RuntimeFailure(
                f"the guest has ended a worker {self._count} times that other guests use too: it "
                "gets no further named model, and no further context of one"
            )

    def __enter__(self) -> None:
        """Begin a block in which the guest loads a named model, with a config of its own."""
        self.check()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, WorkerEnded):
            self.add()
