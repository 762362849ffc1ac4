"""A look at a grammar in llama.cpp's GBNF before llama.cpp parses it.

llama.cpp parses by recursion, writes what is wrong to stderr, and gives its caller no reason. The
usual mistakes are found here, with one; what passes is for llama.cpp to judge. Source of the
syntax: llama.cpp's grammars/README.md and src/llama-grammar.cpp.
"""

from __future__ import annotations

import re

from wasi_nn.errors import InvalidArgument

_MOST = 256 << 10
_MOST_NESTING = 200
_MOST_REPEATS = 2000
_PIECE = re.compile(
    r"""
    (?P<space>\s+|\#[^\n]*)
    | (?P<text>"(?:\\.|[^"\\])*")
    | (?P<set>\[(?:\\.|[^\]\\])*\])
    | (?P<token>!?<[^>\n]*>)
    | (?P<rule>[A-Za-z0-9-]+)(?P<define>\s*::=)?
    | (?P<repeat>\{\s*\d*\s*,?\s*\d*\s*\})
    | (?P<mark>[()|*+?.])
    """,
    re.VERBOSE | re.DOTALL,
)


def check(grammar: str) -> None:
    """Raise ``InvalidArgument`` with the reason for a grammar that cannot be right."""
    if len(grammar) > _MOST:
        raise InvalidArgument(f"a grammar of {len(grammar)} characters is more than {_MOST}")
    defined: set[str] = set()
    used: dict[str, int] = {}
    depth = at = 0
    while at < len(grammar):
        piece = _PIECE.match(grammar, at)
        if piece is None:
            raise _wrong(grammar, at, f"{grammar[at]!r} is not expected")
        rule, mark, repeat = piece["rule"], piece["mark"], piece["repeat"]
        if rule and piece["define"]:
            if depth:
                raise _wrong(grammar, at, f"rule {rule!r} begins inside of parentheses")
            defined.add(rule)
        elif not defined and not piece["space"]:
            raise _wrong(grammar, at, "a rule begins with its name and ::=")
        elif rule:
            used.setdefault(rule, at)
        elif mark == "(":
            depth += 1
        elif mark == ")":
            depth -= 1
        elif repeat and max(map(int, re.findall(r"\d+", repeat)), default=0) > _MOST_REPEATS:
            raise _wrong(grammar, at, f"more than {_MOST_REPEATS} repetitions")
        if depth < 0 or depth > _MOST_NESTING:
            raise _wrong(grammar, at, "a ) too many" if depth < 0 else "too many parentheses")
        at = piece.end()
    if depth:
        raise _wrong(grammar, at, "a ) is missing")
    if "root" not in defined:
        raise InvalidArgument("the grammar does not parse: it has no rule named root")
    for rule, place in used.items():
        if rule not in defined:
            raise _wrong(grammar, place, f"there is no rule named {rule!r}")


def _wrong(grammar: str, at: int, what: str) -> InvalidArgument:
    line = grammar.count("\n", 0, at) + 1
    return InvalidArgument(f"the grammar does not parse: {what} (line {line})")
