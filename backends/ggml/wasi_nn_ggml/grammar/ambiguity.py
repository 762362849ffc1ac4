"""Counts the parse paths that llama.cpp follows at once in a grammar.

llama.cpp keeps every path to the next character as a stack of its own. Two alternates that begin
with the same rule double the paths, and so do two optional items in a row. A grammar of some
hundred bytes can need more memory than any machine has. Source: ``llama_grammar_advance_stack`` and
``llama_grammar_detect_left_recursion`` of llama.cpp's src/llama-grammar.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from wasi_nn.errors import InvalidArgument

if TYPE_CHECKING:
    from wasi_nn_ggml.grammar.gbnf import Item, Rules

#: Paths to the next character, and from all of those to the one after it. An enumeration has as
#: many as it has values.
_MAX_PATHS = 10_000
# Counts stop here, so that their numbers stay small.
_CAP = 1 << 40


class _Paths(NamedTuple):
    """Counts for a part of a grammar, none below the true number: ``first``, the paths to its first
    character; ``empty``, 1 if it can be empty; ``second``, the paths from all its first characters
    to a second one within it; ``last``, the first characters that may also be its last."""

    first: int = 0
    empty: int = 1
    second: int = 0
    last: int = 0

    def then(self, other: _Paths) -> _Paths:
        """This part followed by the other."""
        return _Paths(
            min(self.first + self.empty * other.first, _CAP),
            self.empty & other.empty,
            min(self.second + self.last * other.first + self.empty * other.second, _CAP),
            min(self.last * other.empty + self.empty * other.last, _CAP),
        )

    def times(self, count: int) -> _Paths:
        """This part ``count`` times in a row."""
        result, power = _Paths(), self
        while count:
            if count & 1:
                result = result.then(power)
            power, count = power.then(power), count >> 1
        return result

    def repeated(self, least: int, most: int | None) -> _Paths:
        """This part from ``least`` to ``most`` times in a row; None is unbounded."""
        if most == least:
            return self.times(least)
        # llama.cpp makes each optional one a rule with an empty alternate that contains the next.
        optional = self._replace(first=self.first + 2, empty=1)
        if most is not None and (self.empty or most - least == 1):
            return self.times(least).then(optional.times(most - least))
        # Each can follow only the one before it.
        second = min(optional.second + optional.last * optional.first, _CAP)
        return self.times(least).then(optional._replace(second=second))


def check(rules: Rules) -> None:
    """Raise ``InvalidArgument`` for a grammar with more than ``_MAX_PATHS`` paths, and for a
    left-recursive one."""
    empty = _empty(rules)
    order = _components(rules, empty)
    paths = {name: _Paths(0, name in empty) for name in rules}
    # What follows a rule's first character may begin with any rule, not only with an earlier one:
    # first paths to first characters, then paths to second ones.
    for component in order:
        total = _sum(rules, component, paths)
        for name in component:
            paths[name] = paths[name]._replace(first=total.first)
    for component in order:
        total = _sum(rules, component, paths)
        for name in component:
            paths[name] = paths[name]._replace(second=total.second, last=total.last)


def _sum(rules: Rules, component: Sequence[str], paths: Mapping[str, _Paths]) -> _Paths:
    """The paths of rules that begin with each other. llama.cpp follows a shared one once."""
    first = second = last = 0
    for name in component:
        for sequence in rules[name]:
            rest = _Paths()
            for item in reversed(sequence):
                rest = _of(item, paths).then(rest)
                _check(name, rest.first, rest.second)
            first += max(rest.first, 1)
            second, last = second + rest.second, last + rest.last
        _check(name, first, second)
    return _Paths(first, 0, second, last)


def _of(item: Item, paths: Mapping[str, _Paths]) -> _Paths:
    if item.rule:
        known = paths[item.rule]
        result = known._replace(first=known.first + 1)
    elif item.characters:
        # After the first of several characters there is one path.
        several = item.characters > 1
        result = _Paths(1, 0, second=several, last=not several)
    else:
        result = _Paths()
    for least, most in item.repeats:
        result = result.repeated(least, most)
    return result


def _check(rule: str, first: int, second: int) -> None:
    if max(first, second) > _MAX_PATHS:
        raise InvalidArgument(
            f"the grammar is too ambiguous: {_named(rule)} has more than {_MAX_PATHS} ways to go "
            "on at once; merge alternates that begin alike, and avoid optional parts in a row"
        )


def _named(rule: str) -> str:
    return "a part in parentheses" if rule.startswith("(") else f"rule {rule!r}"


def _empty(rules: Rules) -> set[str]:
    """The rules that can be empty."""
    owners: list[str] = []
    missing: list[int] = []
    uses: dict[str, list[int]] = {name: [] for name in rules}
    found: list[str] = []
    for name, sequences in rules.items():
        for sequence in sequences:
            number = len(owners)
            full = [item for item in sequence if not _is_optional(item)]
            owners.append(name)
            missing.append(len(full))
            for item in full:
                # A sequence with a character in it is never empty, so nothing waits for it.
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


def _is_optional(item: Item) -> bool:
    nothing = not item.rule and not item.characters
    return nothing or any(least == 0 for least, _ in item.repeats)


def _beginnings(rules: Rules, name: str, empty: set[str]) -> Iterator[tuple[str, bool]]:
    """The rules that a rule may begin with, each with whether something can follow it there."""
    for sequence in rules[name]:
        for at, item in enumerate(sequence):
            if item.rule:
                once = all(most == 1 for _, most in item.repeats)
                yield item.rule, at + 1 < len(sequence) or not once
            if not (_is_optional(item) or item.rule in empty):
                break


def _components(rules: Rules, empty: set[str]) -> list[list[str]]:
    """The strongly connected components of "begins with" (Tarjan), each after the components that
    it begins with. Raises ``InvalidArgument`` for left recursion: a cycle that leaves something to
    follow never ends."""
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
