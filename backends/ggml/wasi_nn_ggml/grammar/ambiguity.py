"""How many ways of going on llama.cpp has to follow at once in a grammar.

It writes every way to the next character out, each as a stack of its own: two rules that begin with
the same one double them, and so does what may be empty twice in a row. A grammar of some hundred
bytes can ask for more than any memory. Source: ``llama_grammar_advance_stack`` and
``llama_grammar_detect_left_recursion`` of llama.cpp's src/llama-grammar.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from wasi_nn.errors import InvalidArgument

if TYPE_CHECKING:
    from wasi_nn_ggml.grammar.gbnf import Item, Rules

#: Ways to the next character, and from all of those to the one after it. An enumeration has as many
#: as it has values.
_MOST = 10_000
_BEYOND = 1 << 40


class _Ways(NamedTuple):
    """Of a part of a grammar: the ways to its first character; whether it can be empty; the ways
    from all the first characters to a second one within it, and how many of the first may also be
    the last. All at least as many as there are."""

    first: int = 0
    empty: int = 1
    second: int = 0
    last: int = 0

    def then(self, other: _Ways) -> _Ways:
        """This part, and the other one after it."""
        return _Ways(
            min(self.first + self.empty * other.first, _BEYOND),
            self.empty & other.empty,
            min(self.second + self.last * other.first + self.empty * other.second, _BEYOND),
            min(self.last * other.empty + self.empty * other.last, _BEYOND),
        )

    def times(self, count: int) -> _Ways:
        """This part so often in a row."""
        result, power = _Ways(), self
        while count:
            if count & 1:
                result = result.then(power)
            power, count = power.then(power), count >> 1
        return result

    def repeated(self, least: int, most: int | None) -> _Ways:
        """From so many to so many of this part in a row."""
        if most == least:
            return self.times(least)
        # Each one that may be left out is a rule with an empty alternate, and has the next in it.
        optional = self._replace(first=self.first + 2, empty=1)
        if most is not None and (self.empty or most - least == 1):
            return self.times(least).then(optional.times(most - least))
        # One follows after the one before it alone.
        second = min(optional.second + optional.last * optional.first, _BEYOND)
        return self.times(least).then(optional._replace(second=second))


def check(rules: Rules) -> None:
    """Raise ``InvalidArgument`` for a grammar with more ways than llama.cpp comes to an end with,
    and for one with a rule that begins with itself."""
    empty = _empty(rules)
    order = _components(rules, empty)
    ways = {name: _Ways(0, name in empty) for name in rules}
    # What follows a rule's first character may begin with any rule, and not only with earlier ones.
    for component in order:
        total = _sum(rules, component, ways)
        for name in component:
            ways[name] = ways[name]._replace(first=total.first)
    for component in order:
        total = _sum(rules, component, ways)
        for name in component:
            ways[name] = ways[name]._replace(second=total.second, last=total.last)


def _sum(rules: Rules, component: Sequence[str], ways: Mapping[str, _Ways]) -> _Ways:
    """The ways of rules that begin with each other: the same ones, which llama.cpp follows once."""
    first = second = last = 0
    for name in component:
        for sequence in rules[name]:
            rest = _Ways()
            for item in reversed(sequence):
                rest = _of(item, ways).then(rest)
                _check(name, rest.first, rest.second)
            first += max(rest.first, 1)
            second, last = second + rest.second, last + rest.last
        _check(name, first, second)
    return _Ways(first, 0, second, last)


def _of(item: Item, ways: Mapping[str, _Ways]) -> _Ways:
    if item.rule:
        known = ways[item.rule]
        result = known._replace(first=known.first + 1)
    elif item.characters:
        # After the first of several characters there is one way.
        several = item.characters > 1
        result = _Ways(1, 0, second=several, last=not several)
    else:
        result = _Ways()
    for least, most in item.repeats:
        result = result.repeated(least, most)
    return result


def _check(rule: str, first: int, second: int) -> None:
    if max(first, second) > _MOST:
        raise InvalidArgument(
            f"the grammar has too many ways to go on: in {_named(rule)} more than {_MOST} at once; "
            "alternates that begin alike, and parts that may all be empty, are what makes them"
        )


def _named(rule: str) -> str:
    return "what is in parentheses" if rule.startswith("(") else f"rule {rule!r}"


def _empty(rules: Rules) -> set[str]:
    """The rules that can be empty."""
    owners: list[str] = []
    missing: list[int] = []
    uses: dict[str, list[int]] = {name: [] for name in rules}
    found: list[str] = []
    for name, sequences in rules.items():
        for sequence in sequences:
            number = len(owners)
            full = [item for item in sequence if not _can_be_left_out(item)]
            owners.append(name)
            missing.append(len(full))
            for item in full:
                # A sequence with a character in it is never empty.
                if item.rule:
                    uses[item.rule].append(number)
            if not full:
                found.append(name)
    empty: set[str] = set()
    while found:
        name = found.pop()
        if name in empty:
            continue
        empty.add(name)
        for number in uses[name]:
            missing[number] -= 1
            if not missing[number]:
                found.append(owners[number])
    return empty


def _can_be_left_out(item: Item) -> bool:
    nothing = not item.rule and not item.characters
    return nothing or any(least == 0 for least, _ in item.repeats)


def _beginnings(rules: Rules, name: str, empty: set[str]) -> Iterator[tuple[str, bool]]:
    """The rules that a rule may begin with, and whether something can follow them in it."""
    for sequence in rules[name]:
        for at, item in enumerate(sequence):
            if item.rule:
                once = all(most == 1 for _, most in item.repeats)
                yield item.rule, at + 1 < len(sequence) or not once
            if not (_can_be_left_out(item) or item.rule in empty):
                break


def _components(rules: Rules, empty: set[str]) -> list[list[str]]:
    """The rules, those that begin with each other together, and after those that they begin with
    (Tarjan). Raises ``InvalidArgument`` where each round would leave something to follow: such
    rounds have no end."""
    begins = {name: list(_beginnings(rules, name, empty)) for name in rules}
    components: list[list[str]] = []
    seen: dict[str, int] = {}
    lowest: dict[str, int] = {}
    of: dict[str, int] = {}
    path: list[str] = []
    places: dict[str, int] = {}
    for start in rules:
        todo = [] if start in seen else [(start, iter(begins[start]))]
        while todo:
            name, others = todo[-1]
            if name not in seen:
                seen[name] = lowest[name] = len(seen)
                places[name] = len(path)
                path.append(name)
            for other, _ in others:
                if other not in seen:
                    todo.append((other, iter(begins[other])))
                    break
                if other not in of:
                    lowest[name] = min(lowest[name], seen[other])
            else:
                todo.pop()
                if todo:
                    above = todo[-1][0]
                    lowest[above] = min(lowest[above], lowest[name])
                if lowest[name] == seen[name]:
                    component = path[places[name] :]
                    components.append(component)
                    of.update(dict.fromkeys(component, len(components)))
                    del path[places[name] :]
    for name, beginnings in begins.items():
        for other, followed in beginnings:
            if followed and of[name] == of[other]:
                raise InvalidArgument(
                    f"the grammar does not parse: {_named(name)} begins with itself"
                )
    return components
