"""The end of a guest, as its calls see it."""

from __future__ import annotations

from wasi_nn.errors import RuntimeFailure


class Cancellation:
    """Whether calls must end. Any thread may set ``requested``."""

    __slots__ = ("requested",)

    def __init__(self) -> None:
        self.requested = False

    def is_requested(self) -> bool:
        """``requested``, for those who wait."""
        return self.requested

    def check(self) -> None:
        """Raise ``RuntimeFailure`` once the end was requested."""
        if self.requested:
            raise RuntimeFailure("the guest is being stopped")
