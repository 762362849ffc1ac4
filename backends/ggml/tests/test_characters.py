"""Characters of several tokens. The tiny model has a token for each byte."""

from __future__ import annotations

import asyncio
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
def test_stream_text_yields_whole_characters(writing, text):
    with writing(text) as context:
        context.set_input("prompt", "x")
        pieces = list(context.stream_text())
    assert "".join(pieces).startswith(text)
    assert not any("\ufffd" in piece for piece in pieces)
    assert "" not in pieces


def test_leaving_a_stream_early_ends_the_text(writing):
    with writing("😀😀") as context:
        context.set_input("prompt", "x")
        for piece in context.stream_text():
            assert piece == "😀"
            break
        context.set_input("prompt", "x")
        assert next(context.stream_text()) == "😀"


class TestStandardOutput:
    @pytest.mark.parametrize("text", TEXTS)
    def test_an_output_without_a_buffer_gets_whole_characters(self, writing, monkeypatch, text):
        output = io.StringIO()
        monkeypatch.setattr(sys, "stdout", output)
        with writing(text, **{"stream-stdout": True}) as context:
            context.set_input("prompt", "x")
            context.compute()
        assert output.getvalue().startswith(text)
        assert "\ufffd" not in output.getvalue()


@pytest.mark.parametrize("text", TEXTS)
def test_an_asynchronous_stream_yields_whole_characters(writing, text):
    async def main():
        with writing(text) as context:
            context.set_input("prompt", "x")
            return [piece async for piece in context.stream_text_async()]

    pieces = asyncio.run(main())
    assert "".join(pieces).startswith(text)
    assert not any("\ufffd" in piece for piece in pieces)


def test_cancelling_a_task_ends_its_text_and_not_the_model(writing):
    async def read(context, pieces):
        context.set_input("prompt", "x")
        async for piece in context.stream_text_async():
            pieces.append(piece)

    async def main():
        with Host() as host:
            model = host.load(TINY, config={"temp": 0, "ignore-eos": True})
            for _ in range(5):
                with model.init_execution_context() as context:
                    pieces: list[str] = []
                    task = asyncio.ensure_future(read(context, pieces))
                    while not pieces and not task.done():
                        await asyncio.sleep(0.001)
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
            # The model itself goes on.
            with model.init_execution_context() as context:
                context.set_input("prompt", "x")
                assert next(context.stream(), None) is not None

    asyncio.run(main())
