"""The summary of a command: a table, and a file of JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]


def table(title: str, rows: Sequence[Row]) -> None:
    """Print rows that have the same columns."""
    from rich.console import Console
    from rich.table import Table

    made = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for number, column in enumerate(rows[0] if rows else ()):
        made.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in rows:
        made.add_row(*(str(value) for value in row.values()))
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    console.print(made)


def save(path: Path | None, report: Mapping[str, Any]) -> None:
    """Write the report, if a path is given."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=2, default=str) + "\n")


def progress(text: str) -> None:
    """A line that the next one replaces. Only on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
