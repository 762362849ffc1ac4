"""Converts the regular expressions of JSON schemas (``pattern``) to llama.cpp's GBNF.

A pattern describes a string. The grammar describes that string as JSON writes it, with quotation
marks, backslashes and control characters escaped. Supported: characters, ``.``, classes, ``\\d \\w
\\s`` and their complements, groups, ``|``, repetitions, and ``^`` and ``$`` at the ends. A pattern
without an anchor may match anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_MAX_CODE = 0x10FFFF
_MAX_LENGTH = 4096
_MAX_REPEATS = 1000
_MAX_NESTING = 32
# Ranges of characters, first and last.
_Set = list[tuple[int, int]]
_DIGIT: _Set = [(0x30, 0x39)]
_WORD: _Set = [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]
_SPACE: _Set = [
    (0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A),
    (0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF),
]  # fmt: skip
_LINE_ENDS: _Set = [(0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)]
_CLASSES = {"d": _DIGIT, "w": _WORD, "s": _SPACE}
_CONTROLS = {"t": 0x09, "n": 0x0A, "v": 0x0B, "f": 0x0C, "r": 0x0D, "0": 0x00}
# The characters that JSON escapes, and how. Other control characters are left out.
_ESCAPED = {
    0x22: '\\"', 0x5C: "\\\\", 0x08: "\\b", 0x0C: "\\f", 0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t",
}  # fmt: skip
# Characters that never appear as they are, surrogates included.
_NEVER: _Set = [(0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F), (0xD800, 0xDFFF)]
_REPEAT = re.compile(r"\{(\d{1,9})(,?)(\d{0,9})\}")
_ANYTHING = "char*"


class NotSupported(Exception):
    """The pattern has no grammar here."""


def convert(pattern: str) -> str:
    """The grammar between the quotation marks of a matching string. Raises ``NotSupported``."""
    if len(pattern) > _MAX_LENGTH:
        raise NotSupported
    return _Reader(pattern).read()


class _Reader:
    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = self._depth = 0

    def read(self) -> str:
        body = self._alternates()
        if self._at < len(self._pattern):
            raise NotSupported
        return body

    def _alternates(self) -> str:
        """The alternates up to the end of the pattern, or of their group."""
        outermost = not self._depth
        branches = [self._branch(outermost)]
        while self._take("|"):
            branches.append(self._branch(outermost))
        return f"( {' | '.join(branches)} )" if len(branches) > 1 else branches[0]

    def _branch(self, outermost: bool) -> str:
        begins = outermost and self._take("^")
        parts: list[str] = []
        ends = False
        while self._at < len(self._pattern) and self._pattern[self._at] not in "|)":
            if outermost and self._take("$"):
                ends = True
                break
            parts.append(self._repeated(self._atom()))
        if outermost:
            parts = [
                *([] if begins else [_ANYTHING]),
                *parts,
                *([] if ends else [_ANYTHING]),
            ]
        return " ".join(filter(None, parts)) or '""'

    def _atom(self) -> str:
        sign = self._next()
        if sign == "(":
            return self._group()
        if sign == "[":
            return _written(self._class())
        if sign == "\\":
            return _written(self._escape(inside=False))
        if sign == ".":
            return _written(_complement(_LINE_ENDS))
        if sign in "^$*+?{}])":
            raise NotSupported
        return _written([(ord(sign), ord(sign))])

    def _group(self) -> str:
        named = re.compile(r"\?<[A-Za-z_]\w*>").match(self._pattern, self._at)
        if named:
            self._at = named.end()
        elif self._take("?") and not self._take(":"):
            raise NotSupported
        self._depth += 1
        if self._depth > _MAX_NESTING:
            raise NotSupported
        body = self._alternates()
        self._depth -= 1
        if not self._take(")"):
            raise NotSupported
        return f"( {body} )"

    def _repeated(self, body: str) -> str:
        found = _REPEAT.match(self._pattern, self._at)
        if found:
            self._at = found.end()
            least, comma, most = found.groups()
            if max(int(least), int(most or 0)) > _MAX_REPEATS or int(most or least) < int(least):
                raise NotSupported
            mark = "{" + least + comma + most + "}"
        else:
            mark = next((each for each in "*+?" if self._take(each)), "")
        # Greedy or lazy: the set of matching strings is the same.
        if mark and self._take("?"):
            pass
        return body + mark

    def _class(self) -> _Set:
        complement = self._take("^")
        ranges: _Set = []
        while not self._take("]"):
            first = self._member()
            if len(first) == 1 and first[0][0] == first[0][1] and self._is_range():
                self._at += 1
                last = self._member()
                if len(last) != 1 or last[0][0] != last[0][1] or last[0][0] < first[0][0]:
                    raise NotSupported
                first = [(first[0][0], last[0][0])]
            ranges += first
        return _complement(ranges) if complement else ranges

    def _is_range(self) -> bool:
        return self._pattern[self._at : self._at + 1] == "-" and (
            self._pattern[self._at + 1 : self._at + 2] not in ("]", "")
        )

    def _member(self) -> _Set:
        sign = self._next()
        if sign == "\\":
            return self._escape(inside=True)
        return [(ord(sign), ord(sign))]

    def _escape(self, inside: bool) -> _Set:
        sign = self._next()
        if sign.lower() in _CLASSES:
            known = _CLASSES[sign.lower()]
            return known if sign.islower() else _complement(known)
        if sign in _CONTROLS:
            code = _CONTROLS[sign]
        elif sign == "b" and inside:
            code = 0x08
        elif sign in "xu":
            digits = self._pattern[self._at : self._at + (2 if sign == "x" else 4)]
            if not re.fullmatch("[0-9A-Fa-f]{2}|[0-9A-Fa-f]{4}", digits):
                raise NotSupported
            self._at += len(digits)
            code = int(digits, 16)
        elif sign.isalnum():
            # A word boundary, a back-reference, a Unicode property.
            raise NotSupported
        else:
            code = ord(sign)
        return [(code, code)]

    def _next(self) -> str:
        if self._at >= len(self._pattern):
            raise NotSupported
        self._at += 1
        return self._pattern[self._at - 1]

    def _take(self, sign: str) -> bool:
        found = self._pattern.startswith(sign, self._at)
        self._at += found
        return found


def _complement(ranges: Iterable[tuple[int, int]]) -> _Set:
    result, at = [], 0
    for first, last in sorted(ranges):
        if first > at:
            result.append((at, first - 1))
        at = max(at, last + 1)
    if at <= _MAX_CODE:
        result.append((at, _MAX_CODE))
    return result


def _written(ranges: Sequence[tuple[int, int]]) -> str:
    """A character of a set, as JSON writes it. Raises ``NotSupported`` for an empty set."""
    plain = _complement([*_complement(ranges), *_NEVER])
    alternates = []
    if plain:
        alternates.append("[" + "".join(map(_range, plain)) + "]")
    for code, escape in _ESCAPED.items():
        if any(first <= code <= last for first, last in ranges):
            text = escape.replace("\\", "\\\\").replace('"', '\\"')
            alternates.append(f'"{text}"')
    if not alternates:
        raise NotSupported
    return f"( {' | '.join(alternates)} )" if len(alternates) > 1 else alternates[0]


def _range(ends: tuple[int, int]) -> str:
    first, last = ends
    return _code(first) if first == last else f"{_code(first)}-{_code(last)}"


def _code(code: int) -> str:
    if chr(code).isalnum() and code < 0x80:
        return chr(code)
    return f"\\x{code:02X}" if code < 0x100 else f"\\U{code:08X}"
