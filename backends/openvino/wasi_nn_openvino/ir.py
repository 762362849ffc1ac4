"""What the text of IR tells, and OpenVINO's C library does not."""

from __future__ import annotations

import re

_VARIABLE = re.compile(rb"""\btype\s*=\s*["'](?:ReadValue|Assign)["']""")
_NAMES = re.compile(rb"""names\s*=\s*(?:"([^"]*,[^"]*)"|'([^']*,[^']*)')""")
_COMMA = re.compile(r"(?<!\\),")


def has_variables(text: bytes) -> bool:
    """Whether the model keeps something between two computations."""
    return _VARIABLE.search(text) is not None


def shared_names(text: bytes) -> list[list[str]]:
    """The names of each tensor that has several."""
    found = (
        _split((double or single).decode("utf-8", "replace"))
        for double, single in _NAMES.findall(text)
    )
    return [names for names in found if len(names) > 1]


def _split(written: str) -> list[str]:
    if "&" in written:
        from html import unescape

        written = unescape(written)
    return [name.replace("\\,", ",") for name in _COMMA.split(written)]
