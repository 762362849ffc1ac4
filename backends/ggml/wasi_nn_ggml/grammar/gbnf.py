"""Checks a grammar in llama.cpp's GBNF before llama.cpp parses it.

llama.cpp's parser is recursive, writes errors to stderr, and gives its caller no reason. This check
finds the usual mistakes and says what is wrong; llama.cpp judges the rest. Source of the syntax:
llama.cpp's grammars/README.md and src/llama-grammar.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from wasi_nn.errors import InvalidArgument
from wasi_nn_ggml.grammar import ambiguity

#: Characters of a grammar.
MAX_SIZE = 256 << 10
_MAX_NESTING = 200
_MAX_REPEATS = 2000
# Repetitions of one item, as in ``x{2}*?``.
_MAX_REPEATED = 8
# llama.cpp expands repetitions into rules, each with a name that begins with its rule's name. It
# tokenises the name of a token as it tokenises a prompt.
_MAX_ELEMENTS = 1 << 21
_MAX_NAME = 512
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
_ESCAPE = re.compile(r"\\(?:x..|u.{4}|U.{8}|.)", re.DOTALL)
_MARKS = {"*": (0, None), "+": (1, None), "?": (0, 1)}


class Item(NamedTuple):
    """An element of a sequence: a rule by its name, or ``characters`` literal characters where
    ``rule`` is empty. ``repeats`` are the bounds of its repetitions, the innermost first; None is
    unbounded."""

    rule: str
    characters: int = 1
    #: The elements that llama.cpp makes of it, without repetitions.
    size: int = 1
    repeats: tuple[tuple[int, int | None], ...] = ()

    def elements(self) -> int:
        """The elements that llama.cpp makes of it in its rules, repetitions expanded."""
        here, apart = self.size, 0
        for least, most in self.repeats:
            optional = 1 if most is None else most - least
            apart += optional * (here + 3)
            here = here * least + min(optional, 1)
        return here + apart


#: The alternates of each rule, each a sequence of items. Parentheses are rules of their own.
Rules = Mapping[str, Sequence[Sequence[Item]]]


class Contents(NamedTuple):
    """The number of elements that llama.cpp makes of a grammar at most, the length of the longest
    rule name, and the tokens that the grammar names (``<think>``)."""

    elements: int
    longest: int
    tokens: tuple[str, ...]


# A server makes a context for each request, often with the same grammar.
@lru_cache(maxsize=8)
def check(grammar: str) -> Contents:
    """The contents of a grammar. Raises ``InvalidArgument`` with the reason if it is malformed, or
    if llama.cpp would not finish expanding it."""
    if len(grammar) > MAX_SIZE:
        raise InvalidArgument(
            f"the grammar has {len(grammar)} characters: at most {MAX_SIZE} are allowed"
        )
    reader = _Reader(grammar)
    ambiguity.check(reader.read())
    return Contents(reader.elements, reader.longest, tuple(reader.tokens))


class _Reader:
    def __init__(self, grammar: str) -> None:
        self._grammar = grammar
        self._at = 0
        self._rules: dict[str, list[list[Item]]] = {}
        self._groups = 0
        self.elements = 0
        self.longest = 0
        self.tokens: list[str] = []
        #: The rule being read, and the rules of the parentheses that are open in it.
        self._open: list[list[list[Item]]] = []

    def read(self) -> Rules:
        used: dict[str, int] = {}
        while self._at < len(self._grammar):
            piece = _PIECE.match(self._grammar, self._at)
            if piece is None:
                raise self._wrong(f"{self._grammar[self._at]!r} is not expected")
            rule, name = piece["rule"], piece["rule"] or piece["token"] or ""
            if len(name) > _MAX_NAME:
                raise self._wrong(
                    f"a name has {len(name)} characters: at most {_MAX_NAME} are allowed"
                )
            if rule and piece["define"]:
                self._define(rule)
            elif piece["space"]:
                pass
            elif not self._open:
                raise self._wrong("a rule begins with its name and ::=")
            else:
                if rule:
                    used.setdefault(rule, self._at)
                self._piece(piece)
            self._at = piece.end()
        if len(self._open) > 1:
            raise self._wrong("a ) is missing")
        if "root" not in self._rules:
            raise InvalidArgument("the grammar does not parse: it has no rule named root")
        for rule, self._at in used.items():
            if rule not in self._rules:
                raise self._wrong(f"there is no rule named {rule!r}")
        sequences = (sequence for rule in self._rules.values() for sequence in rule)
        self.elements = sum(1 + sum(item.elements() for item in part) for part in sequences)
        if self.elements > _MAX_ELEMENTS:
            raise InvalidArgument(
                f"the grammar has {self.elements} elements when its repetitions are written out: "
                f"at most {_MAX_ELEMENTS} are allowed"
            )
        return self._rules

    def _define(self, rule: str) -> None:
        self.longest = max(self.longest, len(rule))
        if len(self._open) > 1:
            raise self._wrong(f"rule {rule!r} begins inside parentheses")
        self._rules[rule] = [[]]
        self._open = [self._rules[rule]]

    def _piece(self, piece: re.Match[str]) -> None:
        alternates, mark, repeat = self._open[-1], piece["mark"], piece["repeat"]
        if mark == "(":
            if len(self._open) > _MAX_NESTING:
                raise self._wrong("too many parentheses")
            self._groups += 1
            # No rule in the text can have this name.
            name = f"({self._groups}"
            self._rules[name] = [[]]
            alternates[-1].append(Item(name))
            self._open.append(self._rules[name])
        elif mark == ")":
            if len(self._open) == 1:
                raise self._wrong("a ) too many")
            self._open.pop()
        elif mark == "|":
            alternates.append([])
        elif repeat or mark in _MARKS:
            if not alternates[-1]:
                raise self._wrong("there is nothing to repeat")
            item = alternates[-1][-1]
            if len(item.repeats) == _MAX_REPEATED:
                raise self._wrong(f"more than {_MAX_REPEATED} repetitions of repetitions")
            times = self._times(repeat) if repeat else _MARKS[mark]
            alternates[-1][-1] = item._replace(repeats=(*item.repeats, times))
        elif piece["text"]:
            length = len(_ESCAPE.sub("x", piece["text"])) - 2
            alternates[-1].append(Item("", length, length))
        elif piece["set"]:
            # One character; none if the set is empty.
            size = len(piece["set"].replace("^", "")) - 2
            alternates[-1].append(Item("", min(size, 1), size))
        else:
            if piece["token"]:
                self.tokens.append(piece["token"].lstrip("!"))
            alternates[-1].append(Item(piece["rule"] or ""))

    def _times(self, repeat: str) -> tuple[int, int | None]:
        numbers = re.findall(r"\d+", repeat)
        if any(len(number) > 9 or int(number) > _MAX_REPEATS for number in numbers):
            raise self._wrong(f"more than {_MAX_REPEATS} repetitions")
        first, comma, second = repeat.strip("{}").partition(",")
        least = int(first) if first.strip() else 0
        most = int(second) if second.strip() else None if comma else least
        if most is not None and most < least:
            # llama.cpp would count up from the first number and never reach the second.
            raise self._wrong(f"{repeat} has its larger number first")
        return least, most

    def _wrong(self, what: str) -> InvalidArgument:
        line = self._grammar.count("\n", 0, self._at) + 1
        return InvalidArgument(f"the grammar does not parse: {what} (line {line})")
