"""A look at a model's vocabulary before llama.cpp reads texts with it.

llama.cpp ends the process where a text needs what a vocabulary lacks, and takes time or memory
without an end with some. Source: llama.cpp's src/llama-vocab.cpp.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from wasi_nn.errors import InvalidArgument, RuntimeFailure

#: Tokens of a vocabulary; real ones have a quarter of a million.
MOST_TOKENS = 1 << 21
# Bytes of a token. Those of real vocabularies that stand for white space have some hundred; where
# every beginning of a word is looked up, or every token that a place of the text may be the first
# byte of, a long one costs its square at each byte.
_LONGEST = {b"bert": 256, b"t5": 1024, b"plamo2": 1024}
_LONGEST_OF_OTHERS = 4096
_SPACE = "\u2581"


class Vocabulary(NamedTuple):
    """What a text is checked against before it is tokenised, and the length of the longest token in
    bytes. ``missing`` are the bytes that a text cannot be written with where it has a character
    that is no token; the ``characters`` that are tokens are known only if there are any."""

    longest: int = 0
    missing: frozenset[int] = frozenset()
    characters: frozenset[str] = frozenset()
    #: The bytes that a character of a text is replaced by, at most.
    replacement: int = 0

    def check(self, text: bytes) -> None:
        """Raise ``InvalidArgument`` for a text that the vocabulary has no tokens for: llama.cpp
        would end the process."""
        if not self.missing:
            return
        try:
            characters = set(text.decode("utf-8").replace(" ", _SPACE))
        except UnicodeDecodeError as error:
            raise InvalidArgument(
                f"the model's vocabulary has no token for some bytes: {error}"
            ) from error
        # It may put a space before the text.
        for character in {*characters, _SPACE} - self.characters:
            for byte in character.encode("utf-8"):
                if byte in self.missing:
                    raise InvalidArgument(
                        f"the model cannot read {character!r}: its vocabulary has a token neither "
                        f"for it nor for the byte 0x{byte:02X}"
                    )


def read(tokenizer: bytes, tokens: list[bytes]) -> Vocabulary:
    """What there is to know of the tokens of a file. Raises ``RuntimeFailure`` with the reason for
    those that llama.cpp must not get."""
    # As llama.cpp keeps them: up to a NUL, and empty ones by their numbers.
    kept = {token.partition(b"\0")[0] or b"[EMPTY_%d]" % at for at, token in enumerate(tokens)}
    if len(kept) != len(tokens):
        raise RuntimeFailure("the GGUF file's vocabulary names a token twice")
    longest = max(map(len, kept), default=0)
    most = _LONGEST.get(tokenizer, _LONGEST_OF_OTHERS)
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
    # The token of a byte itself is sought as a C string.
    return b"<0x%02X>" % byte in kept or (byte != 0 and bytes([byte]) in kept)


def _characters(kept: Collection[bytes]) -> frozenset[str]:
    texts = (token.decode("utf-8", "replace") for token in kept if len(token) <= 4)
    return frozenset(text for text in texts if len(text) == 1 and text != "\ufffd")


def _check_text(kept: Collection[bytes]) -> None:
    """It counts the characters of these tokens, and reads their bytes."""
    for token in kept:
        try:
            token.decode("utf-8")
        except UnicodeDecodeError:
            raise RuntimeFailure(
                f"the GGUF file's vocabulary has a token that is not UTF-8: {token[:80]!r}"
            ) from None


def _check_first_bytes(kept: Collection[bytes]) -> None:
    """It goes on from where the longest token that fits ends, and from the same place when none
    fits although one begins so."""
    plain = [_unescaped(token) if b"\\" in token else token for token in kept]
    alone = {token for token in plain if len(token) == 1}
    for token in plain:
        if token and token[:1] not in alone:
            raise RuntimeFailure(
                f"the GGUF file's vocabulary has no token for the byte 0x{token[0]:02X} alone, and "
                f"one that begins with it: {token[:80]!r}"
            )


def _unescaped(token: bytes) -> bytes:
    """A token of RWKV as llama.cpp reads it, mistakes included."""
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
