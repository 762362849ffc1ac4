"""The matrix in a terminal, or in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from wasi_nn_conformance.case import Case
from wasi_nn_conformance.matrix import Cell, shown


def print_matrix(cells: Sequence[Cell], cases: Sequence[Case]) -> None:
    """A table for each dialect, then what was unavailable, then every unexpected outcome with its
    reason, then the totals."""
    console = Console(
        highlight=False, emoji=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120
    )
    cells = shown(cells)
    encodings = list(dict.fromkeys(cell.encoding for cell in cells))
    console.print("pass / fail / unsupported", style="dim")
    for dialect in dict.fromkeys(cell.dialect for cell in cells):
        table = Table(box=None, pad_edge=False, title=escape(f"\n{dialect}"), title_justify="left")
        table.add_column("host", no_wrap=True)
        for encoding in encodings:
            table.add_column(escape(encoding), justify="right", no_wrap=True)
        found = {(c.host, c.encoding): c for c in cells if c.dialect == dialect}
        for host in dict.fromkeys(host for host, _ in found):
            table.add_row(escape(host), *(_shown(found.get((host, e))) for e in encodings))
        console.print(table)
    console.print()
    for host, version in {c.host: c.version for c in cells if c.version}.items():
        console.print(escape(f"{host}: {version}"), style="dim")
    for reason in dict.fromkeys(f"{c.host}: {c.unavailable}" for c in cells if c.unavailable):
        console.print(escape(reason), style="yellow")
    _unexpected(console, cells, {case.id: case for case in cases})


def _unexpected(console: Console, cells: Sequence[Cell], cases: dict[str, Case]) -> None:
    for cell in cells:
        for outcome in cell.outcomes:
            if not outcome.unexpected:
                continue
            where = escape(f"({cell.host}, {cell.encoding}, {cell.dialect})")
            title = f"[red]{escape(outcome.status)}[/red] [bold]{escape(outcome.case)}[/bold]"
            console.print(f"\n{title} {where}")
            if outcome.known is not None:
                console.print(f"  it was known to fail: {escape(outcome.known)}")
            else:
                console.print(f"  {escape(outcome.reason)}")
            console.print(f"  {escape(cases[outcome.case].why)}", style="dim")
    counts = [cell.counts for cell in cells]
    total = {key: sum(count[key] for count in counts) for key in ("pass", "fail", "unexpected")}
    style = "red" if total["unexpected"] else "green"
    console.print(
        f"\n{total['pass']} passed, {total['fail']} failed, "
        f"[{style}]{total['unexpected']} unexpected[/{style}]"
    )


def _shown(cell: Cell | None) -> str:
    if cell is None:
        return ""
    if cell.unavailable:
        return "[yellow]unavailable[/yellow]"
    counts = cell.counts
    style = "red" if counts["unexpected"] else "yellow" if counts["fail"] else "green"
    passed = f"[{style}]{counts['pass']} / {counts['fail']}[/{style}]"
    return f"{passed} / {counts['unsupported']}"
