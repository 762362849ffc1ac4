"""Characters of several tokens: the tiny model has a token for each byte."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from wasi_nn import Host

TINY = Path(__file__).parents[3] / "conformance" / "graphs" / "ggml" / "tiny.gguf"
TEXTS = ["hi 😀 ü", "你好", "é", "👋🏽a", "ascii"]


@pytest.fixture
def writing():
    with Host() as host:

        def write(text, **config):
            config = {"grammar": f'root ::= "{text}"', "temp": 0, **config}
            return host.load(TINY, config=config).init_execution_context()

        yield write


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_whole_characters(writing, text):
    with writing(text) as context:
        context.set_input("prompt", "x")
        pieces = list(context.stream_text())
    assert "".join(pieces).startswith(text)
    assert not any("\ufffd" in piece for piece in pieces)
    assert "" not in pieces


def test_leaving_early_ends_the_text(writing):
    with writing("😀😀") as context:
        context.set_input("prompt", "x")
        for piece in context.stream_text():
            assert piece == "😀"
            break
        context.set_input("prompt", "x")
        assert next(context.stream_text()) == "😀"


class TestStandardOutput:
    @pytest.mark.parametrize("text", TEXTS)
    def test_without_a_buffer(self, writing, monkeypatch, text):
        output = io.StringIO()
        monkeypatch.setattr(sys, "stdout", output)
        with writing(text, **{"stream-stdout": True}) as context:
            context.set_input("prompt", "x")
            context.compute()
        assert output.getvalue().startswith(text)
        assert "\ufffd" not in output.getvalue()
