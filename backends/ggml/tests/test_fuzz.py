"""Any config and prompt of a guest give a text or an error. llama.cpp ends its process on some
settings, and that would end these tests too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import needs
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from wasi_nn.backend import LoadOptions, unlimited
from wasi_nn.errors import NnError
from wasi_nn.types import Tensor, TensorType
from wasi_nn_ggml import keys
from wasi_nn_ggml.backend import GgmlBackend

needs("xllamacpp")

TINY = Path(__file__).parents[3] / "conformance" / "graphs" / "ggml" / "tiny.gguf"
# Locking memory depends on the system.
FLAGS = sorted(set(keys.FLAGS) - {"use-mlock", "tts", "stream-stdout"})
TEXTS = {
    "split-mode": ["none", "layer", "row"],
    "flash-attn": ["on", "off", "auto"],
    "tensor-split": ["1", "0", "3,2"],
    "reverse-prompt": ["a", " ", "\u00e9"],
    "grammar": [
        'root ::= "y"', "root ::= root", 'root ::= "a" root | ""', 'root ::= ""',
        'root ::= ("a"?)*',
        "root ::= [a-z]{0,100}", 'root ::= "a"{5,2}', 'root ::= "a"{2}{0,2}*',
        'root ::= a\na ::= b\nb ::= a | "x"', "root ::= [^\\x00-\\x7f]",
    ],
    "json-schema": ["{}", '{"enum": [1]}', '{"items": {"$ref": "#"}}', '{"type": "string"}'],
}  # fmt: skip
whole = st.sampled_from([-2, -1, 0, 1, 2, 3, 5, 16, 64, 256, 300, 512, 1000, 1 << 31, 1 << 63])
number = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0, 1, -1, 0.5, 1e9])
values = {
    **{key: st.booleans() for key in FLAGS},
    **dict.fromkeys(keys.WHOLE, whole),
    **dict.fromkeys(keys.NUMBERS, number),
    **{key: st.sampled_from(texts) for key, texts in TEXTS.items()},
}
configs = st.lists(st.sampled_from(sorted(values)), max_size=6, unique=True).flatmap(
    lambda keys: st.fixed_dictionaries({key: values[key] for key in keys})
)
# More tokens than a small ubatch has, and about as many as the context.
LONG = "hello you " * 24


@pytest.fixture(scope="module")
def graph():
    config = {"threads": 1, "ctx-size": 256, "n-predict": 6}
    return GgmlBackend().load([TINY], LoadOptions("ggml", config=config))


def put(context, text, key):
    context.set_input(key, Tensor(TensorType.U8, (1,), memoryview(text.encode())))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    config=configs,
    prompt=st.text(max_size=40) | st.sampled_from([LONG, LONG[:100]]),
    single=st.booleans(),
)
@example(config={"attention-type": 1, "ubatch-size": 16}, prompt=LONG, single=False)
@example(config={"embedding": True, "ubatch-size": 2}, prompt=LONG, single=False)
def test_any_config_gives_a_text_or_an_error(graph, config, prompt, single):
    # A larger one is rejected for its memory, which differs between machines.
    assume(config.get("ctx-size", 0) <= 100_000)
    context = graph.init_execution_context(unlimited)
    try:
        put(context, json.dumps(config), 1)
        put(context, prompt, 0)
        if single:
            for _ in range(4):
                context.compute_single()
        else:
            context.compute()
    except NnError:
        pass
    finally:
        bytes(context.get_output(0).data)
        json.loads(bytes(context.get_output(1).data))
        context.close()


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=60), key=st.sampled_from([0, 1, 2, -1, "prompt", "x"]))
def test_any_input_is_taken_or_an_error(graph, text, key):
    context = graph.init_execution_context(unlimited)
    try:
        put(context, text, key)
    except NnError:
        pass
    finally:
        context.close()


@settings(max_examples=300, deadline=None)
@example(text='"a"{5,2}')
@example(text='"a"{2000,1999}')
@example(text='"a"{%s}' % ("9" * 5000))
@example(text='"a"? ' * 2000)
@example(text='" "* root "b" | "a"')
@given(text=st.text('root:=()[]{}|*+?"\\ab-^.,0123456789 \n', max_size=40))
def test_any_grammar_gives_a_text_or_an_error(graph, text):
    context = graph.init_execution_context(unlimited)
    try:
        put(context, json.dumps({"grammar": f"root ::= {text}"}), 1)
        put(context, "Hello", 0)
        context.compute()
    except NnError:
        pass
    finally:
        context.close()
