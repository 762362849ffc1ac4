"""Checks a model's vocabulary, and texts against it, before llama.cpp tokenises with it.

llama.cpp ends the process if a text needs a token that the vocabulary lacks. With some vocabularies
it takes unbounded time or memory. Source: llama.cpp's src/llama-vocab.cpp.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from wasi_nn.errors import InvalidArgument, RuntimeFailure

#: Tokens of a vocabulary. Real ones have a quarter of a million.
MAX_TOKENS = 1 << 21
# Length of a token in bytes. In real vocabularies the longest, for white space, have some hundred.
# These tokenizers look up every prefix of a word, or every token that may begin at a place, so a
# long token costs its square at each byte of a text.
_MAX_LENGTHS = {b"bert": 256, b"t5": 1024, b"plamo2": 1024}
_MAX_LENGTH = 4096
_SPACE = "\u2581"


class Vocabulary(NamedTuple):
    """What texts are checked against. ``longest`` is the length of the longest token in bytes.
    ``missing`` are the bytes without a token: a text may have one only within a character that is
    itself a token. ``characters`` are these tokens, filled only if bytes are missing."""

    longest: int = 0
    missing: frozenset[int] = frozenset()
    characters: frozenset[str] = frozenset()
    #: The longest replacement of a character, in bytes.
    replacement: int = 0

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


def read(tokenizer: bytes, tokens: list[bytes]) -> Vocabulary:
    """The vocabulary of a file's tokens. Raises ``RuntimeFailure`` with the reason if llama.cpp
    must not load them."""
    # As llama.cpp keeps them: cut at a NUL, empty ones named by their index.
    kept = {token.partition(b"\0")[0] or b"[EMPTY_%d]" % at for at, token in enumerate(tokens)}
    if len(kept) != len(tokens):
        raise RuntimeFailure("the GGUF file's vocabulary names a token twice")
    longest = max(map(len, kept), default=0)
    most = _MAX_LENGTHS.get(tokenizer, _MAX_LENGTH)
    if longest > most:
        raise RuntimeFailure(
            f"the GGUF file's vocabulary has a token of {longest} bytes: at most {most} are allowed"
        )
    if tokenizer == b"plamo2":
        _check_text(kept)
    elif tokenizer == b"rwkv":
        _check_first_bytes(kept)
    elif tokenizer == b"llama" and kept:
        missing = frozenset(byte for byte in range(256) if not _has_byte(kept, byte))
        characters = _characters(kept) if missing else frozenset()
        return Vocabulary(longest, missing, characters)
    return Vocabulary(longest)


def _has_byte(kept: Collection[bytes], byte: int) -> bool:
    # llama.cpp looks up the byte itself as a C string.
    return b"<0x%02X>" % byte in kept or (byte != 0 and bytes([byte]) in kept)


def _characters(kept: Collection[bytes]) -> frozenset[str]:
    texts = (token.decode("utf-8", "replace") for token in kept if len(token) <= 4)
    return frozenset(text for text in texts if len(text) == 1 and text != "\ufffd")


def _check_text(kept: Collection[bytes]) -> None:
    """plamo2 counts the characters of a token, and reads beyond its end if it is not UTF-8."""
    for token in kept:
        try:
            token.decode("utf-8")
        except UnicodeDecodeError:
            raise RuntimeFailure(
                f"the GGUF file's vocabulary has a token that is not UTF-8: {token[:80]!r}"
            ) from None


def _check_first_bytes(kept: Collection[bytes]) -> None:
    """rwkv continues after the longest token that matches. If none matches although a token begins
    as the text does, it continues at the same place, without end."""
    plain = [_unescaped(token) if b"\\" in token else token for token in kept]
    alone = {token for token in plain if len(token) == 1}
    for token in plain:
        if token and token[:1] not in alone:
            raise RuntimeFailure(
                f"the GGUF file's vocabulary has no token for the byte 0x{token[0]:02X} alone, and "
                f"one that begins with it: {token[:80]!r}"
            )


def _unescaped(token: bytes) -> bytes:
    """An RWKV token as llama.cpp unescapes it, mistakes included."""
    result = bytearray()
    escaping, digits, value = False, 0, 0
    for byte in token:
        if digits:
            value = (value << 4) + (byte - 87 if byte >= 97 else byte - 48) & 0xFF
            digits -= 1
            if not digits:
                result.append(value)
        elif escaping:
            escaping = False
            if byte == 0x78:
                digits, value = 2, 0
            else:
                result.append(_ESCAPES.get(byte, byte))
        elif byte == 0x5C:
            escaping = True
        else:
            result.append(byte)
    return bytes(result)


_ESCAPES = {0x74: 0x09, 0x6E: 0x0A, 0x72: 0x0D}
