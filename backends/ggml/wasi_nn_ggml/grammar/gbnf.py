"""Reads grammars in llama.cpp's GBNF.

Source of the syntax: llama.cpp's grammars/README.md and src/llama-grammar.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from wasi_nn.errors import InvalidArgument

#: Characters of a grammar.
_MAX_SIZE = 256 << 10
_MAX_NESTING = 200
_MAX_REPEATS = 2000
# Repetitions of one item, as in ``x{2}*?``.
_MAX_REPEATED = 8
_MAX_NAME = 512
_PIECE = re.compile(
    r"""
    (?P<space>\s+|\#[^\n]*)
    | "(?P<text>(?:\\.|[^"\\])*)"
    | \[(?P<set>(?:\\.|[^\]\\])*)\]
    | (?P<token>!?<[^>\n]*>)
    | (?P<rule>[A-Za-z0-9-]+)(?P<define>\s*::=)?
    | (?P<repeat>\{\s*\d*\s*,?\s*\d*\s*\})
    | (?P<mark>[()|*+?.])
    """,
    re.VERBOSE | re.DOTALL,
)
_CHARACTER = re.compile(
    r"""\\x([0-9a-fA-F]{2})|\\u([0-9a-fA-F]{4})|\\U([0-9a-fA-F]{8})|\\([]["\\nrt])|([^\\])""",
    re.DOTALL,
)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}
_MARKS = {"*": (0, None), "+": (1, None), "?": (0, 1)}
_LAST = 0x10FFFF
_SURROGATES = (0xD800, 0xDFFF)

Ranges = tuple[tuple[int, int], ...]


class Item(NamedTuple):
    """An element of a sequence: a rule by its name, a text, one character within ``ranges`` of code
    points, or a token as it is written (``!<[5]>``). ``repeats`` are the bounds of its repetitions,
    the innermost first; None is unbounded."""

    rule: str = ""
    text: str = ""
    ranges: Ranges = ()
    token: str = ""
    repeats: tuple[tuple[int, int | None], ...] = ()


Sequences = list[tuple[Item, ...]]
#: The alternates of each rule. Parentheses are rules of their own.
Rules = dict[str, Sequences]


def read(grammar: str) -> Rules:
    """The rules of a grammar, one of them ``root``. Raises ``InvalidArgument`` with the reason and
    the line if it is malformed."""
    if len(grammar) > _MAX_SIZE:
        raise InvalidArgument(
            f"the grammar has {len(grammar)} characters: at most {_MAX_SIZE} are allowed"
        )
    return _Reader(grammar).read()


class _Reader:
    def __init__(self, grammar: str) -> None:
        self._grammar = grammar
        self._at = 0
        self._rules: dict[str, list[list[Item]]] = {}
        self._groups = 0
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
        return {name: [*dict.fromkeys(map(tuple, rule))] for name, rule in self._rules.items()}

    def _define(self, rule: str) -> None:
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
        elif mark == ".":
            alternates[-1].append(Item(ranges=_without([])))
        elif piece["text"] is not None:
            text = "".join(map(chr, self._characters(piece["text"])))
            alternates[-1].append(Item(text=text))
        elif piece["set"] is not None:
            alternates[-1].append(Item(ranges=self._set(piece["set"])))
        else:
            alternates[-1].append(Item(piece["rule"] or "", token=piece["token"] or ""))

    def _times(self, repeat: str) -> tuple[int, int | None]:
        numbers = re.findall(r"\d+", repeat)
        if any(len(number) > 9 or int(number) > _MAX_REPEATS for number in numbers):
            raise self._wrong(f"more than {_MAX_REPEATS} repetitions")
        first, comma, second = repeat.strip("{}").partition(",")
        least = int(first) if first.strip() else 0
        most = int(second) if second.strip() else None if comma else least
        if most is not None and most < least:
            raise self._wrong(f"{repeat} has its larger number first")
        return least, most

    def _set(self, body: str) -> Ranges:
        inverted = body.startswith("^")
        codes = self._characters(body[inverted:])
        ranges, at = [], 0
        while at < len(codes):
            last = at + 2 if at + 2 < len(codes) and codes[at + 1] == ord("-") else at
            if codes[last] < codes[at]:
                raise self._wrong(f"a range in [{body[:80]}] has its larger character first")
            ranges.append((codes[at], codes[last]))
            at = last + 1
        result = _without(ranges) if inverted else _without(_without(ranges))
        if not ranges or not result:
            raise self._wrong("a set has no characters")
        return result

    def _characters(self, body: str) -> Sequence[int]:
        """The code points of a text or a set."""
        codes, at = [], 0
        while at < len(body):
            found = _CHARACTER.match(body, at)
            if found is None:
                raise self._wrong(f"{body[at : at + 2]!r} is not an escape")
            number = found[1] or found[2] or found[3]
            literal = found[5] or _ESCAPES.get(found[4], found[4])
            code = int(number, 16) if number else ord(literal)
            if code > _LAST or _SURROGATES[0] <= code <= _SURROGATES[1]:
                raise self._wrong(f"there is no character U+{code:04X}")
            codes.append(code)
            at = found.end()
        return codes

    def _wrong(self, what: str) -> InvalidArgument:
        line = self._grammar.count("\n", 0, self._at) + 1
        return InvalidArgument(f"the grammar does not parse: {what} (line {line})")


def _without(ranges: Sequence[tuple[int, int]]) -> Ranges:
    """All characters outside the ranges."""
    result, next_free = [], 0
    for first, last in sorted([*ranges, _SURROGATES, (_LAST + 1, _LAST + 1)]):
        if first > next_free:
            result.append((next_free, first - 1))
        next_free = max(next_free, last + 1)
    return tuple(result)
