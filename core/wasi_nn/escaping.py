"""Text from outside, made safe for a terminal and for a log.

A model, a library, a guest and a file name can hold escape sequences, line breaks that forge a log
line, marks that turn the reading direction, and halves of characters. Errors escape their text when
they are made; what else is printed or logged goes through ``visible`` first. Escaping a text twice
changes nothing.
"""

from __future__ import annotations

import re
import traceback

# Controls (C0 but for tab and line feed, DEL, C1), marks without a width, marks of direction, line
# separators, tags, and surrogates, which no encoding can write.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b\u200e"
    "\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e0fff]"
)
_BREAK = re.compile(r"[ \t]*[\r\n][ \t\r\n]*")
#: What begins each further line of a text of several lines.
_MARGIN = "\n  "


def visible(text: str) -> str:
    """``text`` on one line: each hidden character as its escape (``\\x1b``), lines joined by
    ``; ``."""
    if text.isprintable():
        return text
    first, *others = _BREAK.split(text.strip(" \t\r\n"))
    joined = first
    for line in others:
        joined += (" " if joined.endswith((":", ";", ",")) else "; ") + line
    return _HIDDEN.sub(_escape, joined)


def visible_lines(text: str) -> str:
    """``text`` with its lines, the second and further ones indented, so that none can pass for a
    line of the host."""
    if text.isprintable():
        return text
    lines = text.strip("\r\n").replace("\r\n", "\n").split("\n")
    shown = [_HIDDEN.sub(_escape, line) for line in lines]
    return shown[0] + "".join(
        line and (f"\n{line}" if line.startswith("  ") else _MARGIN + line) for line in shown[1:]
    )


def trace_of(error: BaseException) -> str:
    """The traceback of an error for a log record: the text of an exception is from outside too, so
    a record does not carry it as ``exc_info``."""
    return visible_lines(
        "".join(traceback.format_exception(type(error), error, error.__traceback__))
    )


def _escape(found: re.Match[str]) -> str:
    number = ord(found[0])
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
