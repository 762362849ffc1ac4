"""Vocabularies that llama.cpp must not load, and texts that a vocabulary has no tokens for."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest
from conftest import needs

from wasi_nn.backend import LoadOptions, unlimited
from wasi_nn.errors import InvalidArgument, PromptTooLong, RuntimeFailure
from wasi_nn.types import Tensor, TensorType
from wasi_nn_ggml.backend import GgmlBackend
from wasi_nn_ggml.guard import gguf, vocabulary

needs("xllamacpp")

BYTES = [b"<0x%02X>" % byte for byte in range(256)]
ESCAPED = [rb"\x%02x" % byte if byte < 33 or byte > 126 else bytes([byte]) for byte in range(256)]
# Types that make no token a byte or a special one.
PLAIN = {b"tokenizer.ggml.token_type": [1] * 398}
RAW = [bytes([byte]) if byte else b"[NUL]" for byte in range(256)]


def put(context, data, key=0):
    context.set_input(key, Tensor(TensorType.U8, (1,), memoryview(data)))


@pytest.fixture(params=["path", "bytes"])
def load(request, tmp_path):
    """Loads a model from a file, and from a guest's bytes."""
    graphs = []

    def make(data, **config):
        path = tmp_path / "model.gguf"
        path.write_bytes(data)
        builder: Path | memoryview = path if request.param == "path" else memoryview(data)
        options = LoadOptions("ggml", config={"threads": 1, "ctx-size": 256, **config})
        graphs.append(GgmlBackend().load([builder], options))
        return graphs[-1]

    yield make
    for graph in graphs:
        graph.close()


def renamed(names):
    """The known tokens, some renamed."""
    return lambda known: [names.get(token, token) for token in known]


class TestBytesWithoutAToken:
    """llama.cpp would end the process at the first text that needs one."""

    @pytest.fixture
    def context(self, load, remake):
        names = {b"<0x0A>": b"\n", b"<0xC3>": b"(0xC3)", b"<0x00>": b"(0x00)"}
        model = remake(tokens=renamed(names), keys=PLAIN)
        return load(model).init_execution_context(unlimited)

    @pytest.mark.parametrize("text", ["Hello\nyou", "a b", "你", "\x01", "ß"[:0]])
    def test_a_text_that_does_not_need_the_byte_is_read(self, context, text):
        put(context, text.encode())
        assert context.n_prompt_tokens >= len(text)

    @pytest.mark.parametrize(("text", "byte"), [("é", "C3"), ("ab\0c", "00"), ("Ã" * 9000, "C3")])
    def test_a_text_that_needs_the_byte_is_rejected(self, context, text, byte):
        with pytest.raises(InvalidArgument, match=f"byte 0x{byte}"):
            put(context, text.encode())

    def test_a_space_is_written_in_three_bytes(self, load, remake):
        names = {b"<0xE2>": b"(0xE2)", "▁".encode(): b"(space)"}
        model = remake(tokens=renamed(names), keys=PLAIN)
        context = load(model).init_execution_context(unlimited)
        with pytest.raises(InvalidArgument, match="byte 0xE2"):
            put(context, b"a")

    def test_a_character_that_is_a_token_needs_no_bytes(self):
        known = vocabulary.read(b"llama", ["é".encode(), "▁".encode(), *BYTES[:128]])
        assert 0xC3 in known.missing
        known.check("a é".encode())
        for text in ("è", "éa\x80", "▂"):
            with pytest.raises(InvalidArgument, match=r"token"):
                known.check(text.encode())
        with pytest.raises(InvalidArgument):
            known.check(b"\xc3")

    def test_a_byte_may_be_its_own_token(self):
        assert vocabulary.read(b"llama", BYTES).missing == frozenset()
        assert vocabulary.read(b"llama", RAW).missing == {0}
        vocabulary.read(b"llama", RAW).check("é \n\x7f".encode())
        assert not vocabulary.read(b"gpt2", RAW[:40]).missing


@pytest.mark.parametrize("tokens", [[b"a", b"a"], [b"a", b"a\0b"], [b"", b"[EMPTY_0]"]])
def test_tokens_that_llama_cpp_takes_for_the_same_are_rejected(tokens):
    with pytest.raises(RuntimeFailure, match="twice"):
        vocabulary.read(b"gpt2", tokens)


class TestSizes:
    def test_a_token_has_a_maximum_length(self, load, remake):
        def long(length):
            return lambda known: [*known[:-1], b"z" * length]

        for tokenizer, most in ((b"llama", 4096), (b"bert", 256), (b"t5", 1024)):
            with pytest.raises(RuntimeFailure, match=f"{most + 1} bytes: at most {most}"):
                load(remake(tokenizer, long(most + 1)))
            assert vocabulary.read(tokenizer, [b"z" * most]).longest == most

    @pytest.mark.parametrize(("longest", "most"), [(100, 512), (1000, 1000)])
    def test_a_prompt_may_be_as_long_as_its_longest_tokens(self, load, remake, longest, most):
        """One byte more is rejected."""
        model = load(remake(tokens=lambda known: [*known[:-1], b"z" * longest]))
        context = model.init_execution_context(unlimited)
        put(context, b"a" * (256 * most))
        with pytest.raises(PromptTooLong, match=f"at most {256 * most}"):
            put(context, b"a" * (256 * most + 1))

    def test_a_word_that_no_token_begins_is_read_soon(self, load, remake):
        model = load(remake(b"bert", lambda known: [*known[:-1], b"z" * 256], PLAIN))
        context = model.init_execution_context(unlimited)
        started = time.process_time()
        put(context, b"q" * 20_000)
        assert time.process_time() - started < 5

    def test_a_vocabulary_has_a_maximum_of_tokens(self, tmp_path):
        count = (1 << 21) + 1
        key = b"tokenizer.ggml.tokens"
        header = struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + struct.pack("<Q", len(key)) + key
        path = tmp_path / "model.gguf"
        with path.open("wb") as file:
            file.write(header + struct.pack("<IIQ", 9, 8, count))
            file.truncate(len(header) + 16 + 8 * count)
        with path.open("rb") as file, pytest.raises(RuntimeFailure, match=f"{count} tokens"):
            gguf.check(file.fileno())


def test_tokens_of_plamo2_must_be_utf8(load, remake):
    """llama.cpp would read beyond their end."""
    with pytest.raises(RuntimeFailure, match="not UTF-8"):
        load(remake(b"plamo2", lambda known: [*known[:-1], "ß".encode() + b"\x80" * 10]))
    vocabulary.read(b"plamo2", [*BYTES, "ß".encode()])


class TestFirstBytes:
    """RWKV's tokenizer would not advance if a token begins as the text does and none matches."""

    def test_a_first_byte_without_a_token_is_rejected(self, load, remake):
        with pytest.raises(RuntimeFailure, match="alone"):
            load(remake(b"rwkv"))

    def test_a_vocabulary_with_all_first_bytes_is_accepted(self, load, remake):
        def tokens(known):
            letters = [b"\\\\" if token == b"\\" else token for token in ESCAPED]
            return [b"<s>", *letters, b"ab", b"\\n\\n", rb"\xe4\xbd", b"\\'x"] + [
                b"t%d" % at for at in range(len(known) - 261)
            ]

        context = load(remake(b"rwkv", tokens)).init_execution_context(unlimited)
        put(context, "ab\n\né\\'x".encode())
        assert 5 <= context.n_prompt_tokens <= 8

    @pytest.mark.parametrize("token", [rb"\xe4\xbd", b"\\n\\n", b"\\\\a", "é".encode(), rb"\xZ0a"])
    def test_the_first_byte_is_found_behind_an_escape(self, token):
        without = [each for each in ESCAPED if each[:1] != b"\\"]
        without.remove(b"\x5c") if b"\x5c" in without else None
        with pytest.raises(RuntimeFailure, match="alone"):
            vocabulary.read(b"rwkv", [*without, token])
