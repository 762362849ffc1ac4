"""Converts JSON schemas to grammars in llama.cpp's GBNF, so that a model can only write valid JSON.

Supported: types, lists of types, ``properties``, ``required``, ``additionalProperties``, ``items``,
``prefixItems``, ``minItems``, ``maxItems``, ``minLength``, ``maxLength``, ``enum``, ``const``,
``anyOf``, ``oneOf``, ``allOf``, local ``$ref``, bounds of numbers, ``pattern``, and the formats
``date``, ``time``, ``date-time`` and ``uuid``. Other keywords are logged: whoever reads the answer
must check them, as with llama.cpp's own converter. An object's properties come in the order of the
schema.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

from wasi_nn.errors import InvalidArgument
from wasi_nn.escaping import logger
from wasi_nn_ggml.grammar import gbnf, pattern, ranges, schema_merge
from wasi_nn_ggml.grammar.ranges import Bound

log = logger("wasi_nn.ggml")

# Keywords that are never enforced.
_NOT_ENFORCED = """
multipleOf not if then else contains uniqueItems minProperties
maxProperties patternProperties propertyNames dependentRequired dependentSchemas
unevaluatedProperties
""".split()
# Keywords that are enforced for one type only: without a type, any value passes.
_NEEDS_TYPE = {
    "minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "minLength", "maxLength",
    "minItems", "maxItems", "required",
}  # fmt: skip
_MAX_DEPTH = 64
_MAX_REPEATS = 1000
_SPACE = '| " " | "\\n" [ \\t]{0,20}'
_DATE = '[0-9]{4} "-" ( "0" [1-9] | "1" [0-2] ) "-" ( "0" [1-9] | [1-2] [0-9] | "3" [0-1] )'
_TIME = (
    '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ( "." [0-9]{3} )? '
    '( "Z" | ( "+" | "-" ) ( [01] [0-9] | "2" [0-3] ) ":" [0-5] [0-9] )'
)
_HEX = "[0-9a-fA-F]"
#: Rules by name. A rule brings the rules that it mentions.
_RULES = {
    "space": _SPACE,
    "boolean": '("true" | "false") space',
    "null": '"null" space',
    "char": r'[^"\\\x7F\x00-\x1F] | [\\] (["\\bfnrt/] | "u" [0-9a-fA-F]{4})',
    "string": r'"\"" char* "\"" space',
    "integral": "[0] | [1-9] [0-9]{0,15}",
    "integer": '("-"? integral) space',
    "unsigned-number": 'integral ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,3})?',
    "number": '("-"? integral) ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,3})? space',
    "pair": 'string ":" space value',
    "object": '"{" space ( pair ("," space pair)* )? "}" space',
    "array": '"[" space ( value ("," space value)* )? "]" space',
    "value": "object | array | string | number | boolean | null",
    "date": rf'"\"" {_DATE} "\"" space',
    "time": rf'"\"" {_TIME} "\"" space',
    "date-time": rf'"\"" {_DATE} "T" {_TIME} "\"" space',
    "uuid": rf'"\"" {_HEX}{{8}} "-" {_HEX}{{4}} "-" {_HEX}{{4}} "-" {_HEX}{{4}} "-" {_HEX}{{12}} '
    r'"\"" space',
}


@lru_cache(maxsize=16)
def grammar_of(text: str) -> str:
    """The grammar of a JSON schema given as JSON; empty for an empty text. Raises
    ``InvalidArgument`` if it is not a schema, or no value can satisfy it."""
    if not text:
        return ""
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"the json-schema is not JSON: {error}") from error
    try:
        return _Converter(schema).grammar()
    except RecursionError as error:
        # A constant that the JSON parser just managed to read.
        raise InvalidArgument(f"the json-schema nests too deep: {error}") from error


class _Converter:
    def __init__(self, schema: Any) -> None:
        self._root = schema
        self._rules: dict[str, str] = {}
        self._references: dict[str, str] = {}
        #: The rules of references that must still be written, each with its schema.
        self._referred: list[tuple[str, Any]] = []
        self._depth = self._visits = self._written = 0
        self._not_enforced: set[str] = set()

    def grammar(self) -> str:
        self._rules["root"] = self._visit(self._root)
        while self._referred:
            name, target = self._referred.pop()
            self._rules[name] = self._visit(target)
            if self._rules[name] == name:
                raise InvalidArgument("a $ref of the json-schema refers only to itself")
        if self._not_enforced:
            log.warning(
                "the json-schema's %s cannot be put into a grammar: an answer may not satisfy it",
                ", ".join(sorted(self._not_enforced)),
            )
        pending = list(self._rules.values())
        while pending:
            for word in re.findall(r"[a-z][a-z-]*", _without_literals(pending.pop())):
                if word in _RULES and word not in self._rules:
                    self._rules[word] = _RULES[word]
                    pending.append(_RULES[word])
        return "\n".join(f"{name} ::= {body}" for name, body in sorted(self._rules.items()))

    def _visit(self, schema: Any) -> str:
        """The body of a rule for a schema."""
        self._depth += 1
        self._visits += 1
        if self._depth > _MAX_DEPTH:
            raise InvalidArgument(f"the json-schema nests deeper than {_MAX_DEPTH} levels")
        if schema is True:
            body = "value"
        elif isinstance(schema, Mapping):
            body = self._object_of_keywords(schema)
        else:
            raise InvalidArgument(f"a json-schema must be an object, not {reprlib.repr(schema)}")
        self._depth -= 1
        # A nested body is written again with each body around it, and is never empty.
        self._count(len(body))
        return body

    def _count(self, size: int) -> None:
        self._written += size
        if (
            size > gbnf.MAX_SIZE
            or self._visits > gbnf.MAX_SIZE // 4
            or self._written > _MAX_DEPTH * gbnf.MAX_SIZE
        ):
            raise InvalidArgument(
                f"the json-schema makes a grammar of more than {gbnf.MAX_SIZE} characters"
            )

    def _object_of_keywords(self, schema: Mapping[str, Any]) -> str:
        self._not_enforced.update(key for key in _NOT_ENFORCED if key in schema)
        if "$ref" in schema:
            return self._reference(schema["$ref"])
        for key in ("allOf", "anyOf", "oneOf"):
            if key in schema:
                parts = self._parts(schema, key)
                return self._either([self._visit(part) for part in parts])
        if "const" in schema:
            return f"{_literal(schema['const'])} space"
        if "enum" in schema:
            return f"( {' | '.join(_literal(v) for v in _list(schema, 'enum'))} ) space"
        kind = schema.get("type")
        if isinstance(kind, list):
            if not all(isinstance(each, str) for each in kind):
                raise InvalidArgument("the json-schema's type must be a name or a list of names")
            each_once = dict.fromkeys(kind)
            return self._either([self._visit({**schema, "type": each}) for each in each_once])
        if kind == "object" or (kind is None and "properties" in schema):
            return self._object(schema)
        if kind == "array" or (kind is None and ("items" in schema or "prefixItems" in schema)):
            return self._array(schema)
        if kind == "string" or (kind is None and "pattern" in schema):
            return self._string(schema)
        if kind in ("integer", "number"):
            return self._number(kind, schema)
        if kind in ("boolean", "null"):
            return str(kind)
        if kind is None:
            self._not_enforced.update(_NEEDS_TYPE & schema.keys())
            return "value"
        raise InvalidArgument(f"the json-schema has the unknown type {reprlib.repr(kind)}")

    def _rule(self, body: str) -> str:
        name = f"r{_letters(len(self._rules))}"
        self._rules[name] = body
        return name

    def _either(self, bodies: Sequence[str]) -> str:
        return f"( {' | '.join(bodies)} )"

    def _reference(self, reference: Any) -> str:
        name = self._references.get(reference) if isinstance(reference, str) else None
        if name is None:
            target = self._target(reference)
            name = self._references[reference] = self._rule("")
            # Write it later, not within the rule that refers to it: a chain may have any length.
            self._referred.append((name, target))
        return name

    def _target(self, reference: Any) -> Any:
        if not isinstance(reference, str) or not re.match("#(/|$)", reference):
            raise InvalidArgument(
                f"the json-schema refers to {reprlib.repr(reference)}: only #/… is supported"
            )
        try:
            return schema_merge.resolve(self._root, reference)
        except (LookupError, ValueError, TypeError):
            raise InvalidArgument(
                f"the json-schema has nothing at {reprlib.repr(reference)}"
            ) from None

    def _parts(self, schema: Mapping[str, Any], key: str) -> Iterable[Any]:
        """Schemas one of which a value must satisfy: each of ``key``, or all of them merged, each
        with the keywords beside it."""
        rest = {name: value for name, value in schema.items() if name != key}
        parts = _list(schema, key)
        if not schema_merge.constrains(rest) and (key != "allOf" or len(parts) == 1):
            # Unmerged: a reference may lead back here.
            return parts
        if key != "allOf":
            # One at a time: the keywords beside them may be large.
            return (self._merge(rest, part) for part in parts)
        for part in parts:
            rest = self._merge(rest, part)
        return [rest]

    def _merge(self, first: Mapping[str, Any], second: Any) -> dict[str, Any]:
        for _ in range(_MAX_DEPTH):
            if not isinstance(second, Mapping) or "$ref" not in second:
                break
            rest = {name: value for name, value in second.items() if name != "$ref"}
            second = self._target(second["$ref"])
            if rest and isinstance(second, Mapping):
                second = {**second, **rest}
        if second is True:
            second = {}
        if not isinstance(second, Mapping):
            raise InvalidArgument(f"a json-schema must be an object, not {reprlib.repr(second)}")
        result = schema_merge.merge(first, second, self._not_enforced.add)
        self._count(sum(len(each) for each in result.values() if isinstance(each, (list, dict))))
        return result

    def _object(self, schema: Mapping[str, Any]) -> str:
        properties, required = _members(schema)
        extra = schema.get("additionalProperties", not properties)
        pairs = {
            name: self._rule(f'{_literal(name)} space ":" space {self._visit(value)}')
            for name, value in properties.items()
        }
        unknown = [name for name in required if name not in pairs]
        if unknown:
            raise InvalidArgument(
                f"the json-schema requires {reprlib.repr(unknown[0])} and does not define it"
            )
        optional = [rule for name, rule in pairs.items() if name not in required]
        if extra is not False and not (extra is True and not properties):
            pair = self._rule(f'string ":" space {self._visit(extra)}')
            optional.append(self._rule(f'{pair} ("," space {pair})*'))
        elif extra is True:
            return "object"
        body = ' "," space '.join(rule for name, rule in pairs.items() if name in required)
        tail = ""
        for rule in reversed(optional):
            # Any of the optional ones, in order: this one and maybe later ones, or later ones.
            tail = self._rule(f'{rule} ( "," space {tail} )? | {tail}') if tail else rule
        if tail:
            body = f'{body} ( "," space {tail} )?' if body else f"( {tail} )?"
        return f'"{{" space {body} "}}" space'

    def _array(self, schema: Mapping[str, Any]) -> str:
        prefix = schema.get("prefixItems")
        if prefix is None and isinstance(schema.get("items"), list):
            prefix = schema["items"]
        if prefix is not None:
            bodies = [self._visit(item) for item in _list({"prefixItems": prefix}, "prefixItems")]
            return f'"[" space {_joined(bodies)} "]" space'
        item = self._rule(self._visit(schema.get("items", True)))
        least, most = self._repeats(schema, "minItems", "maxItems")
        if most == 0:
            return '"[" space "]" space'
        upper = "" if most is None else str(most - 1)
        some = f'{item} ("," space {item}){{{max(least - 1, 0)},{upper}}}'
        return f'"[" space {some if least else f"( {some} )?"} "]" space'

    def _number(self, kind: str, schema: Mapping[str, Any]) -> str:
        least = self._bound(schema, "minimum", "exclusiveMinimum", 1)
        most = self._bound(schema, "maximum", "exclusiveMaximum", -1)
        if least is None and most is None:
            return kind
        if kind == "number":
            if most is None and least == Bound(Decimal(0)):
                return "unsigned-number space"
            body = ranges.decimals(least, most)
        else:
            body = ranges.integers(
                None if least is None else least.lowest(), None if most is None else most.highest()
            )
        if not body:
            raise InvalidArgument("the json-schema's minimum and maximum leave no number")
        return f"{body} space"

    def _bound(
        self, schema: Mapping[str, Any], key: str, exclusive: str, sign: int
    ) -> Bound | None:
        """The tighter of two bounds: lower ones for a ``sign`` of 1, upper ones for -1."""
        given = {name: schema[name] for name in (key, exclusive) if name in schema}
        # In draft 4 this key is a flag: it makes the other bound exclusive.
        flag = given.pop(exclusive) if isinstance(given.get(exclusive), bool) else False
        bounds = []
        for name, value in given.items():
            if type(value) not in (int, float):
                raise InvalidArgument(f"the json-schema's {name} must be a number")
            number = ranges.number(value)
            if number is None:
                self._not_enforced.add(name)
            else:
                bounds.append(Bound(number, name == exclusive or flag))
        return max(bounds, key=lambda b: (sign * b.value, b.strict), default=None)

    def _string(self, schema: Mapping[str, Any]) -> str:
        if "pattern" in schema:
            body = self._pattern(schema["pattern"])
            if body is not None:
                self._not_enforced.update({"minLength", "maxLength", "format"} & schema.keys())
                return rf'"\"" {body} "\"" space'
        form = schema.get("format")
        if form in ("date", "time", "date-time", "uuid"):
            return str(form)
        least, most = self._repeats(schema, "minLength", "maxLength")
        if least == 0 and most is None:
            return "string"
        return rf'"\"" char{{{least},{"" if most is None else most}}} "\"" space'

    def _pattern(self, text: Any) -> str | None:
        """The grammar between the quotation marks of a matching string; None if the pattern cannot
        be enforced."""
        if not isinstance(text, str):
            raise InvalidArgument("the json-schema's pattern must be a text")
        try:
            body = pattern.convert(text)
            gbnf.check(f"root ::= {body}\nchar ::= {_RULES['char']}")
        except (pattern.NotSupported, InvalidArgument):
            self._not_enforced.add("pattern")
            return None
        return body

    def _repeats(self, schema: Mapping[str, Any], low: str, high: str) -> tuple[int, int | None]:
        """The bounds of a repetition. llama.cpp counts up to ``_MAX_REPEATS``: a larger bound is
        enforced as far as that."""
        # A null is taken for a missing key.
        least, most = (0 if schema.get(low) is None else schema[low]), schema.get(high)
        for value in (least, most):
            if value is not None and (type(value) is not int or value < 0):
                raise InvalidArgument(
                    f"the json-schema's {low} and {high} must be whole numbers from 0"
                )
        if most is not None and most < least:
            raise InvalidArgument(f"the json-schema's {high} is below its {low}")
        if least > _MAX_REPEATS:
            self._not_enforced.add(low)
        if most is not None and most > _MAX_REPEATS:
            self._not_enforced.add(high)
            most = None
        return min(least, _MAX_REPEATS), most


def _joined(bodies: Sequence[str]) -> str:
    return ' "," space '.join(bodies)


def _members(schema: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, None]]:
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, Mapping) or not isinstance(required, list):
        raise InvalidArgument("the json-schema's properties must be an object, and required a list")
    if not all(isinstance(name, str) for name in required):
        raise InvalidArgument("the json-schema's required must be a list of names")
    return dict(properties), dict.fromkeys(required)


def _list(schema: Mapping[str, Any], key: str) -> list[Any]:
    value = schema[key]
    if not isinstance(value, list) or not value:
        raise InvalidArgument(f"the json-schema's {key} must be a list that is not empty")
    return value


def _literal(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _without_literals(body: str) -> str:
    return re.sub(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]', " ", body)


def _letters(number: int) -> str:
    # Rule names have only letters and dashes, like the ones above.
    text = ""
    while True:
        text = chr(ord("a") + number % 26) + text
        number = number // 26 - 1
        if number < 0:
            return f"-{text}"
