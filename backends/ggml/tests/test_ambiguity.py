"""Grammars that llama.cpp would not finish are rejected, and valid ones are not."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from conftest import needs

from wasi_nn.errors import InvalidArgument
from wasi_nn_ggml.grammar import gbnf
from wasi_nn_ggml.grammar.schema import grammar_of
from wasi_nn_ggml.llama.model import Source
from wasi_nn_ggml.llama.sampler import Sampler
from wasi_nn_ggml.settings import ModelSettings, SamplerSettings

needs("xllamacpp")

TINY = Path(__file__).parents[3] / "conformance" / "graphs" / "ggml" / "tiny.gguf"


def chain(count, body, last):
    """Rules, each made of the next one."""
    rules = [f"r{at} ::= {body.replace('next', f'r{at + 1}')}" for at in range(count)]
    return "\n".join(["root ::= r0", *rules, f"r{count} ::= {last}"])


JSON = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws (
             string ":" ws value
             ("," ws string ":" ws value)*
           )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" (
             [^"\\\x7F\x00-\x1F] |
             "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
           )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws     ::= | " " | "\n" [ \t]{0,20}
"""
PROGRAM = r"""
root        ::= declaration*
declaration ::= type name "(" (type name)? ")" "{" statement* "}"
type        ::= "int" ws | "float" ws | "char" ws
name        ::= [a-zA-Z_] [a-zA-Z_0-9]*
statement   ::= type name ws "=" ws sum ";" | name ws "=" ws sum ";" | name ws "(" list? ")" ";" |
              "return" ws sum ";" | "while" "(" test ")" "{" statement* "}" |
              "if" "(" test ")" "{" statement* "}" ("else" "{" statement* "}")? |
              "//" [^\n]* "\n" | "/*" ( [^*] | ("*" [^/]) )* "*/"
test        ::= sum ("<=" | "<" | "==" | "!=" | ">=" | ">") sum
sum         ::= product (("+" | "-") product)*
product     ::= factor (("*" | "/") factor)*
factor      ::= name | [0-9]+ | "-" factor | name "(" list? ")" | "(" ws sum ws ")"
list        ::= sum ("," ws sum)*
ws          ::= [ \t\n]*
"""
ARITHMETIC = r"""
root  ::= (sum "=" ws term "\n")+
sum   ::= term ([-+*/] term)*
term  ::= name | num | "(" ws sum ")" ws
name  ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \t\n]*
"""
CHESS = r"""
root    ::= "1. " move " " move "\n" ([1-9] [0-9]? ". " move " " move "\n")+
move    ::= (pawn | nonpawn | castle) [+#]?
nonpawn ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
pawn    ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?
castle  ::= "O-O" "-O"?
"""
SOUND = {
    "json": JSON,
    "program": PROGRAM,
    "arithmetic": ARITHMETIC,
    "chess": CHESS,
    "list": r'root ::= ("- " [^\r\n\x0b\x0c\x85\u2028\u2029]+ "\n")+',
    "enumeration": "root ::= " + " | ".join(f'"value {at}"' for at in range(5000)),
    "long": 'root ::= "' + "a" * 100_000 + '"',
    "chain": chain(2000, "next", '"a"'),
    "steps": chain(2000, '"x" next? | [a-z]{0,9}', '"a"'),
    "repetition": 'root ::= ("a" "b"?){1,100} | [0-9]{1999} | "x"{0,1999}',
    "empty ones": 'root ::= (("a"?)* | "b"*)* "c"',
    "itself at the end": 'root ::= ws root | "a"\nws ::= " "*',
}
UNSOUND = {
    "alternates that begin alike": chain(22, 'next | next "x"', '"y"'),
    "of a rule that is not used": 'root ::= "a"\n' + chain(22, 'next | next "x"', '"y"')[12:],
    "empty twice": chain(40, "next next", '"y"?'),
    "optional ones": "root ::= " + '"a"? ' * 2000,
    "written otherwise": "root ::= " + r'"\x61"? [b]{0,1} ' * 1000,
    "repeated": 'root ::= (("a"?){40}){40}',
    "repeated thrice": 'root ::= ((("a"?){12}){12}){12}',
    "in the middle": 'root ::= "z" ' + '"a"? ' * 2000,
}
ENDLESS = ['root ::= ws root "b" | "a"\nws ::= " "*', 'root ::= ("a"* root? "b")* "a"']


@pytest.mark.parametrize("name", SOUND)
def test_a_valid_grammar_is_accepted(name):
    Sampler(Source(TINY).model(ModelSettings()), SamplerSettings(grammar=SOUND[name]))


@pytest.mark.parametrize("name", UNSOUND)
def test_a_too_ambiguous_grammar_is_rejected(name):
    with pytest.raises(InvalidArgument, match="too ambiguous"):
        gbnf.check(UNSOUND[name])


@pytest.mark.parametrize("grammar", ENDLESS)
def test_left_recursion_is_rejected(grammar):
    with pytest.raises(InvalidArgument, match="begins with itself"):
        gbnf.check(grammar)


@pytest.mark.parametrize(
    "repeated", ['"%s"{1999}' % ("a" * 1100), f"[{'a' * 1100}]{{0,1999}}", '"a"{0,999} ' * 900]
)
def test_a_grammar_that_is_long_when_expanded_is_rejected(repeated):
    with pytest.raises(InvalidArgument, match="elements"):
        gbnf.check(f"root ::= {repeated}")


@pytest.mark.parametrize(
    "grammar",
    [
        'root ::= "a"' + "?" * 200_000,
        "root ::= " + "r" * 500 + " " + '"a"{1} ' * 30_000,
        "root ::= " + "|" * 250_000,
        chain(9000, "next? next2?", '"a"').replace("2", ""),
    ],
)
def test_the_check_ends_soon(grammar):
    started = time.thread_time()
    with pytest.raises(InvalidArgument):
        gbnf.check(grammar)
    assert time.thread_time() - started < 10


def test_a_long_rule_name_counts_in_every_repetition():
    """llama.cpp names each expanded repetition, and the name begins with the rule's."""

    def reserved_for(name):
        sizes = []
        grammar = f'root ::= {name}\n{name} ::= "a"{{0,1999}}'
        Sampler(model, SamplerSettings(grammar=grammar), reserve=sizes.append)
        return max(sizes)

    model = Source(TINY).model(ModelSettings())
    assert reserved_for("b" * 500) - reserved_for("b") > 1999 * 500


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": list(range(3000))},
        {"type": "array", "minItems": None, "maxItems": None},
        {"properties": {f"k{at}": {"type": "string"} for at in range(300)}},
        {"properties": {"a": {"type": "string", "maxLength": 1000}, "b": {"items": {}}}},
        {
            "properties": {f"k{at}": {"type": "string", "maxLength": 1000} for at in range(300)},
            "required": [f"k{at}" for at in range(300)],
        },
        {"anyOf": [{}, {"type": "array", "items": {"type": ["null", "array", "object"]}}]},
    ],
)
def test_the_grammar_of_a_large_schema_is_accepted(schema):
    gbnf.check(grammar_of(json.dumps(schema)))
