"""Memory that counts against a guest's limit while something exists."""

from __future__ import annotations

from wasi_nn.backend import Reserve


class Reservation:
    """``size`` bytes of the guest's limit, until ``release`` or the end of a ``with`` block. Raises
    ``RuntimeFailure`` above the limit."""

    def __init__(self, reserve: Reserve, size: int) -> None:
        reserve(size)
        self._reserve = reserve
        self._size = size

    def release(self) -> None:
        """Give the bytes back; later calls do nothing."""
        size, self._size = self._size, 0
        if size:
            self._reserve(-size)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()
