"""The text that a context has written, and what the host keeps of it."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from wasi_nn.backend import Journal, Reserve

# In a journal, after the tokens of a text that no ``compute_single`` continues.
_ENDED = -1


class Output:
    """Tokens and their bytes, which are counted with ``reserve``."""

    def __init__(self, reserve: Reserve) -> None:
        self._reserve = reserve
        self._reserved = 0
        self.text = bytearray()
        self.tokens = array("i")
        #: The bytes of the newest token.
        self.piece = b""
        #: How many tokens the host has, and whether it must forget those of an earlier text.
        self._kept = 0
        self._begins = False
        self._ended = False

    def add(self, token: int, piece: bytes) -> None:
        """Write a token."""
        self.piece = piece
        self.write(piece)
        self.tokens.append(token)

    def write(self, data: bytes) -> None:
        """Write bytes that are not of a token. Raises ``RuntimeFailure`` above the limit."""
        self._reserve(len(data))
        self._reserved += len(data)
        try:
            self.text += data
        except BufferError:
            # An embedder still holds a view of an earlier output. That one stays as it is.
            self.text = self.text + data

    def clear(self) -> None:
        """Begin a new text."""
        reserved, self._reserved = self._reserved, 0
        if reserved:
            self._reserve(-reserved)
        self.text = bytearray()
        self.tokens = array("i")
        self.piece = b""
        self._kept, self._begins, self._ended = 0, True, False

    def journal(self, continues: bool) -> Journal:
        """The tokens since the last call. ``continues`` says whether others may follow."""
        new, begins = self.tokens[self._kept :], self._begins
        self._kept, self._begins = len(self.tokens), False
        if self.tokens and not continues and not self._ended:
            self._ended = True
            new.append(_ENDED)
        return Journal(new.tobytes(), begins)


def read_journal(data: bytes) -> tuple[Iterable[int], bool]:
    """The tokens of a journal, and whether others may follow."""
    tokens = array("i", data)
    ended = bool(tokens) and tokens[-1] == _ENDED
    return tokens[: len(tokens) - ended], not ended
