"""The sockets of one guest, by number."""

from __future__ import annotations

from wasi_nn._sockets.endpoint import Endpoint
from wasi_nn._sockets.errnos import BADF, NOTSOCK, NOTSUP, WasiError

#: The first number. Engines give lower ones to files, always the lowest that is free.
FIRST = 1 << 16
_LAST = (1 << 31) - 1
#: The standard streams are below it.
STREAMS = 3


class Table:
    """The sockets. A number is not given again soon: a guest that closes one twice learns it."""

    def __init__(self) -> None:
        self._open: dict[int, Endpoint] = {}
        self._next = FIRST

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, number: int) -> bool:
        return number in self._open

    def find(self, number: int) -> Endpoint | None:
        """The socket of a number; None for a number that the engine may know."""
        return self._open.get(number)

    def socket(self, number: int) -> Endpoint:
        """The socket of a number. Raises ``WasiError`` for anything else."""
        found = self._open.get(number)
        if found is None:
            raise WasiError(NOTSOCK if number < STREAMS else BADF)
        return found

    def add(self, endpoint: Endpoint, number: int | None = None) -> int:
        """Give a socket a number: the next one unless a ``number`` is given."""
        if number is None:
            while self._next in self._open:
                self._next += 1
            number, self._next = self._next, self._next + 1
            if self._next > _LAST:
                self._next = FIRST
        self._open[number] = endpoint
        return number

    def close(self, number: int) -> None:
        """Close a socket."""
        self._open.pop(number).close()

    def renumber(self, source: int, target: int) -> None:
        """Give the number ``target`` to a socket. What had it is closed: another socket, or a
        standard stream, which the guest sees no more. Raises ``WasiError``."""
        moved = self._open.get(source)
        if moved is None:
            # An engine cannot give one of its files a number of ours.
            raise WasiError(BADF if source >= FIRST else NOTSUP)
        if target not in self._open and target >= STREAMS:
            raise WasiError(BADF if target >= FIRST else NOTSUP)
        if source != target:
            del self._open[source]
            if target in self._open:
                self.close(target)
            self._open[target] = moved

    def close_all(self) -> None:
        """Close the sockets of a guest that has ended."""
        while self._open:
            self._open.popitem()[1].close()
