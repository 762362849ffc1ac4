"""JSON schemas as grammars: what a grammar accepts, checked with llama.cpp itself."""

from __future__ import annotations

import ctypes
import json
import re
import time
from contextlib import suppress
from decimal import Decimal
from pathlib import Path

import pytest
from conftest import needs
from hypothesis import given, settings
from hypothesis import strategies as st

from wasi_nn.errors import InvalidArgument, NnError
from wasi_nn_ggml.grammar import gbnf, ranges
from wasi_nn_ggml.grammar.schema import grammar_of
from wasi_nn_ggml.llama.bindings import TokenDataArray
from wasi_nn_ggml.llama.model import Source
from wasi_nn_ggml.settings import ModelSettings

needs("xllamacpp")
np = needs("numpy")

TINY = Path(__file__).parents[3] / "conformance" / "graphs" / "ggml" / "tiny.gguf"


@pytest.fixture(scope="module")
def accepts():
    """Whether a grammar, or a schema's grammar, accepts a whole text."""
    model = Source(TINY).model(ModelSettings())
    native = model.native
    one = np.zeros(1, [("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])

    def allowed(sampler, token):
        one[0] = (token, 1.0, 0.0)
        array = TokenDataArray(one.ctypes.data, 1, -1, False)
        native.llama_sampler_apply(sampler, ctypes.byref(array))
        return bool(one["logit"][0] > float("-inf"))

    def check(grammar, text):
        if not isinstance(grammar, str):
            grammar = grammar_of(json.dumps(grammar))
        gbnf.check(grammar)
        sampler = native.llama_sampler_init_grammar(model.vocab, grammar.encode(), b"root")
        assert sampler, grammar
        try:
            for byte in text.encode():
                token = 4 + byte  # the vocabulary's byte tokens
                if not allowed(sampler, token):
                    return False
                native.llama_sampler_accept(sampler, token)
            return allowed(sampler, model.ends_of_generation()[0])
        finally:
            native.llama_sampler_free(sampler)

    return check


EMPLOYEE = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 5},
        "age": {"type": "integer", "minimum": 0},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 2},
        "boss": {"$ref": "#/$defs/boss"},
    },
    "required": ["name"],
    "$defs": {"boss": {"anyOf": [{"type": "null"}, {"const": "me"}, {"$ref": "#"}]}},
}


class TestAccepts:
    @pytest.mark.parametrize(
        ("schema", "right", "wrong"),
        [
            ({}, ["1", "null", '{"a": [1, "b"]}'], ["", "nul", "{]"]),
            (True, ["1"], ["x"]),
            ({"type": "string"}, ['""', '"a\\n"', '"é"'], ['"', "a", '"\n"']),
            ({"type": "integer"}, ["0", "-12"], ["01", "1.5", "-"]),
            ({"type": "number"}, ["0.5", "-1e5", "3"], [".5", "1."]),
            ({"type": "boolean"}, ["true", "false"], ["1"]),
            ({"type": "null"}, ["null"], ["0"]),
            ({"type": ["integer", "null"]}, ["3", "null"], ["true"]),
            ({"const": {"a": '"\\'}}, ['{"a": "\\"\\\\"}'], ['{"a": ""}']),
            ({"enum": [1, "two", None]}, ["1", '"two"', "null"], ["2"]),
            ({"type": "integer", "minimum": 0}, ["0", "5"], ["-5"]),
            ({"type": "integer", "exclusiveMinimum": 0}, ["5"], ["0", "-5"]),
            ({"type": "number", "minimum": 0}, ["0", "5.5", "1e5"], ["-5.5"]),
            ({"type": "integer", "minimum": 3}, ["3", "12", "9007199254740993"], ["2", "-3", "03"]),
            ({"type": "integer", "minimum": -5, "maximum": -3}, ["-5", "-3"], ["-6", "-2", "5"]),
            ({"type": "integer", "maximum": 9}, ["9", "0", "-123"], ["10", "-0"]),
            ({"type": "integer", "minimum": 0.5, "maximum": 2.5}, ["1", "2"], ["0", "3"]),
            ({"type": "integer", "minimum": 1, "exclusiveMinimum": True}, ["2"], ["1"]),
            ({"type": "integer", "minimum": 2, "exclusiveMinimum": 1}, ["2"], ["1"]),
            (
                {"type": "integer", "minimum": 2**53, "maximum": 2**63 - 1},
                [str(2**53), str(2**63 - 1)],
                [str(2**53 - 1), str(2**63)],
            ),
            (
                {"type": "number", "minimum": 0, "maximum": 1},
                ["0", "1", "0.5", "1.0", "0.999"],
                ["1.1", "-0.1", "1.01", "2"],
            ),
            (
                {"type": "number", "exclusiveMinimum": -1.5, "maximum": 2.75},
                ["-1.49", "-1", "0", "2.75", "2.7"],
                ["-1.5", "2.751", "2.8", "-2"],
            ),
            (
                {"type": "string", "pattern": "^[a-c]{2}\\d$"},
                ['"ab1"'],
                ['"ad1"', '"ab12"', '"ab"'],
            ),
            ({"pattern": "^(GET|POST) /\\w*$"}, ['"GET /a_1"', '"POST /"'], ['"PUT /"', '"GET "']),
            (
                {"type": "string", "pattern": "b"},
                ['"b"', '"abc"', '"\\nb\\""'],
                ['""', '"ac"', '"B"'],
            ),
            (
                {"type": "string", "pattern": '^["\\\\]\\s.[^x]$'},
                ['"\\"\\n\\"\\\\"', '"\\\\ éy"'],
                ['"a\\n\\"y"', '"\\" \\ny"', '"\\" ax"'],
            ),
            ({"type": "string", "pattern": "^$|^-?\\d+(?:\\.\\d+)?$"}, ['""', '"-1.5"'], ['"1."']),
            (
                {"type": "string", "pattern": "^(?<year>\\d{4})-[01]?\\d$"},
                ['"2026-11"'],
                ['"26-1"'],
            ),
            ({"type": "string", "pattern": "^[\\w.+-]+?@\\S+$"}, ['"a.b@c"'], ['"@c"', '"a@ "']),
            ({"type": "string", "pattern": "^[😀-🙏]+$"}, ['"😀🙏"'], ['""', '"x"']),
            ({"type": "string", "maxLength": 5000}, ['"abc"'], ["abc"]),
            ({"type": "object", "properties": {}}, ["{}", '{"a":1}'], ["{", "{a}"]),
            ({"type": "string", "format": "date"}, ['"2026-01-31"'], ['"2026-13-01"', '"x"']),
            (
                {"type": "string", "format": "date-time"},
                ['"2026-01-31T23:59:00Z"', '"2026-01-31T23:59:00.123+01:00"'],
                ['"2026-01-31"'],
            ),
            (
                {"type": "string", "format": "uuid"},
                ['"12345678-1234-1234-1234-1234567890ab"'],
                ['"1234"'],
            ),
            ({"type": "array"}, ["[]", "[1, 2]"], ["[1,]"]),
            ({"items": {"type": "null"}}, ["[]", "[null,null]"], ["[1]"]),
            ({"type": "array", "maxItems": 0}, ["[]"], ["[1]"]),
            ({"type": "array", "minItems": 2}, ["[1,2]", "[1,2,3]"], ["[1]"]),
            ({"prefixItems": [{"type": "null"}, {"const": 1}]}, ["[null,1]"], ["[1,null]", "[]"]),
            ({"type": "object"}, ["{}", '{"a":1}'], ["{a:1}"]),
            ({"properties": {"a": {}}, "required": ["a"]}, ['{"a":1}'], ["{}", '{"b":1}']),
            (
                {"properties": {"a": {}, "b": {}, "c": {}}, "required": ["b"]},
                ['{"b":1}', '{"b":1,"a":1}', '{"b":1,"c":1}', '{"b":1,"a":1,"c":1}'],
                ["{}", '{"a":1}', '{"b":1,"c":1,"a":1}'],
            ),
            (
                {"properties": {"a": {}}, "additionalProperties": {"type": "null"}},
                ["{}", '{"a":1}', '{"x":null}', '{"a":1,"x":null,"y":null}'],
                ['{"a":1,"x":2}'],
            ),
            (
                {"allOf": [{"properties": {"a": {}}, "required": ["a"]}, {"properties": {}}]},
                ['{"a":1}'],
                ["{}"],
            ),
            (
                {
                    "allOf": [{"$ref": "#/$defs/size"}],
                    "description": "as pydantic writes a field",
                    "$defs": {"size": {"enum": ["S", "M"]}},
                },
                ['"S"', '"M"'],
                ['"L"', "1"],
            ),
            (
                {
                    "allOf": [{"$ref": "#/$defs/base"}, {"properties": {"b": {"type": "null"}}}],
                    "required": ["b"],
                    "$defs": {"base": {"properties": {"a": {"const": 1}}, "required": ["a"]}},
                },
                ['{"a":1,"b":null}'],
                ['{"a":1}', '{"a":2,"b":null}', '{"b":null}'],
            ),
            (
                {"allOf": [{"type": "integer", "minimum": 2}, {"minimum": 1, "maximum": 3}]},
                ["2", "3"],
                ["1", "4", "2.5"],
            ),
            (
                {"type": ["number", "null"], "allOf": [{"type": ["integer", "string"]}]},
                ["2"],
                ["2.5", "null", '"a"'],
            ),
            ({"enum": [1, 2, 3], "allOf": [{"enum": [2, 3, 4]}]}, ["2", "3"], ["1", "4"]),
            (
                {
                    "type": "object",
                    "properties": {"a": {"type": "null"}, "b": {"type": "null"}},
                    "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
                },
                ['{"a":null}', '{"b":null}', '{"a":null,"b":null}'],
                ["{}", '{"a":1}', "3"],
            ),
            (
                {
                    "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
                    "required": ["next"],
                },
                ['{"next":{"next":null}}'],
                ["{}", '{"next":1}'],
            ),
            (
                {
                    "anyOf": [{"const": 1}, {"items": {"$ref": "#/anyOf/0"}}],
                    "title": "a tree's leaves, by where they stand",
                },
                ["1", "[1,1]"],
                ["[2]", "[[1]]"],
            ),
            (
                {"$ref": "#/$defs/a~1b%20c", "$defs": {"a/b c": {"type": "null"}}},
                ["null"],
                ["1"],
            ),
            (
                EMPLOYEE,
                ['{"name": "x"}', '{"name":"x","age":3,"tags":["a"],"boss":{"name":"y"}}'],
                ['{"name": ""}', '{"name":"x","age":-1}', '{"name":"x","tags":[]}', "{}"],
            ),
        ],
    )
    def test_a_schema_accepts_and_rejects_texts(self, accepts, schema, right, wrong):
        for text in right:
            assert accepts(schema, text), text
        for text in wrong:
            assert not accepts(schema, text), text

    @settings(max_examples=150, deadline=None)
    @given(
        value=st.recursive(
            st.none() | st.booleans() | st.integers(-999, 999) | st.text('ab"\\é\n', max_size=4),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3)
            ),
            max_leaves=8,
        )
    )
    def test_a_constant_accepts_only_itself(self, accepts, value):
        text = json.dumps(value, ensure_ascii=False)
        assert accepts({"const": value}, text)
        assert accepts({}, text)


class TestRanges:
    """Every number near the bounds, with the grammar as a regular expression of Python."""

    @staticmethod
    def matches(grammar, text):
        pattern = grammar.replace('"."', r"\.").replace('"', "").replace(" ", "")
        return bool(grammar) and re.fullmatch(pattern, text) is not None

    @settings(max_examples=300, deadline=None)
    @given(
        least=st.none() | st.integers(-1200, 1200),
        most=st.none() | st.integers(-1200, 1200),
        other=st.integers(-99999, 99999),
    )
    def test_integers_keep_to_their_bounds(self, least, most, other):
        grammar = ranges.integers(least, most)
        near = {end + by for end in (least, most, 0) if end is not None for by in range(-12, 13)}
        for number in near | {other}:
            inside = (least is None or number >= least) and (most is None or number <= most)
            assert self.matches(grammar, str(number)) == inside
        for text in ("-0", "00", "01", "-01", "", "1.0"):
            assert not self.matches(grammar, text)

    bounds = st.none() | st.builds(
        ranges.Bound, st.decimals(-30, 30, allow_nan=False, places=2), st.booleans()
    )

    @settings(max_examples=300, deadline=None)
    @given(least=bounds, most=bounds, other=st.decimals(-30, 30, allow_nan=False, places=3))
    def test_decimals_keep_to_their_bounds(self, least, most, other):
        grammar = ranges.decimals(least, most)
        steps = map(Decimal, ("0", "0.001", "-0.001", "0.1", "-0.1", "1", "-1"))
        near = {end.value + by for by in steps for end in (least, most) if end is not None}
        for number in near | {other}:
            above = least is None or number > least.value - (0 if least.strict else Decimal("1e-9"))
            below = most is None or number < most.value + (0 if most.strict else Decimal("1e-9"))
            for text in (f"{number:f}", f"{number.normalize():f}", f"{number:.5f}"):
                if number or not text.startswith("-"):
                    assert self.matches(grammar, text) == (above and below), text


MANY = [f"p{at}" for at in range(40_000)]
# One reference, spelt in different ways.
SPELLINGS = [
    "#/" + "".join(c if at >> i & 1 else f"%{ord(c):02x}" for i, c in enumerate("abcdefghijkl"))
    for at in range(3000)
]
ANY_SPELLING = {"anyOf": [{"$ref": each} for each in SPELLINGS]}


class TestMistakes:
    @pytest.mark.parametrize(
        "text",
        [
            "{",
            "[]",
            "3",
            '{"type": "thing"}',
            '{"enum": []}',
            '{"anyOf": {}}',
            '{"$ref": "http://example.com"}',
            '{"$ref": "#/nothing"}',
            '{"$ref": "#"}',
            '{"$ref": "#name", "$defs": {"a": {"$anchor": "name"}}}',
            '{"$ref": "#/anyOf/2", "anyOf": [{}, {}]}',
            '{"$ref": "#/anyOf/-1", "anyOf": [{}, {}]}',
            '{"$ref": "#/type/0", "type": "string"}',
            '{"properties": []}',
            '{"properties": {}, "required": ["a"]}',
            '{"type": "array", "minItems": 3, "maxItems": 2}',
            '{"type": "string", "minLength": -1}',
            '{"type": "integer", "minimum": 3, "maximum": 2}',
            '{"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 1}',
            '{"type": "number", "minimum": 1, "exclusiveMaximum": 1}',
            '{"type": "number", "minimum": "1"}',
            '{"type": "string", "pattern": 1}',
            '{"allOf": [{"type": "string"}, {"type": "null"}]}',
            '{"type": "object", "allOf": [3]}',
            '{"enum": [1], "allOf": [{"enum": [2]}]}',
            '{"type": "object", "allOf": [{"$ref": "#"}]}',
            '{"type": "string", "minLength": 5, "maxLength": 100000, "maxLength": 4}',
            '{"allOf": [{"anyOf": []}]}',
            '{"items": ' * 2000 + "{}" + "}" * 2000,
            '{"type": ["array", {}]}',
            '{"type": [["array"]]}',
        ],
    )
    def test_an_invalid_schema_is_rejected(self, text):
        with pytest.raises(InvalidArgument, match="json-schema"):
            grammar_of(text)

    def test_a_deep_constant_is_accepted_or_rejected(self):
        """The stack may overflow when a constant is read, or when it is written."""
        for depth in range(700, 1200):
            with suppress(InvalidArgument):
                grammar_of('{"const": ' + "[" * depth + "]" * depth + "}")

    def test_a_type_may_be_repeated(self, accepts):
        schema = {"type": "null"}
        for _ in range(20):
            schema = {"type": ["array"] * 300, "items": schema}
        assert accepts(schema, "[" * 20 + "null" + "]" * 20)

    def test_a_chain_of_references_may_be_long(self, accepts):
        chain = {f"d{at}": {"items": {"$ref": f"#/$defs/d{at + 1}"}} for at in range(3000)}
        schema = {"$ref": "#/$defs/d0", "$defs": {**chain, "d3000": {"type": "null"}}}
        assert accepts(schema, "[[[]]]")

    @pytest.mark.parametrize(
        "schema",
        [
            {"anyOf": [{"$ref": each} for each in SPELLINGS], "abcdefghijkl": {"const": "b" * 200}},
            {"anyOf": [{"$ref": each} for each in SPELLINGS], "abcdefghijkl": ANY_SPELLING},
            {"const": "a" * 300_000},
            {"enum": ["a" * 1000] * 300},
            {"prefixItems": [True] * 100_000},
        ],
    )
    def test_a_schema_with_a_long_grammar_is_rejected(self, schema):
        started = time.thread_time()
        with pytest.raises(InvalidArgument, match="262144"):
            gbnf.check(grammar_of(json.dumps(schema)))
        assert time.thread_time() - started < 10

    @pytest.mark.parametrize(
        "schema",
        [
            {
                "properties": {name: {} for name in MANY},
                "anyOf": [{"const": 1, "properties": {}}] * 9999,
            },
            {"allOf": [{"required": ["a"]}] * 30_000, "properties": {"a": {}}},
            {"allOf": [{"enum": MANY}, {"enum": MANY[::-1]}]},
            {"allOf": [{"type": ["object"] * 99_999}, {"type": ["object", "x"] * 50_000}]},
            {"properties": {name: {} for name in MANY}, "required": MANY},
            {"pattern": "^(" + "ab|" * 60_000 + ")$"},
            {"pattern": "^" + "(" * 30_000},
            {"pattern": "[^a]" * 1000},
            {"type": "integer", "minimum": 10**4000},
        ],
    )
    def test_a_large_schema_is_converted_soon(self, schema):
        started = time.thread_time()
        with suppress(InvalidArgument):
            gbnf.check(grammar_of(json.dumps(schema)))
        assert time.thread_time() - started < 20

    @pytest.mark.parametrize(
        "schema",
        [
            {"type": "a" * 100_000},
            {"$ref": "a" * 100_000},
            {"$ref": "#/" + "a" * 100_000},
            {"items": ["a" * 100_000]},
            {"properties": {}, "required": ["a" * 100_000]},
        ],
    )
    def test_a_long_mistake_has_a_short_reason(self, schema):
        with pytest.raises(InvalidArgument) as raised:
            grammar_of(json.dumps(schema))
        assert len(str(raised.value)) < 200

    @pytest.mark.parametrize(
        ("schema", "named"),
        [
            ({"type": "integer", "multipleOf": 5}, "multipleOf"),
            ({"type": "string", "pattern": r"^(a)\1$"}, "pattern"),
            ({"type": "string", "pattern": "(?=a)b"}, "pattern"),
            ({"type": "string", "pattern": r"^\p{L}$"}, "pattern"),
            ({"type": "string", "pattern": "^(a"}, "pattern"),
            ({"type": "string", "pattern": "^" + "(" * 100}, "pattern"),
            ({"type": "string", "pattern": "^((a?){500}){500}b$"}, "pattern"),
            ({"type": "string", "pattern": "^a{5000}$"}, "pattern"),
            ({"type": "string", "pattern": "^a*$", "maxLength": 2}, "maxLength"),
            ({"type": "number", "maximum": 1e300}, "maximum"),
            ({"type": "number", "maximum": float("inf")}, "maximum"),
            ({"type": "integer", "minimum": -(10**4000)}, "minimum"),
            ({"type": "string", "maxLength": 100_000_000}, "maxLength"),
            ({"type": "array", "minItems": 5000}, "minItems"),
            ({"minimum": 3}, "minimum"),
            ({"allOf": [{"pattern": "^a"}, {"pattern": "b$"}], "type": "string"}, "pattern"),
        ],
    )
    def test_a_keyword_that_cannot_be_enforced_is_logged(self, accepts, caplog, schema, named):
        grammar = grammar_of(json.dumps(schema))
        assert named in caplog.text
        accepts(grammar, "1")

    @pytest.mark.parametrize(
        "schema",
        [
            {"type": "string", "pattern": "^a+$"},
            {"type": "number", "minimum": 0.5, "exclusiveMaximum": 2},
            {"type": "string", "maxLength": 1000},
        ],
    )
    def test_an_enforced_keyword_is_not_logged(self, caplog, schema):
        grammar_of(json.dumps(schema))
        assert not caplog.text

    @settings(max_examples=300, deadline=None)
    @given(
        schema=st.recursive(
            st.none() | st.booleans() | st.integers() | st.sampled_from(["string", "object", "#"]),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        "type properties required items anyOf allOf enum const $ref minItems "
                        "maxItems minLength additionalProperties prefixItems format minimum "
                        "maximum exclusiveMinimum pattern".split()
                    ),
                    inner,
                    max_size=4,
                )
            ),
            max_leaves=12,
        )
    )
    def test_any_json_gives_a_grammar_or_an_error(self, accepts, schema):
        try:
            grammar = grammar_of(json.dumps(schema))
        except NnError:
            return
        accepts(grammar, "x")


class TestGbnf:
    @pytest.mark.parametrize(
        "grammar",
        [
            'root ::= "a"',
            'root ::= [^a-z"] # a comment (\n  | "\\"" b{2,3}\nb ::= ("x" | "y"\n | .)* c?\n'
            "c ::= [)]+",
            "root ::= <[1]> !<[2]> <think>",
        ],
    )
    def test_a_valid_grammar_is_accepted(self, grammar):
        gbnf.check(grammar)

    def test_a_check_is_cached_by_the_text(self):
        grammar = "root ::= <think> [a-z]{1,9}"
        assert gbnf.check(grammar) is gbnf.check(grammar[:4] + grammar[4:])
        for _ in range(2):
            with pytest.raises(InvalidArgument, match="no rule named root"):
                gbnf.check("other ::= <think> [a-z]{1,9}")

    @pytest.mark.parametrize(
        ("grammar", "why"),
        [
            ("", "no rule named root"),
            ('"a"', "begins with its name"),
            ('root ::= "a', r"line 1"),
            ("root ::= (\n", r"a \) is missing"),
            ("root ::= )", r"a \) too many"),
            ('root ::= "a"\n\nb ::= c', r"no rule named 'c' \(line 3\)"),
            ("root ::= " + "(" * 300, "too many"),
            ("root ::= [a", "line 1"),
            ('root ::= "a"{1,99999}', "repetitions"),
            ('root ::= ( b ::= "a" )', "inside"),
            ("root ::= ;", "';' is not expected"),
            ('root ::= "a"{5,2}', r"\{5,2\} has its larger number first \(line 1\)"),
            ('root ::= "a"{%s}' % ("9" * 5000), "repetitions"),
            ("root ::= *", "nothing to repeat"),
            ('root ::= "a" | +', "nothing to repeat"),
            ('root ::= "a"' + "*" * 100_000, "repetitions of repetitions"),
            (f"root ::= <{'a' * 5000}>", "a name has 5002 characters"),
            (f'root ::= "a"\n{"b" * 5000} ::= "a"', "a name has 5000 characters"),
        ],
    )
    def test_a_mistake_gives_a_reason(self, grammar, why):
        with pytest.raises(InvalidArgument, match=why):
            gbnf.check(grammar)
