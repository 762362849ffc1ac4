"""The matrix as a page of Markdown: docs/matrix.md is one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wasi_nn_conformance import __version__
from wasi_nn_conformance.case import Case
from wasi_nn_conformance.errors import UsageError
from wasi_nn_conformance.matrix import FAILURES, Cell, shown
from wasi_nn_conformance.origin import Origin

# Characters with a meaning in Markdown or HTML.
_ENTITIES = str.maketrans({letter: f"&#{ord(letter)};" for letter in "&<>|`*[]"})


def write(path: Path, cells: Sequence[Cell], cases: Sequence[Case], origin: Origin) -> None:
    """Write the page: versions, a table for each dialect, and every deviation with its reason."""
    cells = shown(cells)
    lines = [
        "# The matrix",
        "",
        f"{len(cases)} cases, run on {origin.day} with wasi-nn {__version__}, Python"
        f" {origin.python} and {origin.processors} processors."
        " A cell has the numbers of cases that passed, that failed (†: known deviations), and"
        " that do not apply.",
        "",
        "| host | version |",
        "|---|---|",
    ]
    versions = {cell.host: cell.version for cell in cells}
    for host, version in versions.items():
        said = _plain(version) or "not run: not installed where this was made"
        lines.append(f"| {_plain(host)} | {said} |")
    encodings = list(dict.fromkeys(cell.encoding for cell in cells))
    heads = " | ".join(map(_plain, encodings))
    for dialect in dict.fromkeys(cell.dialect for cell in cells):
        lines += ["", f"## {_plain(dialect)}", "", f"| host | {heads} |"]
        lines.append("|---|" + "---:|" * len(encodings))
        found = {(c.host, c.encoding): c for c in cells if c.dialect == dialect}
        for host in dict.fromkeys(c.host for c in cells if c.dialect == dialect and c.version):
            row = [_cell(found.get((host, encoding))) for encoding in encodings]
            lines.append(f"| {_plain(host)} | " + " | ".join(row) + " |")
    lines += _deviations(cells)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def differences(path: Path, cells: Sequence[Cell]) -> list[str]:
    """The differences between a page and the cells, for all hosts that the page has results of.
    Dates, versions and other hosts are not compared. Raises ``UsageError`` if the page cannot be
    read."""
    try:
        published = _results(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    hosts = {host for _, host, _ in published}
    ours = {
        (_plain(cell.dialect), _plain(cell.host), _plain(cell.encoding)): _cell(cell)
        for cell in shown(cells)
        if _plain(cell.host) in hosts and not cell.unavailable
    }
    return [
        f"{', '.join(key)}: published {published.get(key, 'nothing')}, found"
        f" {ours.get(key, 'nothing')}"
        for key in dict.fromkeys((*published, *ours))
        if published.get(key) != ours.get(key)
    ]


def _results(page: str) -> dict[tuple[str, str, str], str]:
    """The results of a page, by dialect, host and encoding."""
    found = {}
    dialect, encodings = "", [""]
    for line in page.splitlines():
        if line.startswith("## "):
            dialect = line[3:]
        if not dialect or not line.startswith("| "):
            continue
        host, *row = (cell.strip() for cell in line.strip("|").split("|"))
        if host == "host":
            encodings = row
            continue
        for encoding, cell in zip(encodings, row, strict=True):
            if "/" in cell:
                found[dialect, host, encoding] = cell
    return found


def _plain(text: str) -> str:
    return text.translate(_ENTITIES)


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
        where = _plain(f"{cell.host}, {cell.encoding}, {cell.dialect}")
        lines += ["", f"### {where}", ""]
        reasons: dict[str, list[str]] = {}
        for outcome in failed:
            reason = _plain(outcome.known or f"unexpected: {outcome.reason}")
            reasons.setdefault(reason, []).append(_plain(outcome.case))
        for reason, names in reasons.items():
            lines.append(f"- {reason}: {', '.join(f'`{name}`' for name in names)}")
    return ["", "## Deviations", *lines] if lines else []
