"""Escape text from outside, so that it is safe on a terminal and in a log.

Text from a model, a library, a plugin, a guest or a file name can contain escape sequences, line
breaks that forge a log line, marks that change the reading direction, invisible characters and
lone surrogates. It can be megabytes long. Errors escape their text when they are created, loggers
from ``logger`` escape their records, and everything else must go through ``visible`` before it is
printed. Escaping a text twice changes nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from wasi_nn._scope import scope

# Both take long to import, and a short program needs neither.
if TYPE_CHECKING:
    import logging

__all__ = ["MAX_LINE", "MAX_LINES", "logger", "trace_of", "visible", "visible_lines"]

#: The most characters of one line, and of a text of several lines. A longer text loses its middle.
MAX_LINE, MAX_LINES = 2000, 40_000

# Controls (C0, DEL, C1), zero-width characters, direction marks, line separators, tags, variation
# selectors, and surrogates (no encoding can write them).
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\ud800-\udfff"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_SHORT = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}
_BREAK = re.compile(r"[ \t]*[\r\n][ \t\r\n]*")
#: The start of the second and later lines of a text.
_MARGIN = "\n  "


def visible(text: str, most: int = MAX_LINE) -> str:
    """``text`` on one line of at most ``most`` characters. Hidden characters become escapes
    (``\\x1b``), lines are joined by ``; ``, and a longer text loses its middle."""
    if len(text) <= most and not _HIDDEN.search(text):
        return text
    # An escape takes up to ten characters, so cut before escaping.
    first, *others = _BREAK.split(_cut(text.lstrip("\r\n").rstrip(" \t\r\n"), 2 * most, len(text)))
    joined = first
    for line in others:
        joined += (" " if joined.endswith((":", ";", ",")) else "; ") + line
    return _cut(_HIDDEN.sub(_escape, joined), most, len(text))


def visible_lines(text: str) -> str:
    """``text`` with its lines kept. The second and later lines are indented, so that none of them
    looks like a line of the host."""
    lines = [_line(line) for line in text.strip("\r\n").replace("\r\n", "\n").split("\n")]
    shown = lines[0] + "".join(
        line and (f"\n{line}" if line.startswith("  ") else _MARGIN + line) for line in lines[1:]
    )
    return _cut(shown, MAX_LINES, len(text))


def trace_of(error: BaseException) -> str:
    """The escaped traceback of an error, for a log record. The text of an exception comes from
    outside too, so do not pass it as ``exc_info``."""
    import traceback

    return visible_lines(
        "".join(traceback.format_exception(type(error), error, error.__traceback__))
    )


def logger(name: str) -> logging.Logger:
    """A logger that escapes its records before any handler sees them, including the handlers of a
    program that embeds the host. A record has the names of the ``guest`` and the ``request`` that
    it is about, empty if there is none."""
    import logging

    log = logging.getLogger(name)
    log.addFilter(_escape_record)
    return log


def _escape_record(record: logging.LogRecord) -> bool:
    record.guest, record.request = scope.get()[:2]
    text = record.getMessage()
    if record.exc_info and record.exc_info[1] is not None:
        text = f"{text}\n{trace_of(record.exc_info[1])}"
        record.exc_info = None
    shown = visible_lines(text)
    if shown != record.getMessage():
        record.msg, record.args = shown, ()
    return True


def _line(text: str) -> str:
    short = _cut(text, 2 * MAX_LINE, len(text))
    return _cut(_HIDDEN.sub(_escape, short), MAX_LINE, len(text))


def _cut(text: str, most: int, length: int) -> str:
    """``text``, without its middle when it has more than ``most`` characters. The start of a
    message says what went wrong, and its end says what to do."""
    if len(text) <= most:
        return text
    # The mark starts with the margin, because it may become the start of a line.
    mark = f"  … ({length} characters) … "
    kept = max(0, most - len(mark))
    end = kept // 4
    return text[: kept - end] + mark + text[len(text) - end :]


def _escape(found: re.Match[str]) -> str:
    number = ord(found[0])
    if found[0] in _SHORT:
        return _SHORT[found[0]]
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
