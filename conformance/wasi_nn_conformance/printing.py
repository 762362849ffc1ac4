"""Text from outside, on a terminal and in reports."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from wasi_nn_conformance.errors import UsageError

_MAX = 2000
# Letters and marks without a shape of their own. Python calls them printable.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0").union(
    map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))
)


def visible(text: str, most: int = _MAX) -> str:
    """``text`` on one line of at most ``most`` characters. What nobody sees (controls, marks of
    direction, surrogates, blank letters) becomes an escape, and a longer text loses its middle."""
    if len(text) > most:
        end = most // 4
        text = f"{text[: most - end]} … {text[-end:]}"
    joined = "; ".join(part.strip() for part in text.splitlines() if part.strip())
    return "".join(map(_shown, joined))


def _shown(letter: str) -> str:
    if letter.isprintable() and letter not in _BLANK:
        return letter
    return letter.encode("unicode_escape").decode()


def program() -> str:
    """What the user calls this command."""
    context = click.get_current_context(silent=True)
    return context.command_path if context else "wasi-nn-conformance"


def complain(text: str) -> None:
    """Print a line to stderr."""
    click.echo(f"{program().partition(' ')[0]}: {visible(text)}", err=True)


def is_stdout(file: Path) -> bool:
    return str(file) == "-"


def check_writable(file: Path) -> None:
    """Raise ``UsageError`` for a report that could not be written after the work is done."""
    if is_stdout(file):
        return
    if file.is_dir():
        raise UsageError(f"cannot write {file}: it is a folder")
    if not file.parent.is_dir():
        raise UsageError(f"cannot write {file}: there is no folder {file.parent}")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise UsageError(f"cannot write {file}: permission denied")


def print_any_character() -> None:
    """Let the streams escape what the terminal's encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure:
            reconfigure(errors="backslashreplace")
