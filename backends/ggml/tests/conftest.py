"""Models that differ from the tiny one in their headers."""

from __future__ import annotations

import struct
from pathlib import Path
from types import SimpleNamespace

import pytest

TINY = Path(__file__).parents[3] / "conformance" / "graphs" / "ggml" / "tiny.gguf"
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def text(value):
    return struct.pack("<Q", len(value)) + value


def encoded(value):
    """A value with its type: bytes are a string, an int is a u32, a bytearray is an array of bytes,
    a list an array of strings or i32."""
    if isinstance(value, bytearray):
        return struct.pack("<IIQ", 9, 0, len(value)) + value
    if isinstance(value, bytes):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    kind = 8 if isinstance(value[0], bytes) else 5
    items = map(text, value) if kind == 8 else (struct.pack("<i", each) for each in value)
    return struct.pack("<IIQ", 9, kind, len(value)) + b"".join(items)


class Header:
    """The keys of a GGUF file, each with its encoded value."""

    def __init__(self, data):
        self.data = data
        _, _, self.tensors, count = struct.unpack_from("<4sIQQ", data)
        self.at = 24
        self.values = {}
        for _ in range(count):
            key = self.string()
            start = self.at
            self.skip(self.number("<I"))
            self.values[key] = data[start : self.at]
        start = self.at
        for _ in range(self.tensors):
            self.string()
            rank = self.number("<I")
            self.at += 8 * rank + 12
        self.table, self.rest = data[start : self.at], data[-(-self.at // 32) * 32 :]

    def number(self, form):
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return value

    def string(self):
        length = self.number("<Q")
        self.at += length
        return self.data[self.at - length : self.at]

    def skip(self, kind):
        if kind == 8:
            self.string()
        elif kind == 9:
            inner, count = self.number("<I"), self.number("<Q")
            for _ in range(count):
                self.skip(inner)
        else:
            self.at += SIZES[kind]

    def texts(self, key):
        """The strings of an array."""
        (count,) = struct.unpack_from("<Q", self.values[key], 8)
        reader = object.__new__(Header)
        reader.data, reader.at = self.values[key], 16
        return [reader.string() for _ in range(count)]

    def bytes(self):
        pairs = b"".join(text(key) + value for key, value in self.values.items())
        head = struct.pack("<4sIQQ", b"GGUF", 3, self.tensors, len(self.values)) + pairs
        head += self.table
        return head + bytes(-len(head) % 32) + self.rest


@pytest.fixture(scope="session")
def header():
    """Reads and writes GGUF headers."""
    return SimpleNamespace(of=Header, encoded=encoded)


@pytest.fixture(scope="session")
def remake():
    """Makes the tiny model with another tokenizer, other tokens (a function of the present ones)
    and other keys."""

    def make(tokenizer=None, tokens=None, keys=None):
        header = Header(TINY.read_bytes())
        name = b"tokenizer.ggml."
        if tokens is not None:
            header.values[name + b"tokens"] = encoded(tokens(header.texts(name + b"tokens")))
        if tokenizer is not None:
            header.values[name + b"model"] = encoded(tokenizer)
        for key, value in (keys or {}).items():
            header.values[key] = encoded(value)
        return header.bytes()

    return make


@pytest.fixture(scope="session")
def splitting(remake):
    """Makes the tiny model with a tokenizer that splits a text with a regular expression."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    letters.update({byte: chr(256 + at) for at, byte in enumerate(others)})

    def tokens(known):
        return [
            letters[int(token[3:5], 16)].encode() if token.startswith(b"<0x") else b"<|%d|>" % at
            for at, token in enumerate(known)
        ]

    def make(pre):
        keys = {
            b"tokenizer.ggml.pre": pre,
            b"tokenizer.ggml.merges": [b"a a", b"b b"],
            b"tokenizer.ggml.token_type": [1 if 4 <= at < 260 else 3 for at in range(398)],
            b"llama.context_length": 1 << 20,
        }
        return remake(b"gpt2", tokens, keys)

    return make
