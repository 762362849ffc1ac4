"""The matrix as JUnit XML, for tools that read test reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as xml

from wasi_nn_conformance.matrix import FAILURES, Cell, shown
from wasi_nn_conformance.running import UNSUPPORTED


def write(path: Path, cells: Sequence[Cell]) -> None:
    """Write a suite for each cell. Unexpected outcomes are failures. Known deviations, unsupported
    cases and unavailable cells are skipped, with their reasons."""
    root = xml.Element("testsuites", name="wasi-nn conformance")
    for cell in shown(cells):
        _suite(root, cell)
    xml.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def _suite(root: xml.Element, cell: Cell) -> None:
    name = f"{cell.host}.{cell.encoding}.{cell.dialect}"
    counts = cell.counts
    skipped = sum(_is_skipped(o.status, o.unexpected) for o in cell.outcomes)
    suite = xml.SubElement(
        root,
        "testsuite",
        name=name,
        tests=str(len(cell.outcomes) or 1),
        failures=str(counts["unexpected"]),
        skipped=str(skipped if cell.outcomes else 1),
        time=f"{sum(o.seconds for o in cell.outcomes):.3f}",
    )
    if cell.unavailable:
        case = xml.SubElement(suite, "testcase", classname=name, name="unavailable")
        xml.SubElement(case, "skipped", message=cell.unavailable)
    for outcome in cell.outcomes:
        case = xml.SubElement(
            suite,
            "testcase",
            classname=name,
            name=outcome.case,
            time=f"{outcome.seconds:.3f}",
        )
        if outcome.unexpected:
            passed = f"it passes, and was known to fail: {outcome.known}"
            message = outcome.reason if outcome.status in FAILURES else passed
            failure = xml.SubElement(case, "failure", message=message)
            again = f"Run it again: {cell.reproduce(outcome.case)}"
            failure.text = f"{outcome.transcript}\n{outcome.notes}\n{again}"
        elif _is_skipped(outcome.status, False):
            xml.SubElement(case, "skipped", message=outcome.known or outcome.reason)


def _is_skipped(status: str, unexpected: bool) -> bool:
    return not unexpected and (status == UNSUPPORTED or status in FAILURES)
