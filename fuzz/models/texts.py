"""Hostile texts of ggml's protocol: prompts, chat templates, grammars and JSON schemas."""

from __future__ import annotations

import json
from typing import Any

from fuzz.chance import Chance

_TEMPLATES = (
    "{% for m in messages %}{{ m.content }}{% endfor %}",
    "{{ messages[0]['content'] * 100000000 }}",
    "{% for i in range(1000000000) %}a{% endfor %}",
    "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages | tojson | tojson | length }}",
    "{% set x = namespace(a='a') %}{% for i in range(40) %}{% set x.a = x.a + x.a %}{% endfor %}",
    "{{ raise_exception('no') }}",
    "{{ '%s' % ('a' * 99999999) }}",
    "{{ 9 ** 9 ** 9 }}",
    "{% if messages %}",
    "{{ '%999999999d' % 1 }}",
    "{{ messages | map(attribute='content') | join | center(999999999) }}",
    "{{ strftime_now('%Y' * 9999) }}",
    "{{ 'a' | replace('', 'b' * 9999999) }}",
)
_RULES = (
    '"a"',
    "[a-z]",
    "[^a]",
    ".",
    "root",
    "a",
    "b",
    '("a" | b)',
    '""',
    '"\\x41"',
    '"é"',
    "[\\n-a]",
    "[",
    '"a"{3}',
    '"a"{2,1000}',
    "(a)*",
    "(b+)?",
    '"a"{99999999999}',
    "<think>",
    "!<[1]>",
    '("x"?)*',
)
_SCHEMAS: tuple[Any, ...] = (
    {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
    {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 5},
    {"enum": ["a", 1, None]},
    {"const": {"a": [1]}},
    {"$ref": "#"},
    {"$ref": "#/$defs/a"},
    {"anyOf": [{"type": "number"}, {"type": "boolean"}]},
    {"type": "string", "pattern": "^a{2,9}$"},
    {"type": "integer", "minimum": -5, "maximum": 10**20},
    {"allOf": [{"a": 1}, True]},
    True,
    False,
    {"type": "string", "minLength": 3, "maxLength": 10**9},
    {"not": {}},
    {"type": ["null", "object"]},
    {"oneOf": []},
    {"additionalProperties": {"$ref": "#"}},
    {"prefixItems": [{"type": "string"}]},
    {"format": "date-time", "type": "string"},
    {"type": "string", "pattern": "(a*)*b|[[:alpha:]]+"},
)


def template(chance: Chance, sound: str = "") -> str:
    """A chat template."""
    text = chance.choice([sound, sound, *_TEMPLATES])
    for _ in range(chance.randrange(3)):
        text = chance.text(text)
    return text


def grammar(chance: Chance) -> str:
    """A grammar of a few rules, most of them sound."""
    lines = []
    for name in ("root", "a", "b"):
        pieces = " | ".join(
            " ".join(chance.some(_RULES, 3)) or '""' for _ in range(chance.randint(1, 3))
        )
        lines.append(f"{name} ::= {pieces}")
    text = "\n".join(lines)
    return chance.text(text) if chance.once_in(4) else text


def schema(chance: Chance) -> str:
    """A JSON schema: one of the list, some put into each other."""
    made: Any = chance.choice(_SCHEMAS)
    for _ in range(chance.randrange(4)):
        inner, key = chance.choice(_SCHEMAS), chance.choice(("a", "", "é", "$ref"))
        made = chance.choice(
            (
                {"type": "object", "properties": {key: made, "z": inner}},
                {"anyOf": [made, inner]},
                {"items": made},
                {"$defs": {"a": made}, "$ref": "#/$defs/a"},
                {"allOf": [inner, made]},
            )
        )
    text = json.dumps(made)
    return chance.text(text) if chance.once_in(5) else text


def prompt(chance: Chance) -> bytes:
    kind = chance.randrange(8)
    if kind == 0:
        return chance.randbytes(chance.randrange(200))
    if kind == 1:
        return b"hello you " * chance.choice((24, 400, 20000))
    if kind == 2:
        return "".join(chr(chance.randrange(1, 0x11000)) for _ in range(30)).encode(
            errors="replace"
        )
    if kind == 3:
        return b"<|im_start|>user\n" * chance.randrange(9) + b"<s></s><unk><0x00>"
    if kind == 4:
        return json.dumps({"messages": [{"role": "user", "content": "x"}], "tools": [{}]}).encode()
    return b"Hello you"
