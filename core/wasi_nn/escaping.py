"""Text from outside, made safe for a terminal and for a log.

A model, a library, a plugin, a guest and a file name can hold escape sequences, line breaks that
forge a log line, marks that turn the reading direction, characters that nobody sees, and halves of
characters; and they can be megabytes long. Errors escape their text when they are made, ``logger``
gives logs that escape theirs, and what else is printed goes through ``visible`` first. Escaping a
text twice changes nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

# (Both take long to import, and a program's start needs neither.)
if TYPE_CHECKING:
    import logging

#: Characters of one line, and of a text of several lines. Longer ones lose their middle.
LONGEST, LONGEST_LINES = 2000, 40_000

# Controls (C0, DEL, C1), characters without a width, marks of direction, line separators, tags,
# variation selectors, and surrogates, which no encoding can write.
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\ud800-\udfff"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_SHORT = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}
_BREAK = re.compile(r"[ \t]*[\r\n][ \t\r\n]*")
#: What begins each further line of a text of several lines.
_MARGIN = "\n  "


def visible(text: str, most: int = LONGEST) -> str:
    """``text`` on one line of at most ``most`` characters: each hidden character as its escape
    (``\\x1b``), lines joined by ``; ``, the middle of a longer one left out."""
    if len(text) <= most and not _HIDDEN.search(text):
        return text
    # (An escape takes up to ten characters: what is cut away is not escaped first.)
    first, *others = _BREAK.split(_cut(text.lstrip("\r\n").rstrip(" \t\r\n"), 2 * most, len(text)))
    joined = first
    for line in others:
        joined += (" " if joined.endswith((":", ";", ",")) else "; ") + line
    return _cut(_HIDDEN.sub(_escape, joined), most, len(text))


def visible_lines(text: str) -> str:
    """``text`` with its lines, the second and further ones indented, so that none can pass for a
    line of the host."""
    lines = [_line(line) for line in text.strip("\r\n").replace("\r\n", "\n").split("\n")]
    shown = lines[0] + "".join(
        line and (f"\n{line}" if line.startswith("  ") else _MARGIN + line) for line in lines[1:]
    )
    return _cut(shown, LONGEST_LINES, len(text))


def trace_of(error: BaseException) -> str:
    """The traceback of an error for a log record: the text of an exception is from outside too, so
    a record does not carry it as ``exc_info``."""
    import traceback

    return visible_lines(
        "".join(traceback.format_exception(type(error), error, error.__traceback__))
    )


def logger(name: str) -> logging.Logger:
    """A log whose records are escaped before any handler sees them, also the handlers of a program
    that embeds the host."""
    import logging

    log = logging.getLogger(name)
    log.addFilter(_escape_record)
    return log


def _escape_record(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    if record.exc_info and record.exc_info[1] is not None:
        text = f"{text}\n{trace_of(record.exc_info[1])}"
        record.exc_info = None
    shown = visible_lines(text)
    if shown != record.getMessage():
        record.msg, record.args = shown, ()
    return True


def _line(text: str) -> str:
    short = _cut(text, 2 * LONGEST, len(text))
    return _cut(_HIDDEN.sub(_escape, short), LONGEST, len(text))


def _cut(text: str, most: int, length: int) -> str:
    """``text`` without its middle where it has more than ``most`` characters: what went wrong
    stands at the beginning of a message, and what to do about it at the end."""
    if len(text) <= most:
        return text
    # (Of several lines it may begin one: then it needs their margin.)
    mark = f"  … ({length} characters) … "
    room = max(0, most - len(mark))
    end = room // 4
    return text[: room - end] + mark + text[len(text) - end :]


def _escape(found: re.Match[str]) -> str:
    number = ord(found[0])
    if found[0] in _SHORT:
        return _SHORT[found[0]]
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
