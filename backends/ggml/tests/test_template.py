"""Chat templates: real models' own in short, as transformers renders them, and hostile ones."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from wasi_nn import Host
from wasi_nn.backend import unlimited
from wasi_nn.errors import InvalidArgument, NnError, PromptTooLong, RuntimeFailure
from wasi_nn_ggml.llama.model import Model
from wasi_nn_ggml.protocol import chat, template
from wasi_nn_ggml.settings import ModelSettings

TINY = Path(__file__).parents[3] / "conformance" / "graphs" / "ggml" / "tiny.gguf"
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
        text,
        {**known, "add_generation_prompt": True, **variables},
        1 << 20,
        unlimited,
        lambda: False,
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


MEGABYTE = "{% set m = 'x' * 1000000 %}"
DOUBLING = "{% set ns = namespace(a=[1]) %}{% for i in range(60) %}{% set ns.a = "


@pytest.mark.parametrize(
    "text",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{{ 9**(9**9) }}",
        "{{ [1] * 10**10 }}",
        "{{ 10**10 * 'x' }}",
        "{{ 2.5 | round(10**8, 'floor') }}",
        "{% set x = 7**1000 %}{{ x * x }}",
        DOUBLING + "ns.a + ns.a %}{% endfor %}",
        DOUBLING + "ns.a ~ ns.a %}{% endfor %}",
        DOUBLING + "[ns.a, ns.a] %}{% endfor %}",
        DOUBLING + "(ns.a, ns.a) %}{% endfor %}",
        DOUBLING + "{'a': ns.a, 'b': ns.a} %}{% endfor %}",
        DOUBLING + "dict(a=ns.a, b=ns.a) %}{% endfor %}",
        MEGABYTE + "{% set x = " + "~".join("m" * 9000) + " %}",
        "".join(f"{{% set m{at} = messages[0].content[1:] %}}" for at in range(900)),
        "{% set x %}{% for a in range(99999) %}" + "t" * 30000 + "{% endfor %}{% endset %}",
        "{% macro f() %}" + "t" * 30000 + "{% endmacro %}{% set x %}{% for a in range(99999) %}"
        "{{ f() }}{% endfor %}{% endset %}",
        MEGABYTE + "{% filter upper %}{% for a in range(999) %}{{ m }}{% endfor %}{% endfilter %}",
        MEGABYTE + "{{ m.replace('x', m) }}",
        MEGABYTE + "{{ m | replace('', m) }}",
        MEGABYTE + "{{ m.join(range(99999) | map('string')) }}",
        MEGABYTE + "{{ range(99999) | join(m) }}",
        MEGABYTE + "{{ ([m] * 1000) | join }}",
        MEGABYTE + "{{ m | indent(100000) }}",
        MEGABYTE + "{{ ('%(a)s' * 10000) % {'a': m} }}",
        MEGABYTE + "{{ (range(9999) | list) | tojson(separators=(m, m)) }}",
        MEGABYTE + "{{ strftime_now(m) }}",
        MEGABYTE + "{{ m.strip('y' * 1000000 + 'x') }}",
        MEGABYTE + "{{ m.rfind('y' + m) }}",
        MEGABYTE + "{{ m.split('x') }}",
        "{{ '%*d' % (10**9, 1) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ [1] | tojson(indent=10**9) }}",
        "{{ 'x'.ljust(width=10**10) }}",
        "{{ (range(99999) | list) | tojson(indent=30) }}" * 60,
        "{{ '{:>1000000000}'.format(1) }}",
        "{{ 'a'.translate({97: 'x'}) }}",
        "{{ (1).to_bytes(10**10, 'big') }}",
        "{{ [1] | batch(10**9, 'x') | list }}",
        "{% autoescape true %}{% endautoescape %}",
        "{{ " + "(" * 9000 + "1" + ")" * 9000 + " }}",
        "{{ " + "+".join("a" * 9000) + " }}",
        "{% include '/etc/passwd' %}",
        "x" * 40000,
    ],
)
def test_a_hostile_template_is_refused(text):
    with pytest.raises(NnError):
        render(text, [{"role": "user", "content": "x" * 1_000_000}])


def test_what_contains_itself_has_a_text():
    text = "{% set ns = namespace() %}{% set ns.a = [ns, ns] %}{{ ns }}{{ ns.a }}{{ ns.a ~ 1 }}"
    assert render(text, USER).startswith("<Namespace>[<Namespace>, <Namespace>]")


def test_a_templates_memory_counts_against_the_guests_limit():
    counted = []
    template.render(
        "{% set x = 'x' * 5000000 %}", {"messages": USER}, 100, counted.append, lambda: False
    )
    assert sum(size for size in counted if size > 0) > 5_000_000
    assert sum(counted) == 0


@pytest.mark.parametrize(
    "text",
    [
        "{% for m in messages %}{{ loop.index }}{{ loop.last }}{{ loop.length }}{% endfor %}",
        "{% for m in messages[1:] %}{{ m.role ~ ':' ~ 1 ~ none }}{% else %}none{% endfor %}",
        "{% for k, v in messages[0].items() if k != 'x' %}{{ k }}={{ v }}{% endfor %}",
        "{% for a in [[1, [2]], [3]] recursive %}{{ loop(a) if a is iterable else a }}{% endfor %}",
        "{{ messages | map(attribute='role') | list }}{{ messages | length }}{{ [2, 1] | sort }}",
        "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
        "{{ messages | groupby('role') }}{{ [1, 1.0, 'a', 'A'] | unique | list }}",
        "{{ ['a', 1, none] | join('-') }}{{ 'abc' | list }}{{ 'abc' | reverse }}",
        "{{ '%s is %d%%' % ('it', 5) }}{{ '%s' | format('x') }}{{ 7 % 4 }}",
        "{{ 2**10 }}{{ 'ab' * 3 }}{{ 'abc'[::-1] }}{{ -3 // 2 }}",
        "{{ 'a\nb' | indent(4) }}{{ 'A b' | title }}{{ ' x ' | trim }}{{ '5' | int + 1 }}",
        "{{ 'a,b'.split(',')[1] }}{{ 'a'.join('xyz') }}{{ 'xax'.strip('x') }}{{ {'a': (1, 2)} }}",
        "{{ {'b': 1, 'a': 2} | dictsort }}{{ [1, 2] + [3] }}{{ x is defined }}{{ x | default(9) }}",
        "{% macro f(a, b=2) %}[{{ a }}{{ b }}{{ caller() if caller }}]{% endmacro %}{{ f(1) }}"
        "{% call f(3) %}in{% endcall %}",
        "{% set x %}{{ 1 }}-{% endset %}{{ x }}{% filter upper %}abc{{ x }}{% endfilter %}",
        "{% block a %}{{ 1 }}{% endblock %}{{ self.a() }}{% with a = 1 %}{{ a }}{% endwith %}",
        "{{ 1.50 }}{{ true }}{{ 'a' 'b' }}{{ 1 if x else 2 }}{{ not x and 1 < 2 <= 3 }}",
    ],
)
def test_a_template_renders_as_in_jinja(text):
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    messages = [*USER, {"role": "assistant", "content": "é"}]
    plain = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: "" if value is None else value,
    )
    assert render(text, messages) == plain.from_string(text).render(messages=messages)


def test_a_stopped_guest_stops_its_template():
    with pytest.raises(RuntimeFailure, match="stopped"):
        template.render("{{ 9**(9**9) }}", {"messages": USER}, 100, unlimited, lambda: True)


def test_a_rendered_prompt_has_a_maximum():
    with pytest.raises(PromptTooLong):
        template.render("{{ 'x' * 101 }}", {"messages": USER}, 100, unlimited, lambda: False)


@pytest.fixture
def talk(remake, tmp_path):
    def make(text, keys=None):
        path = tmp_path / "model.gguf"
        path.write_bytes(remake(keys={b"tokenizer.chat_template": text.encode(), **(keys or {})}))
        return Model(str(path), ModelSettings())

    return make


def prompt(model, request, text=""):
    return chat.prompt(model, json.dumps(request), text, 1 << 20, unlimited, lambda: False)


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


def test_a_hostile_template_costs_only_its_own_context():
    hostile = {
        "enable-chat-template": True,
        "chat-template": DOUBLING + "[ns.a, ns.a] %}{% endfor %}{{ ns.a }}",
    }
    with Host() as host:
        graph = host.load(TINY, config={"temp": 0, "ctx-size": 512})
        with graph.init_execution_context() as one, graph.init_execution_context() as other:
            other.set_input("prompt", "Hello")
            stream = other.stream()
            next(stream)
            one.set_input("config", json.dumps(hostile))
            with pytest.raises(InvalidArgument, match="too much memory"):
                one.set_input("prompt", json.dumps(USER))
            next(stream)
            one.set_input("config", '{"chat-template": "{{ messages[0].content }}"}')
            one.set_input("prompt", json.dumps(USER))
