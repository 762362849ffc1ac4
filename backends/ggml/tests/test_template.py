"""Chat templates: real models' own in short, as transformers renders them, and hostile ones."""

from __future__ import annotations

import json
import time

import pytest

from wasi_nn import Host
from wasi_nn.errors import InvalidArgument, NnError, PromptTooLong, RuntimeFailure
from wasi_nn_ggml.llama.model import Model
from wasi_nn_ggml.protocol import chat, template
from wasi_nn_ggml.settings import ModelSettings

CHATML = """{% for message in messages %}
{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}
{%- endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
QWEN = """{%- if messages[0].role != 'system' %}
    {{- '<|im_start|>system\nYou are Qwen.<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\n' }}
    {%- if message.tool_calls %}
        {%- for call in message.tool_calls %}
            {{- '<tool_call>' + call.function.name + (call.function.arguments | tojson) }}
        {%- endfor %}
    {%- else %}
        {{- message.content }}
    {%- endif %}
    {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if tools %}
    {{- tools | tojson }}
{%- endif %}"""
LLAMA3 = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now('%Y') %}
{%- endif %}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}{{ date_string }}"""
MISTRAL = """{{ bos_token }}{% for message in messages %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('roles must alternate') }}
{%- endif %}
{%- if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}
{%- else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"""
GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}
{{ raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{- '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}
{%- endfor %}"""
PHI = """{% for message in messages %}{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + '<|end|>' }}
{% endif %}{% endfor %}"""
ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""
DEEPSEEK = """{% set ns = namespace(found='') %}{% for message in messages %}
{%- if message['role'] == 'system' %}{% set ns.found = message['content'] %}{% endif %}
{%- endfor %}{{ bos_token }}{{ ns.found }}{% for message in messages %}
{%- if message['role'] == 'assistant' and message['content'] is none %}{{ '<calls>' }}
{%- elif message['role'] == 'assistant' %}{{ message['content'].split('</think>')[-1] }}
{%- endif %}{% endfor %}"""
PARTS = """{% for message in messages %}{% for part in message.content %}
{%- if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endfor %}"""
LOOPS = """{% generation %}{% for message in messages %}
{%- if loop.index > 1 %}{% break %}{% endif %}
{{- message.content }}{% endfor %}{% endgeneration %}"""
USER = [{"role": "user", "content": " hi "}]
FUNCTION = {"name": "f", "arguments": {"é": 1}}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": FUNCTION}]}


def render(text, messages, **variables):
    known = {"messages": messages, "bos_token": "<s>", "eos_token": "</s>", "tools": None}
    return template.render(
        text, {**known, "add_generation_prompt": True, **variables}, 1 << 20, lambda: False
    )


@pytest.mark.parametrize(
    ("text", "messages", "right"),
    [
        (CHATML, USER, "<|im_start|>user\n hi <|im_end|>\n<|im_start|>assistant\n"),
        (
            QWEN,
            USER,
            "<|im_start|>system\nYou are Qwen.<|im_end|>\n<|im_start|>user\n hi <|im_end|>\n",
        ),
        (
            QWEN,
            [{"role": "system", "content": "x"}, CALL],
            '<|im_start|>system\nx<|im_end|>\n<|im_start|>assistant\n<tool_call>f{"é": 1}'
            "<|im_end|>\n",
        ),
        (LLAMA3, USER, f"<s><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
                       f"{time.strftime('%Y')}"),
        (MISTRAL, [*USER, {"role": "assistant", "content": "a"}], "<s>[INST]  hi  [/INST]a</s>"),
        (GEMMA, USER, "<s><start_of_turn>user\nhi<end_of_turn>\n"),
        (PHI, USER, "<|user|>\n hi <|end|>\n"),
        (ZEPHYR, USER, "<|user|>\n hi </s>\n<|assistant|>\n"),
        (DEEPSEEK, [{"role": "system", "content": "s"}, CALL], "<s>s<calls>"),
        (DEEPSEEK, [{"role": "assistant", "content": "<think>a</think>b"}], "<s>b"),
        (PARTS, USER, " hi "),
        (PARTS, [{"role": "user", "content": [{"type": "text", "text": "a"}] * 2}], "aa"),
        (PHI, [{"role": "user", "content": [{"type": "text", "text": "a"}] * 2}],
         "<|user|>\na\na<|end|>\n"),
        (LOOPS, [*USER, *USER], " hi "),
        ("{{ messages[0].content }}", [{"role": "user", "content": None}], ""),
    ],
)  # fmt: skip
def test_a_template_renders_as_in_transformers(text, messages, right):
    assert render(text, messages) == right


def test_a_template_gets_tools_and_other_variables():
    assert render(QWEN, [{"role": "system", "content": ""}], tools=[{"name": "<f>"}]).endswith(
        '[{"name": "<f>"}]'
    )
    assert render("{{ enable_thinking }}", USER, enable_thinking=False) == "False"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{{ raise_exception('System role not supported') }}", "System role not supported"),
        ("{% for", "expected"),
        ("{% for i in range(10**9) %}{% endfor %}", "Range"),
        ("{{ 'x' * 10**10 }}", "memory"),
        ("{{ 'x'.center(10**10) }}", "memory"),
        ("{{ '%10000000000d' % 1 }}", "width|memory"),
        ("{{ messages[0].content.format }}{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "calls itself"),
        ("{{ messages.append(1) }}", "unsafe|not safe|callable"),
        ("{{ none.x.y }}", "no attribute"),
    ],
)
def test_a_template_that_fails_gives_a_reason(text, reason):
    with pytest.raises(InvalidArgument, match=reason):
        render(text, USER)


@pytest.mark.parametrize(
    "text",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 9**(9**9) }}",
        "{% set ns = namespace(a=1) %}{% for a in range(60) %}{% set ns.a = [ns.a, ns.a] %}"
        "{% endfor %}{{ ns.a }}",
    ],
)
def test_a_template_without_an_end_is_stopped(text, monkeypatch):
    monkeypatch.setattr(template, "_TIMEOUT_SECONDS", 2)
    with pytest.raises(NnError):
        render(text, USER)


def test_a_stopped_guest_stops_its_template():
    with pytest.raises(RuntimeFailure, match="stopped"):
        template.render("{{ 9**(9**9) }}", {"messages": USER}, 100, lambda: True)


def test_a_rendered_prompt_has_a_maximum():
    with pytest.raises(PromptTooLong):
        template.render("{{ 'x' * 101 }}", {"messages": USER}, 100, lambda: False)


@pytest.fixture
def talk(remake, tmp_path):
    def make(text, keys=None):
        path = tmp_path / "model.gguf"
        path.write_bytes(remake(keys={b"tokenizer.chat_template": text.encode(), **(keys or {})}))
        return Model(str(path), ModelSettings())

    return make


def prompt(model, request, text=""):
    return chat.prompt(model, json.dumps(request), text, 1 << 20, lambda: False)


class TestTheModelsOwn:
    def test_the_models_template_is_used(self, talk):
        model = talk("{% for m in messages %}SPECIAL{{ m.role }}:{{ m.content }}\n{% endfor %}")
        assert prompt(model, USER) == "SPECIALuser: hi \n"

    def test_a_beginning_token_comes_once(self, talk):
        model = talk("{{ bos_token }}{{ messages[0].content }}")
        begin = model.special_tokens()["bos_token"]
        assert begin
        expected = "a" if model.adds_bos else begin + "a"
        assert prompt(model, [{"role": "user", "content": "a"}]) == expected
        tokens = list(model.tokenize(expected.encode()))
        assert tokens.count(model.native.llama_vocab_bos(model.vocab)) == 1

    def test_tools_select_the_template_tool_use(self, talk):
        named = {b"tokenizer.chat_template.tool_use": b"{{ tools | tojson }}"}
        model = talk("{{ messages[0].content }}", named)
        assert prompt(model, {"messages": USER}) == " hi "
        assert prompt(model, {"messages": USER, "tools": [1]}) == "[1]"

    def test_arguments_in_a_string_become_an_object(self, talk):
        model = talk("{{ messages[0].tool_calls[0].function.arguments | tojson }}")
        call = {"type": "function", "function": {"name": "f", "arguments": '{"a": "b"}'}}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        assert prompt(model, [message]) == '{"a": "b"}'

    def test_an_image_becomes_its_marker(self, talk):
        model = talk("{% for m in messages %}{{ m.content }}{% endfor %}")
        url = "data:image/png;base64,aGk="
        parts = [
            {"type": "text", "text": "what?"},
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "image"},
        ]
        expected = f'what?\n<img src="{url}">\n<image>'
        assert prompt(model, [{"role": "user", "content": parts}]) == expected
        with pytest.raises(InvalidArgument, match="data: URL"):
            prompt(model, [{"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": "http://x/y.png"}}]}])  # fmt: skip

    def test_a_config_can_name_or_bring_a_template(self, talk):
        model = talk("own")
        assert prompt(model, USER, "{{ messages[0].role }}") == "user"
        assert prompt(model, USER, "chatml").startswith("<|im_start|>user\n hi ")
        with pytest.raises(InvalidArgument, match="takes only messages"):
            prompt(model, {"messages": USER, "tools": [1]}, "chatml")

    def test_a_model_without_one_gets_chatml(self, talk):
        assert prompt(talk(""), USER).startswith("<|im_start|>user\n hi ")

    def test_an_unknown_key_is_an_error(self, talk):
        with pytest.raises(InvalidArgument, match="temperature"):
            prompt(talk("own"), {"messages": USER, "temperature": 1})


def test_a_context_renders_its_prompt(talk, tmp_path):
    talk("{% for m in messages %}{{ m.role }}>{{ m.content }}{% endfor %}")
    with Host() as host:
        texts = []
        for config, text in (({"enable-chat-template": True}, json.dumps(USER)), ({}, "user> hi ")):
            config |= {"temp": 0, "n-predict": 8}
            with host.load(tmp_path / "model.gguf", config=config).init_execution_context() as one:
                one.set_input("prompt", text)
                one.compute()
                texts.append(bytes(one.get_output()))
    assert texts[0] == texts[1]
