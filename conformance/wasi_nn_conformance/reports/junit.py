"""The matrix as JUnit XML, for what reads test reports."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as xml

from wasi_nn_conformance.matrix import FAILURES, Cell
from wasi_nn_conformance.running import UNSUPPORTED

# Characters that XML has no way to say.
_UNSAYABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write(path: Path, cells: Sequence[Cell]) -> None:
    """A suite for each cell. What is unexpected is a failure; known deviations, what is
    unsupported and what is unavailable are skipped, with their reasons."""
    root = xml.Element("testsuites", name="wasi-nn conformance")
    for cell in cells:
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
        xml.SubElement(case, "skipped", message=_clean(cell.unavailable))
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
            failure = xml.SubElement(case, "failure", message=_clean(message))
            failure.text = _clean(f"{outcome.transcript}\n{outcome.notes}")
        elif _is_skipped(outcome.status, False):
            xml.SubElement(case, "skipped", message=_clean(outcome.known or outcome.reason))


def _is_skipped(status: str, unexpected: bool) -> bool:
    return not unexpected and (status == UNSUPPORTED or status in FAILURES)


def _clean(text: str) -> str:
    return _UNSAYABLE.sub("\ufffd", text)
