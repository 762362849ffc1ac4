"""JSON schemas: which texts keep to them."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import needs
from hypothesis import given, settings
from hypothesis import strategies as st

from wasi_nn.errors import InvalidArgument, NnError
from wasi_nn_ggml.llama.model import Source
from wasi_nn_ggml.settings import ModelSettings

needs("xllamacpp")
needs("llguidance")


TINY = Path(__file__).parents[3] / "conformance" / "graphs" / "ggml" / "tiny.gguf"
# The tiny model's <|im_end|>.
END = 2


@pytest.fixture(scope="module")
def tokenizer():
    return Source(TINY).model(ModelSettings()).tokenizer()


@pytest.fixture(scope="module")
def accepts(tokenizer):
    """Whether a schema accepts a whole text."""

    def check(schema, text):
        matcher = tokenizer.json_schema(json.dumps(schema))
        for byte in text.encode():
            token = 4 + byte  # the vocabulary's byte tokens
            if token not in matcher.allowed():
                return False
            matcher.accept(token)
        return END in matcher.allowed()

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
            ({"type": "number", "minimum": 0}, ["0", "5.5", "100000"], ["-5.5"]),
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
                ["-1.49", "-1", "0", "2.75", "2.6"],
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
            ({"prefixItems": [{"type": "null"}, {"const": 1}]}, ["[null,1]", "[]"], ["[1,null]"]),
            ({"type": "object"}, ["{}", '{"a":1}'], ["{a:1}"]),
            ({"properties": {"a": {}}, "required": ["a"]}, ['{"a":1}'], ["{}", '{"b":1}']),
            (
                {"properties": {"a": {}, "b": {}, "c": {}}, "required": ["b"]},
                ['{"b":1}', '{"a":1,"b":1}', '{"b":1,"c":1}', '{"a":1,"b":1,"c":1}'],
                ["{}", '{"a":1}', '{"b":1,"x":1}', '{"b":1,"c":1,"a":1}', '{"c":1,"b":1}'],
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
                    "type": "object",
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
            # Only the properties that are listed, also in what a field refers to.
            (
                {
                    "properties": {"a": {"allOf": [{"$ref": "#/$defs/b"}], "title": "as pydantic"}},
                    "$defs": {"b": {"properties": {"c": {"type": "null"}}}},
                },
                ['{"a":{"c":null}}', "{}"],
                ['{"a":{"d":1}}', '{"b":1}'],
            ),
            (
                {"properties": {"a": {"type": "null"}}, "additionalProperties": True},
                ['{"a":null,"b":1}'],
                ['{"a":1}'],
            ),
            (
                {
                    "$ref": "#/$defs/a",
                    "properties": {"b": {"type": "null"}},
                    "$defs": {"a": {"properties": {"a": {"type": "null"}}}},
                },
                ['{"a":null,"b":null}', "{}"],
                ['{"a":1}'],
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


MANY = [f"p{at}" for at in range(40_000)]
# One reference, spelt in different ways.
SPELLINGS = [
    "#/" + "".join(c if at >> i & 1 else f"%{ord(c):02x}" for i, c in enumerate("abcdefghijkl"))
    for at in range(3000)
]
ANY_SPELLING = {"anyOf": [{"$ref": each} for each in SPELLINGS]}


def chain(count):
    """Definitions, each of which is used only by the one before it."""
    definitions = {f"d{at}": {"items": {"$ref": f"#/$defs/d{at + 1}"}} for at in range(count)}
    return {"$ref": "#/$defs/d0", "$defs": {**definitions, f"d{count}": {"type": "null"}}}


def nested(schema):
    for _ in range(30):
        schema = {"properties": {"a": schema}}
    return schema


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
            '{"$ref": "#name", "$defs": {"a": {"$anchor": "name"}}}',
            '{"$ref": "#/anyOf/2", "anyOf": [{}, {}]}',
            '{"$ref": "#/anyOf/-1", "anyOf": [{}, {}]}',
            '{"$ref": "#/type/0", "type": "string"}',
            '{"properties": []}',
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
    def test_an_invalid_schema_is_rejected(self, tokenizer, text):
        with pytest.raises(InvalidArgument, match="json-schema"):
            tokenizer.json_schema(text)

    def test_a_deep_constant_is_accepted_or_rejected(self, tokenizer):
        """The stack may overflow when a constant is read, or when it is written."""
        for depth in [*range(10, 200, 7), *range(700, 1200, 50)]:
            with suppress(InvalidArgument):
                tokenizer.json_schema('{"const": ' + "[" * depth + "]" * depth + "}")

    def test_a_type_may_be_repeated(self, accepts):
        schema = {"type": "null"}
        for _ in range(3):
            schema = {"type": ["array"] * 3, "items": schema}
        assert accepts(schema, "[[[null]]]")

    def test_a_chain_of_references_may_be_long(self, accepts):
        assert accepts(chain(300), "[[[]]]")

    @pytest.mark.parametrize(
        "schema",
        [
            chain(20_000),
            {"$defs": {"a": 5}, **chain(2000)},
            {"$ref": "#/$defs/0", "$defs": [nested({"$ref": f"#/$defs/{at}"}) for at in range(99)]},
            {"anyOf": [{"$ref": each} for each in SPELLINGS[:900]], "abcdefghijkl": ANY_SPELLING},
        ],
    )
    def test_references_that_lead_too_deep_are_rejected(self, tokenizer, schema):
        """llguidance would overflow the stack."""
        with pytest.raises(InvalidArgument, match=r"levels deep|entries|characters"):
            tokenizer.json_schema(json.dumps(schema))

    def test_a_base_of_references_changes_nothing(self, accepts):
        schema = {"$id": "http://a/b", "$ref": "#/$defs/c", "$defs": {"c": {"type": "null"}}}
        assert accepts(schema, "null")
        assert accepts({"properties": {"$id": {"type": "null"}}}, '{"$id":null}')

    @pytest.mark.parametrize(
        "schema",
        [
            {"const": "a" * 300_000},
            {"enum": ["a" * 1000] * 300},
            {"prefixItems": [True] * 100_000},
            {"properties": {name: {} for name in MANY[:2000]}, "required": MANY[:2000]},
            {"anyOf": [{"const": at} for at in range(2000)]},
            {"patternProperties": {f"^a{at}$": {} for at in range(300)}},
            {"type": "string", "maxLength": 100_000_000},
            {"type": "array", "minItems": 100_000_000},
            {"items": {"type": "integer", "multipleOf": 1_000_003}},
        ],
    )
    def test_a_schema_that_takes_too_much_is_rejected(self, tokenizer, schema):
        with pytest.raises(InvalidArgument, match="allowed"):
            tokenizer.json_schema(json.dumps(schema))

    @pytest.mark.parametrize(
        "schema",
        [
            {"enum": MANY[:20_000]},
            {"allOf": [{"required": ["a"]}] * 1000, "properties": {"a": {}}},
            {"allOf": [{"enum": MANY[:9999]}, {"enum": MANY[9999::-1]}]},
            {"allOf": [{"type": ["object"] * 9999}, {"type": ["object", "string"] * 5000}]},
            {"properties": {name: {} for name in MANY[:1000]}},
            {"patternProperties": {f"^a{at}$": {} for at in range(100)}},
            {"pattern": "^(" + "ab|" * 60_000 + ")$"},
            {"pattern": "^" + "(" * 30_000},
            {"pattern": "[^a]" * 1000},
            {"type": "string", "pattern": "^((a?){500}){500}b$"},
            {"type": "string", "pattern": "(a.{40}b|c.{30}d|e.*f)*x"},
            {"type": "integer", "minimum": 10**4000},
        ],
    )
    def test_a_large_schema_is_read_soon(self, accepts, schema):
        started = time.thread_time()
        with suppress(NnError):
            accepts(schema, '{"p0":1}')
            accepts(schema, '"ab"')
        assert time.thread_time() - started < 20

    @pytest.mark.parametrize(
        "schema",
        [
            {"type": "a" * 100_000},
            {"$ref": "a" * 100_000},
            {"$ref": "#/" + "a" * 100_000},
            {"items": ["a" * 100_000]},
            {"properties": {}, "required": ["a" * 100_000, 3]},
            {"pattern": "(" * 100_000},
        ],
    )
    def test_a_long_mistake_has_a_short_reason(self, tokenizer, schema):
        with pytest.raises(InvalidArgument) as raised:
            tokenizer.json_schema(json.dumps(schema))
        assert len(str(raised.value)) < 300

    @pytest.mark.parametrize(
        ("schema", "named"),
        [
            ({"not": {"type": "null"}}, "not"),
            ({"type": "array", "uniqueItems": True}, "uniqueItems"),
            ({"type": "string", "format": "iri"}, "format"),
            ({"oneOf": [{"minimum": 1}, {"maximum": 2}]}, "oneOf"),
        ],
    )
    def test_a_keyword_that_cannot_be_enforced_is_logged(self, accepts, caplog, schema, named):
        accepts(schema, "1")
        accepts(schema, "1")
        assert named in caplog.text
        assert caplog.text.count("not followed in full") == 1

    @pytest.mark.parametrize("pattern", [r"^(a)\1$", "(?=a)b", "^(a"])
    def test_a_pattern_that_is_not_supported_is_rejected(self, tokenizer, pattern):
        with pytest.raises(InvalidArgument, match="json-schema cannot be used"):
            tokenizer.json_schema(json.dumps({"type": "string", "pattern": pattern}))

    @pytest.mark.parametrize(
        "schema",
        [
            {"type": "string", "pattern": "^a+$", "maxLength": 3},
            {"type": "number", "minimum": 0.5, "exclusiveMaximum": 2},
            {"type": "integer", "multipleOf": 5},
            {"type": "string", "maxLength": 1000},
        ],
    )
    def test_an_enforced_keyword_is_not_logged(self, tokenizer, caplog, schema):
        tokenizer.json_schema(json.dumps(schema))
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
        with suppress(NnError):
            accepts(schema, "x")
