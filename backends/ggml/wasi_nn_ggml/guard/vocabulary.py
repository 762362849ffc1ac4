"""Checks texts against a model's vocabulary before llama.cpp tokenises them.

If a text needs a token that the vocabulary lacks, llama.cpp ends the process, which other guests
may use. Source: llama.cpp's src/llama-vocab.cpp.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from wasi_nn.errors import InvalidArgument

_SPACE = "\u2581"


class Vocabulary(NamedTuple):
    """What texts are checked against. ``missing`` are the bytes without a token: a text may have
    one only within a character that is itself a token. ``characters`` are these tokens, filled only
    if bytes are missing."""

    missing: frozenset[int] = frozenset()
    characters: frozenset[str] = frozenset()

    def check(self, text: bytes) -> None:
        """Raise ``InvalidArgument`` for a text that the vocabulary has no tokens for. llama.cpp
        would end the process."""
        if not self.missing:
            return
        try:
            characters = set(text.decode("utf-8").replace(" ", _SPACE))
        except UnicodeDecodeError as error:
            raise InvalidArgument(
                f"the model's vocabulary has no token for some bytes: {error}"
            ) from error
        # llama.cpp may put a space before the text.
        for character in {*characters, _SPACE} - self.characters:
            for byte in character.encode("utf-8"):
                if byte in self.missing:
                    raise InvalidArgument(
                        f"the model cannot read {character!r}: its vocabulary has no token for it, "
                        f"and none for the byte 0x{byte:02X}"
                    )


def read(tokens: Collection[bytes]) -> Vocabulary:
    """The vocabulary of a tokenizer that falls back to bytes (SentencePiece's)."""
    kept = frozenset(tokens)
    missing = frozenset(byte for byte in range(256) if not _has_byte(kept, byte))
    return Vocabulary(missing, _characters(kept) if missing else frozenset())


def _has_byte(kept: Collection[bytes], byte: int) -> bool:
    # llama.cpp looks up the byte itself as a C string.
    return b"<0x%02X>" % byte in kept or (byte != 0 and bytes([byte]) in kept)


def _characters(kept: Collection[bytes]) -> frozenset[str]:
    texts = (token.decode("utf-8", "replace") for token in kept if len(token) <= 4)
    return frozenset(text for text in texts if len(text) == 1 and text != "\ufffd")
