"""Grammars: which texts keep to them, and which grammars are rejected."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import needs
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wasi_nn.errors import InvalidArgument, NnError, RuntimeFailure
from wasi_nn_ggml.grammar import gbnf
from wasi_nn_ggml.llama.model import Source
from wasi_nn_ggml.llama.sampler import Sampler
from wasi_nn_ggml.settings import ModelSettings, SamplerSettings

needs("xllamacpp")
needs("llguidance")

TINY = Path(__file__).parents[3] / "conformance" / "graphs" / "ggml" / "tiny.gguf"
# The tiny model's <|im_end|>.
END = 2


@pytest.fixture(scope="module")
def model():
    return Source(TINY).model(ModelSettings())


@pytest.fixture(scope="module")
def tokenizer(model):
    return model.tokenizer()


def follow(matcher, tokens):
    """Whether the grammar accepts the tokens and then the end."""
    for token in tokens:
        if token not in matcher.allowed():
            return False
        matcher.accept(token)
    return END in matcher.allowed()


@pytest.fixture(scope="module")
def accepts(tokenizer):
    """Whether a grammar accepts a whole text, in the vocabulary's byte tokens."""
    return lambda grammar, text: follow(
        tokenizer.grammar(grammar), [4 + byte for byte in text.encode()]
    )


# Every text of a grammar

ALPHABET, LONGEST = "abc", 4
items = st.recursive(
    st.sampled_from(['"a"', '"b"', '"ab"', '"bca"', '""', "[ab]", "[^a]", ".", "root", "x", "y"]),
    lambda inner: (
        st.lists(st.lists(inner, max_size=3).map(" ".join), min_size=1, max_size=3).map(
            lambda alternates: f"({' | '.join(alternates)})"
        )
        | st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "{2,}", "{0}"])).map(
            "".join
        )
    ),
    max_leaves=8,
)
grammars = st.tuples(items, items, items).map(
    lambda bodies: "\n".join(map("{} ::= {}".format, ("root", "x", "y"), bodies))
)


def texts(rules):
    """The texts of a grammar up to a length, by the definition: the least fixed point."""
    known = {name: set() for name in rules}

    def joined(first, second):
        return {a + b for a in first for b in second if len(a + b) <= LONGEST}

    def of(item):
        if item.rule:
            words = known[item.rule]
        elif item.ranges:
            words = {c for c in ALPHABET if any(a <= ord(c) <= b for a, b in item.ranges)}
        else:
            words = {item.text}
        for least, most in item.repeats:
            times = [{""}]
            for _ in range(LONGEST + least if most is None else most):
                times.append(joined(times[-1], words))
            words = set().union(*times[least:])
        return words

    while True:
        found = {}
        for name, sequences in rules.items():
            found[name] = set()
            for sequence in sequences:
                words = {""}
                for item in sequence:
                    words = joined(words, of(item))
                found[name] |= words
        if found == known:
            return known["root"]
        known = found


@settings(max_examples=100, deadline=None)
@example('root ::= [ab]+ "b"\nx ::= ""\ny ::= ""')
@example('root ::= x | "a" root "a"\nx ::= "ab" "c" "b" | "abc" "a"\ny ::= ""')
@example('root ::= x "ab" | "c" root "c"\nx ::= "a"*\ny ::= ""')
@example('root ::= x x | "c" root "c"\nx ::= "a"? "b"?\ny ::= ""')
@example('root ::= root "a" | x\nx ::= "b" x | "c"\ny ::= ""')
@given(grammars)
def test_exactly_the_texts_of_a_grammar_are_accepted(tokenizer, grammar):
    """llguidance's lexer is greedy, and GBNF has none."""
    expected = texts(gbnf.read(grammar))
    found = set()

    def walk(matcher, text):
        matcher.reset()
        for character in text:
            matcher.accept(4 + ord(character))
        allowed = {*matcher.allowed().tolist()}
        if END in allowed:
            found.add(text)
        if len(text) < LONGEST:
            for character in ALPHABET:
                if 4 + ord(character) in allowed:
                    walk(matcher, text + character)

    # A grammar without texts is rejected.
    with suppress(InvalidArgument):
        walk(tokenizer.grammar(grammar), "")
    assert found == expected


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
TEXTS = {
    "json": (JSON, ['{"a": [1, -2.5e3, true], "b": {"c": "\\u00e9\\n"}}', "{}"], ["[1]", "{a}"]),
    "program": (PROGRAM, ["int f(){return x+1;}", "int f(int a){//b\n}"], ["int f(){return 1}"]),
    "arithmetic": (ARITHMETIC, ["a+1=b\n", "(a*2) -c=d\n"], ["a=b", "a+=b\n"]),
    "chess": (CHESS, ["1. e4 e5\n2. Nf3 Nc6\n", "1. d4 d5\n2. O-O exd5+\n"], ["1. e4 e9\n"]),
    "list": (r'root ::= ("- " [^\r\n\x0b\u2028]+ "\n")+', ["- a\n- é b\n"], ["- \n", "- a"]),
    "enumeration": (
        "root ::= " + " | ".join(f'"value {at}"' for at in range(5000)),
        ["value 0", "value 4999"],
        ["value", "value 5000"],
    ),
    "long": ('root ::= "' + "ab" * 50_000 + '"', [], ["ab"]),
    "chain": (chain(150, '"x"? next', '"a"'), ["xxa"], ["xx"]),
    "empty ones": ('root ::= (("a"?)* | "b"*)* "c"', ["c", "aabac"], ["ab"]),
    "itself at the end": ('root ::= ws root | "a"\nws ::= " "*', ["a", "   a"], [" "]),
    "itself at the beginning": ('root ::= root "a" | "b"', ["b", "baa"], ["a", ""]),
    "alike": (chain(22, 'next | next "x"', '"y"'), ["y", "y" + "x" * 22], ["x", "y" + "x" * 23]),
    "optional": ("root ::= " + '"a"? ' * 100, ["", "a" * 100], ["b", "a" * 101]),
    "repeated": ('root ::= (("a"?){40}){40}', ["", "aaa"], ["b"]),
    "characters": (
        r'root ::= [\x41-\x43] "\u00e9\U0001f600\t\"\\" [^\]\[] [a-] .',
        ['Bé😀\t"\\x-\n', 'Cé😀\t"\\éa/'],
        ['Dé😀\t"\\xa/', 'Bé😀\t"\\]a/', 'Bé😀\t"\\xb/'],
    ),
    "names": ("root ::= start | -a1-B\nstart ::= [/]\n-a1-B ::= 7\n7 ::= [%#]", ["/", "#"], ["7"]),
    "comments": ('root ::= # "b"\n  "a" # (\n  | x\nx ::= "c"', ["a", "c"], ["b"]),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_grammar_accepts_and_rejects_texts(accepts, name):
    grammar, right, wrong = TEXTS[name]
    for text in right:
        assert accepts(grammar, text), text
    for text in wrong:
        assert not accepts(grammar, text), text


def test_a_token_can_be_named(tokenizer):
    hello = tokenizer.grammar('root ::= <|im_start|> "a" <[300]> !<[5]> !<|im_start|>')
    assert follow(hello, [3, 4 + ord("a"), 300, 6, 7])
    for tokens in ([3, 301], [3, 4 + ord("a"), 300, 5], [3, 4 + ord("a"), 300, 6, 3]):
        hello.reset()
        assert not follow(hello, tokens)
    for name in ("<nothing>", "<[398]>", "<[99999999999]>", "<é>"):
        with pytest.raises(InvalidArgument, match="not one of the model's tokens"):
            tokenizer.grammar(f"root ::= {name}")


def test_a_special_token_is_written_only_if_it_is_named(tokenizer):
    assert not {0, 1, 3} & {*tokenizer.grammar("root ::= .*").allowed().tolist()}


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
        ("root ::= []", "a set has no characters"),
        (r"root ::= [^\x00-\U0010ffff]", "a set has no characters"),
        ("root ::= [z-a]", "larger character first"),
        (r'root ::= "\q"', "is not an escape"),
        (r'root ::= "\x4"', "is not an escape"),
        (r'root ::= "\uD800"', r"no character U\+D800"),
        (r"root ::= [\U00110000]", r"no character U\+110000"),
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
        (f"root ::= {'|' * 300_000}", "262144"),
        ('root ::= root "a"', "no text satisfies it"),
        (chain(250, "next", '"a"'), "deeper than 200"),
        (chain(20_000, '"a" next', "root"), "deeper than 200|262144"),
        (chain(40, "next next", '"y"?'), "cannot be used: .*too big"),
    ],
)
def test_a_mistake_gives_a_reason(tokenizer, grammar, why):
    with pytest.raises(InvalidArgument, match=why):
        tokenizer.grammar(grammar)


@pytest.mark.parametrize(
    "grammar",
    [
        'root ::= "a"' + "?" * 200_000,
        "root ::= " + "r" * 500 + " " + '"a"{1} ' * 30_000,
        "root ::= " + "|" * 250_000,
        "root ::= " + '"a"? ' * 5_000,
        "root ::= " + " | ".join(f"[{chr(at)}-{chr(at + 1)}] root" for at in range(200, 1200)),
        "root ::= " + " | ".join(f'"{at}" root "x"' for at in range(1000)),
        'root ::= "a" root "b"? | "a" root "c"? | ""',
        'root ::= ("a"? "b"? "c"? . root)?',
        "root ::= x x x\nx ::= [a-z] | x x | x x x",
        'root ::= ws root "b" | "a"\nws ::= " "*',
        "root ::= .{0,2000} [a]{0,2000} .{0,2000}",
    ],
)
def test_a_grammar_that_is_slow_in_llama_cpp_ends_soon(tokenizer, grammar):
    started = time.thread_time()
    with suppress(InvalidArgument, RuntimeFailure):
        matcher = tokenizer.grammar(grammar)
        for _ in range(50):
            allowed = matcher.allowed()
            matcher.accept(int(allowed[len(allowed) // 2]))
    assert time.thread_time() - started < 20


def test_threads_share_a_tokenizer():
    """Each follows its own text."""
    model = Source(TINY).model(ModelSettings())
    results = []

    def work(word):
        for _ in range(20):
            matcher = model.tokenizer().grammar(f'root ::= "{word}" | "(" root ")"')
            results.append(follow(matcher, [4 + byte for byte in f"(({word}))".encode()]))

    threads = [threading.Thread(target=work, args=(word * 20,)) for word in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 80


def test_a_text_can_begin_anew_after_a_failure(tokenizer):
    matcher = tokenizer.grammar('root ::= "a" root? "b"?')
    first = matcher.allowed().tolist()

    def write():
        for _ in range(5000):
            matcher.allowed()
            matcher.accept(4 + ord("a"))

    with pytest.raises(RuntimeFailure, match="too complex"):
        write()
    matcher.reset()
    assert matcher.allowed().tolist() == first


def test_a_grammar_counts_against_the_memory_limit(model):
    sizes = []
    Sampler(model, SamplerSettings(grammar='root ::= "a"'), reserve=sizes.append)
    assert max(sizes) > 1 << 20
    Sampler(model, SamplerSettings(grammar=f'root ::= "{"a" * 9999}"'), reserve=sizes.append)
    assert max(sizes) > 5 << 20


@settings(max_examples=200, deadline=None)
@given(text=st.text('root:=()[]{}|*+?"\\ab-^.,0123456789<>! \n', max_size=60))
def test_any_text_is_a_grammar_or_a_mistake(tokenizer, text):
    with suppress(NnError):
        matcher = tokenizer.grammar(f"root ::= {text}")
        for _ in range(3):
            matcher.accept(int(matcher.allowed()[0]))
