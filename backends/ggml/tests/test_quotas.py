"""A guest's quota of tokens, in a worker and in the host's own process."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from conftest import needs

from wasi_nn import Host, Limits, Tensor, TensorType
from wasi_nn.errors import ContextFull, OutOfTokens, PromptTooLong

needs("jinja2")
TINY = Path(__file__).parents[3] / "conformance" / "graphs" / "ggml" / "tiny.gguf"
ENDLESS = {"temp": 0, "seed": 1, "ignore-eos": True, "ctx-size": 256}


@pytest.fixture(params=["none", "shared"])
def opened(plugins, request):
    """A function that opens contexts of one session, which may generate 20 tokens."""
    try:
        host = Host(plugins=plugins, limits=Limits(tokens=20))
        host.add_model("tiny", TINY, config=ENDLESS, isolation=request.param)
        session = host.open_session()

        def make(**config):
            graph = session.load_by_name("tiny", config)
            context = session.contexts[session.init_execution_context(graph)]
            context.set_input(0, text(b"Hello"))
            return context

        with host, session:
            yield make
    finally:
        host.close()


def text(data: bytes) -> Tensor:
    return Tensor(TensorType.U8, (len(data),), memoryview(data))


def tokens(context) -> int:
    return json.loads(bytes(context.get_output(1).data))["output_tokens"]


def test_a_text_stops_at_the_quota_and_can_be_read(opened):
    context = opened()
    with pytest.raises(OutOfTokens, match="quota tokens: the guest has generated all"):
        context.compute()
    assert tokens(context) == 20
    assert len(context.get_output(0).data) > 0
    with pytest.raises(OutOfTokens):
        opened().compute()


def test_a_text_that_needs_the_last_token_is_whole(opened):
    context = opened(**{"n-predict": 20})
    context.compute()
    assert tokens(context) == 20


def test_steps_whole_texts_and_those_that_fail_count_together(opened):
    whole, stream, full = opened(**{"n-predict": 8}), opened(), opened()
    whole.compute()
    for _ in range(5):
        stream.compute_single()
    # The prompt takes almost the whole context.
    for length in range(1000, 0, -1):
        full.set_input(0, text(b"a" * length))
        with contextlib.suppress(PromptTooLong, ContextFull):
            full.compute()
        if tokens(full):
            break
    left = 20 - 8 - 5 - tokens(full)
    assert 0 < left < 7
    for _ in range(left):
        stream.compute_single()
    with pytest.raises(OutOfTokens):
        stream.compute_single()
