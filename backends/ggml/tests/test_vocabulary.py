"""Texts that a vocabulary has no tokens for."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import needs

from wasi_nn.backend import LoadOptions, unlimited
from wasi_nn.errors import InvalidArgument, PromptTooLong
from wasi_nn.types import Tensor, TensorType
from wasi_nn_ggml.backend import GgmlBackend
from wasi_nn_ggml.guard import vocabulary

needs("xllamacpp")

BYTES = [b"<0x%02X>" % byte for byte in range(256)]
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
        known = vocabulary.read(["é".encode(), "▁".encode(), *BYTES[:128]])
        assert 0xC3 in known.missing
        known.check("a é".encode())
        for text in ("è", "éa\x80", "▂"):
            with pytest.raises(InvalidArgument, match=r"token"):
                known.check(text.encode())
        with pytest.raises(InvalidArgument):
            known.check(b"\xc3")

    def test_a_byte_may_be_its_own_token(self):
        assert vocabulary.read(BYTES).missing == frozenset()
        assert vocabulary.read(RAW).missing == {0}
        vocabulary.read(RAW).check("é \n\x7f".encode())


def test_a_prompt_that_cannot_fit_is_not_read(load, remake):
    """One byte more than the longest tokens have is rejected."""
    context = load(remake()).init_execution_context(unlimited)
    put(context, b"a" * (256 * 512))
    with pytest.raises(PromptTooLong, match=f"at most {256 * 512}"):
        put(context, b"a" * (256 * 512 + 1))
