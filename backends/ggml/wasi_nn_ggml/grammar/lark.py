"""Writes grammars in llguidance's Lark, with exactly the texts that they have in GBNF.

In Lark a lexer reads the longest lexemes, and a parser combines them. In GBNF there is no lexer: in
``[a-z]+ "x"`` the last x does not belong to the first item. So items are joined to a lexeme only if
the character after it always shows that it has ended. In the worst case each character is a
lexeme, which costs time but never a text.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from itertools import accumulate
from operator import or_
from typing import NamedTuple

from wasi_nn.errors import InvalidArgument
from wasi_nn_ggml.grammar.gbnf import Item, Rules, Sequences

# llguidance compiles a rule within a rule on the stack.
_MAX_DEPTH = 200
# No rule has this name.
_START = ""
_MARKS: dict[tuple[int, int | None], str] = {(0, None): "*", (1, None): "+", (0, 1): "?"}

Lexeme = tuple[Item, ...]
#: The alternates of each rule that is not in a lexeme, in lexemes and items that are not in one.
_Parts = dict[str, list[list["Lexeme | Item"]]]


class _Traits(NamedTuple):
    """What is known of the words of a part of a grammar. Sets of characters are bits: ``first``,
    those that a word begins with; ``inner``, those at other places of a word; ``after``, those that
    can continue a whole word. ``empty`` says whether a word can be empty."""

    empty: bool = True
    first: int = 0
    inner: int = 0
    after: int = 0

    def then(self, other: _Traits) -> _Traits:
        """This part followed by the other."""
        inner = self.inner | other.inner | (other.first if self.first else 0)
        after = other.after
        if other.empty:
            after |= self.after | other.first
        if (self.after | self.first * self.empty) & other.first:
            after = inner
        first = self.first | other.first * self.empty
        return _Traits(self.empty and other.empty, first, inner, after)

    def otherwise(self, other: _Traits) -> _Traits:
        """Either this part or the other."""
        inner = self.inner | other.inner
        after = inner if self.first & other.first else self.after | other.after
        return _Traits(self.empty or other.empty, self.first | other.first, inner, after)

    def times(self, least: int, most: int | None) -> _Traits:
        """This part from ``least`` to ``most`` times in a row; None is unbounded."""
        if most == 0:
            return _Traits()
        empty = self.empty or least == 0
        if most == 1:
            return self._replace(empty=empty)
        inner = self.inner | self.first
        if self.after & self.first:
            after = inner
        else:
            after = self.after if least == most and not empty else self.after | self.first
        return _Traits(empty, self.first, inner, after)


_NEVER = _Traits(empty=False)


def convert(rules: Rules, token: Callable[[str], int]) -> str:
    """The Lark text of a grammar. ``token`` gives the number of a token by its name (``<think>``).
    Raises ``InvalidArgument`` if rules nest too deep."""
    rules = dict(rules)
    for name in [*rules]:
        _repeat(rules, name)
    _check_depth(rules)
    return _Converter(rules, token).text()


def _repeat(rules: Rules, name: str) -> None:
    """Make a rule that ends with itself a repetition. Each of its turns would cost a parser more
    than the one before."""
    turns = [each[:-1] for each in rules[name] if each[-1:] == (Item(name),)]
    ends = [each for each in rules[name] if each[-1:] != (Item(name),)]
    if turns and ends and all(item.rule != name for each in turns + ends for item in each):
        rules[f"{name}*"], rules[f"{name}."] = turns, ends
        rules[name] = [(Item(f"{name}*", repeats=((0, None),)), Item(f"{name}."))]


def _check_depth(rules: Rules) -> None:
    """Visit the rules in the order in which llguidance compiles them."""
    seen = {"root"}
    path = [_referred(rules["root"])]
    while path:
        name = next((name for name in path[-1] if name not in seen), None)
        if name is None:
            path.pop()
            continue
        seen.add(name)
        path.append(_referred(rules[name]))
        if len(path) > _MAX_DEPTH:
            raise InvalidArgument(f"the grammar's rules nest deeper than {_MAX_DEPTH} levels")


def _referred(sequences: Sequences) -> Iterator[str]:
    return (item.rule for sequence in sequences for item in sequence if item.rule)


class _Converter:
    def __init__(self, rules: Rules, token: Callable[[str], int]) -> None:
        self._rules: Rules = {**rules, _START: [(Item("root"),)]}
        self._token = token
        self._starts = _starts(rules)
        #: The rules without recursion and tokens.
        self._regular: dict[str, _Traits] = {}
        #: Lexemes that hide where another ends. Their items stand apart.
        self._apart: set[Lexeme] = set()
        #: Lark's names of regular rules and of lexemes, and the lines that define them.
        self._terminals: dict[str, str] = {}
        self._lexemes: dict[Lexeme, str] = {}
        self._lines: list[str] = []

    def text(self) -> str:
        self._find_regular()
        parts = self._parts()
        while hiding := self._hiding(parts):
            for lexeme in hiding:
                self._apart.add(lexeme)
            parts = self._parts()
        self._terminals = {name: f"T{at}" for at, name in enumerate(self._regular)}
        for name, terminal in self._terminals.items():
            if name != _START:
                self._define(terminal, map(self._terminal, self._rules[name]))
        names = {name: f"r{at}" if at else "start" for at, name in enumerate(parts)}
        for name, sequences in parts.items():
            alternates = (
                " ".join(
                    self._repeated(
                        unit, names[unit.rule] if unit.rule else self._tokens(unit.token)
                    )
                    if isinstance(unit, Item)
                    else self._lexeme(unit)
                    for unit in sequence
                )
                for sequence in sequences
            )
            self._define(names[name], alternates)
        return "\n".join(self._lines)

    def _find_regular(self) -> None:
        users: dict[str, list[str]] = {name: [] for name in self._rules}
        missing: dict[str, int] = {}
        for name, sequences in self._rules.items():
            referred = {*_referred(sequences)}
            for other in referred:
                users[other].append(name)
            tokens = any(item.token for sequence in sequences for item in sequence)
            missing[name] = -1 if tokens else len(referred)
        ready = [name for name, count in missing.items() if count == 0]
        while ready:
            name = ready.pop()
            words = (self._traits(sequence) for sequence in self._rules[name])
            self._regular[name] = reduce(_Traits.otherwise, words)
            for user in users[name]:
                missing[user] -= 1
                if missing[user] == 0:
                    ready.append(user)

    def _traits(self, lexeme: Lexeme) -> _Traits:
        return reduce(_Traits.then, map(self._traits_of_item, lexeme), _Traits())

    def _traits_of_item(self, item: Item) -> _Traits:
        if item.rule:
            traits = self._regular[item.rule]
        elif item.ranges:
            traits = _Traits(False, self._bits(item.ranges))
        else:
            first, rest = item.text[:1], {*item.text[1:]}
            traits = _Traits(
                not first,
                self._bits((ord(each), ord(each)) for each in first),
                self._bits((ord(each), ord(each)) for each in rest),
            )
        for least, most in item.repeats:
            traits = traits.times(least, most)
        return traits

    def _bits(self, ranges: Iterable[tuple[int, int]]) -> int:
        starts = self._starts
        return reduce(
            or_,
            (
                (1 << bisect_left(starts, last + 1)) - (1 << bisect_left(starts, first))
                for first, last in ranges
            ),
            0,
        )

    # Lexemes

    def _parts(self) -> _Parts:
        """The rules in use."""
        parts: _Parts = {}
        pending = [_START]
        while pending:
            name = pending.pop()
            if name not in parts:
                parts[name] = [[*self._units(sequence)] for sequence in self._rules[name]]
                units = (unit for sequence in parts[name] for unit in sequence)
                pending += [unit.rule for unit in units if isinstance(unit, Item) and unit.rule]
        return parts

    def _units(self, sequence: Lexeme) -> Iterator[Lexeme | Item]:
        joined: list[Item] = []
        for item in sequence:
            if item.token or (item.rule and item.rule not in self._regular):
                yield from self._divided(joined)
                yield item
                joined = []
            else:
                joined.append(item)
        yield from self._divided(joined)

    def _divided(self, items: list[Item]) -> Iterator[Lexeme | Item]:
        lexeme = (*items,)
        if lexeme and lexeme not in self._apart:
            yield lexeme
        elif len(lexeme) > 1:
            for item in lexeme:
                yield from self._divided([item])
        elif lexeme:
            (item,) = lexeme
            yield item if item.rule else self._letters(item)

    def _letters(self, item: Item) -> Item:
        """A text or a repetition of it as a rule of single characters."""
        name = f"{item.text}{item.ranges}"
        letters = tuple(Item(text=each) for each in item.text) or (item._replace(repeats=()),)
        if len(letters) > 1:
            self._apart.add(letters)
        self._rules[name] = [letters]
        return Item(name, repeats=item.repeats)

    def _hiding(self, parts: _Parts) -> list[Lexeme]:
        """The lexemes that a lexer would continue where they, or others, may have ended."""
        known = {
            unit: self._traits(unit)
            for sequences in parts.values()
            for sequence in sequences
            for unit in sequence
            if not isinstance(unit, Item)
        }
        follow = _follow(parts, known)
        hiding = {lexeme for lexeme, traits in known.items() if traits.after & follow[lexeme]}
        for at in range(len(self._starts)):
            rivals = [lexeme for lexeme, traits in known.items() if traits.first >> at & 1]
            before = accumulate((follow[each] for each in rivals), or_, initial=0)
            after = [*accumulate((follow[each] for each in reversed(rivals)), or_, initial=0)]
            for lexeme, *others in zip(rivals, before, after[-2::-1], strict=False):
                if known[lexeme].inner & (others[0] | others[1]):
                    hiding.add(lexeme)
        return [*hiding]

    # Lark

    def _lexeme(self, lexeme: Lexeme) -> str:
        if len(lexeme) == 1 and not lexeme[0].repeats:
            return self._atom(lexeme[0])
        name = self._lexemes.get(lexeme)
        if name is None:
            name = self._lexemes[lexeme] = f"L{len(self._lexemes)}"
            self._define(name, [self._terminal(lexeme)])
        return name

    def _terminal(self, lexeme: Lexeme) -> str:
        return " ".join(self._repeated(item, self._atom(item)) for item in lexeme)

    def _atom(self, item: Item) -> str:
        if item.rule:
            return self._terminals[item.rule]
        if item.ranges:
            ends = (rf"\u{{{first:x}}}-\u{{{last:x}}}" for first, last in item.ranges)
            return f"/[{''.join(ends)}]/"
        return json.dumps(item.text).replace("\x7f", r"\u007f")

    def _tokens(self, name: str) -> str:
        inverted, name = name.startswith("!"), name.lstrip("!")
        return f"<[{'^' * inverted}{self._token(name)}]>"

    def _repeated(self, item: Item, text: str) -> str:
        for times in item.repeats:
            if times[1] == 0:
                return '""'
            mark = _MARKS.get(times) or f"{{{times[0]},{times[1] or ''}}}"
            text = f"({text}){mark}"
        return text

    def _define(self, name: str, alternates: Iterable[str]) -> None:
        self._lines.append(f"{name}: {' | '.join(each or chr(34) * 2 for each in alternates)}")


def _starts(rules: Rules) -> list[int]:
    """The code points at which sets of characters begin or end. Characters between two of them are
    alike: each is one bit."""
    starts: set[int] = set()
    for sequences in rules.values():
        for sequence in sequences:
            for item in sequence:
                for first, last in item.ranges:
                    starts.update((first, last + 1))
                for each in {*item.text}:
                    starts.update((ord(each), ord(each) + 1))
    return sorted(starts)


def _follow(parts: _Parts, known: dict[Lexeme, _Traits]) -> dict[Lexeme, int]:
    """The characters that may follow each lexeme."""
    begins = dict.fromkeys(parts, _NEVER)

    def of(unit: Lexeme | Item) -> _Traits:
        if not isinstance(unit, Item):
            return known[unit]
        traits = begins[unit.rule] if unit.rule else _NEVER
        for least, most in unit.repeats:
            traits = traits.times(least, most)
        return traits._replace(inner=0, after=0)

    changed = True
    while changed:
        words = {
            name: reduce(
                _Traits.otherwise,
                (reduce(_Traits.then, map(of, sequence), _Traits()) for sequence in sequences),
            )._replace(inner=0, after=0)
            for name, sequences in parts.items()
        }
        changed, begins = words != begins, words
    follow: dict[Lexeme | str, int] = dict.fromkeys([*known, *parts], 0)
    changed = True
    while changed:
        before = [*follow.values()]
        for name, sequences in parts.items():
            for sequence in sequences:
                rest = follow[name]
                for unit in reversed(sequence):
                    traits = of(unit)
                    if not isinstance(unit, Item):
                        follow[unit] |= rest
                    elif unit.rule:
                        again = traits.first if any(most != 1 for _, most in unit.repeats) else 0
                        follow[unit.rule] |= rest | again
                    rest = traits.first | rest * traits.empty
        changed = [*follow.values()] != before
    return {lexeme: follow[lexeme] for lexeme in known}
