"""The matrix as a page of Markdown: docs/matrix.md is one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wasi_nn import __version__
from wasi_nn_conformance.case import Case
from wasi_nn_conformance.matrix import FAILURES, Cell


def write(path: Path, cells: Sequence[Cell], cases: Sequence[Case], date: str) -> None:
    """Write the page: versions, a table for each dialect, and every deviation with its reason."""
    lines = [
        "# The matrix",
        "",
        f"{len(cases)} cases, run on {date} with wasi-nn {__version__} by"
        " `wasi-nn conformance --markdown docs/matrix.md`. A cell says how many cases passed, how"
        " many failed (†: as is known), and how many say nothing about it.",
        "",
        "| host | version |",
        "|---|---|",
    ]
    versions = {cell.host: cell.version for cell in cells}
    for host, version in versions.items():
        why = next((c.unavailable for c in cells if c.host == host and not version), "")
        lines.append(f"| {host} | {version or why} |")
    encodings = list(dict.fromkeys(cell.encoding for cell in cells))
    for dialect in dict.fromkeys(cell.dialect for cell in cells):
        lines += ["", f"## {dialect}", "", "| host | " + " | ".join(encodings) + " |"]
        lines.append("|---|" + "---:|" * len(encodings))
        found = {(c.host, c.encoding): c for c in cells if c.dialect == dialect}
        for host in dict.fromkeys(c.host for c in cells if c.dialect == dialect):
            row = [_cell(found.get((host, encoding))) for encoding in encodings]
            lines.append(f"| {host} | " + " | ".join(row) + " |")
    lines += _deviations(cells)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    if cell.unavailable:
        return "unavailable"
    counts = cell.counts
    mark = "†" if counts["fail"] and not counts["unexpected"] else ""
    failed = f" / **{counts['fail']}**{mark}" if counts["fail"] else " / 0"
    return f"{counts['pass']}{failed} / {counts['unsupported']}"


def _deviations(cells: Sequence[Cell]) -> list[str]:
    lines: list[str] = []
    for cell in cells:
        failed = [outcome for outcome in cell.outcomes if outcome.status in FAILURES]
        if not failed:
            continue
        lines += ["", f"### {cell.host}, {cell.encoding}, {cell.dialect}", ""]
        reasons: dict[str, list[str]] = {}
        for outcome in failed:
            reason = outcome.known or f"unexpected: {outcome.reason}"
            reasons.setdefault(reason, []).append(outcome.case)
        for reason, names in reasons.items():
            lines.append(f"- {reason}: {', '.join(f'`{name}`' for name in names)}")
    return ["", "## Deviations", *lines] if lines else []
