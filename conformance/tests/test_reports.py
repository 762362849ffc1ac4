"""The reports, on a matrix with awkward content."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree as xml

import pytest

from wasi_nn_conformance import case
from wasi_nn_conformance.comparison import changes
from wasi_nn_conformance.errors import UsageError
from wasi_nn_conformance.matrix import Cell, Outcome, merge
from wasi_nn_conformance.origin import Origin
from wasi_nn_conformance.reports import html, jsonfile, junit, markdown, terminal

AWKWARD = "</script><b>&amp; \"quoted\" 'é' \x00\x1b[31m \ud800 [red]not markup[/red] | pipe"
SHOWN = AWKWARD.replace("\0", "\\x00").replace("\x1b", "\\x1b").replace("\ud800", "\\ud800")
CASES = case.load()
NAMES = [one.id for one in CASES[:6]]
ORIGIN = Origin("2026-01-02T03:04:05+00:00", "wasi-nn x", "Plan 9", 3, "3.99", {"onnxruntime": "1"})


@pytest.fixture
def cells() -> list[Cell]:
    outcomes = (
        Outcome(NAMES[0], "pass", "", None, 0.01, "call compute 0\nend\n"),
        Outcome(NAMES[1], "fail", AWKWARD, None, 0.02, AWKWARD, AWKWARD),
        Outcome(NAMES[2], "fail", "differs", "it is known", 0.03),
        Outcome(NAMES[3], "pass", "", "it used to fail", 0.04),
        Outcome(NAMES[4], "crash", "its process ended with -6", None, 0.0),
        Outcome(NAMES[5], "unsupported", "it is about ggml", None, 0.0),
    )
    return [
        Cell("wasmtime", "1.0 [x]", "onnx", "witx", outcomes),
        Cell("wasmtime", "1.0 [x]", "ggml", "witx", unavailable=AWKWARD),
        Cell("native-x", "2.0", "onnx", "wamr", outcomes[:1]),
    ]


COUNTS = {"pass": 2, "fail": 3, "unsupported": 1, "unavailable": 0, "unexpected": 3}


def test_outcomes_are_counted(cells):
    assert cells[0].counts == COUNTS


def test_json_has_every_result(cells, tmp_path):
    path = tmp_path / "a.json"
    jsonfile.write(path, [cells[0], cells[2]], CASES, ORIGIN)
    found = json.loads(path.read_text("utf-8"))
    assert found["date"] == "2026-01-02T03:04:05+00:00"
    assert (found["system"], found["libraries"]) == ("Plan 9", {"onnxruntime": "1"})
    assert found["schema"] == 1
    first, second = found["cells"]
    assert (first["engine"], first["native"], second["native"]) == ("wasmtime", False, True)
    assert first["cases"][1]["reason"] == SHOWN
    assert first["cases"][1]["reproduce"] == (
        f"wasi-nn-conformance --encoding onnx --dialect witx --host wasmtime --case {NAMES[1]}"
    )
    assert first["cases"][3] == {
        "case": NAMES[3],
        "version": 1,
        "status": "pass",
        "reason": "",
        "known": "it used to fail",
        "unexpected": True,
        "seconds": 0.04,
    }
    whole = jsonfile.record(cells, CASES, ORIGIN)["cells"]
    assert {key: whole[0][key] for key in COUNTS} == COUNTS
    assert whole[1]["unavailable"] == 1


def test_junit_has_every_result(cells, tmp_path):
    path = tmp_path / "a.xml"
    junit.write(path, cells)
    suites = list(xml.parse(path).getroot())
    assert [suite.get("failures") for suite in suites] == ["3", "0", "0"]
    assert [suite.get("skipped") for suite in suites] == ["2", "1", "0"]
    assert [len(suite.findall("testcase/failure")) for suite in suites] == [3, 0, 0]
    assert [len(suite.findall("testcase/skipped")) for suite in suites] == [2, 1, 0]
    failure = suites[0].find("testcase/failure")
    assert failure.get("message").startswith("</script><b>&amp;")
    assert failure.text.startswith(f"{SHOWN}\n{SHOWN}\nRun it again: wasi-nn-conformance ")


def test_changes_since_another_run(cells):
    now = [
        cells[0]._replace(
            outcomes=(
                cells[0].outcomes[0]._replace(status="fail", reason="why"),
                cells[0].outcomes[1]._replace(status="pass", reason="", version=2),
            )
        ),
        cells[1],
        cells[2]._replace(dialect="witx"),
    ]
    assert list(changes(cells, now)) == [
        f"wasmtime, onnx, witx: {NAMES[0]}: pass → fail (why)",
        f"wasmtime, onnx, witx: {NAMES[1]}, version 2 of the case: fail → pass",
        "native-x, onnx, witx: not run before",
        "native-x, onnx, wamr: not run now",
    ]
    assert list(changes(cells, cells)) == []


def test_a_foreign_host_s_case_is_run_again_by_its_command(cells):
    table = json.dumps({"command": "my host {module}"})
    again = cells[2]._replace(description=table).reproduce("a/b")
    assert again.endswith("--host-command 'my host {module}' --case a/b")


def test_html_has_every_result(cells, tmp_path):
    path = tmp_path / "a.html"
    html.write(path, cells, CASES, ORIGIN)
    page = path.read_text("utf-8")
    assert page.count("</script>") == 2
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    embedded = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    data = json.loads(embedded[1])
    assert data["cells"][0]["counts"] == COUNTS
    assert data["cells"][0]["outcomes"][1]["reason"] == SHOWN
    assert data["cells"][1]["unavailable"] == SHOWN
    assert set(data["cases"]) == {one.id for one in CASES}


def test_markdown_has_every_count(cells, tmp_path):
    path = tmp_path / "a.md"
    markdown.write(path, [cells[0]._replace(version=AWKWARD), cells[2]], CASES, ORIGIN)
    page = path.read_text("utf-8")
    assert "| wasmtime | 2 / **3** / 1 |" in page
    plain = SHOWN
    for letter in "&<>|[]":
        plain = plain.replace(letter, f"&#{ord(letter)};")
    assert f"| wasmtime | {plain} |" in page
    assert f"- unexpected: {plain}: `{NAMES[1]}`" in page
    assert f"- it is known: `{NAMES[2]}`" in page
    assert f"- unexpected: its process ended with -6: `{NAMES[4]}`" in page


def test_the_terminal_shows_counts_and_unexpected_outcomes(cells, capsys):
    clean = cells[0].outcomes[1]._replace(reason="gave [red]1[/red]")
    outcomes = (cells[0].outcomes[0], clean, *cells[0].outcomes[2:])
    missing = cells[1]._replace(unavailable="not [installed]")
    terminal.print_matrix([cells[0]._replace(outcomes=outcomes), missing, cells[2]], CASES)
    out = capsys.readouterr().out
    assert "2 / 3 / 1" in out
    assert "unavailable" in out
    assert "wasmtime: not [installed]" in out
    assert "gave [red]1[/red]" in out
    assert "it was known to fail: it used to fail" in out
    assert "3 passed, 3 failed, 3 unexpected" in out
    assert "\x1b[3" not in out.replace("\x1b[31m", "")


def test_a_written_json_file_is_read_again(cells, tmp_path):
    path = tmp_path / "a.json"
    clean = [cells[0]._replace(outcomes=cells[0].outcomes[2:]), cells[1], cells[2]]
    first, *others = clean[0].outcomes
    clean[0] = clean[0]._replace(outcomes=(first._replace(version=2), *others))
    clean[1] = clean[1]._replace(unavailable="it is not here")
    jsonfile.write(path, clean, CASES, ORIGIN)
    again = jsonfile.read(path, CASES)
    assert [cell.counts for cell in again] == [cell.counts for cell in clean]
    assert [cell[:4] for cell in again] == [cell[:4] for cell in clean]
    assert [[o.version for o in cell.outcomes] for cell in again] == [[2, 1, 1, 1], [], [1]]
    # A run of another version has other cases.
    one = CASES[:1]
    terminal.print_matrix(jsonfile.read(path, one), one)
    found = [outcome.case for cell in jsonfile.read(path, one) for outcome in cell.outcomes]
    assert set(found) == {one[0].id}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"cells": [{}]}', '{"cells": 3}'])
def test_a_file_without_results_is_refused(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="holds no results"):
        jsonfile.read(path, CASES)


def test_another_run_fills_what_is_unavailable(cells):
    ran = Cell("late", "3.1", "onnx", "witx", cells[0].outcomes[:1])
    lacks = ran._replace(version="", outcomes=(), unavailable="not found")
    other = Cell("late", "", "ggml", "witx", unavailable="not found")
    merged = merge([cells[0], lacks, other], [ran, cells[0]._replace(outcomes=())])
    assert merged[0] is cells[0]
    assert merged[1] is ran
    # It was run, without that backend.
    assert (merged[2].version, merged[2].unavailable) == ("3.1", "not found")


def test_a_published_page_is_compared(cells, tmp_path):
    path = tmp_path / "matrix.md"
    cells = [cells[0]._replace(outcomes=cells[0].outcomes[2:]), *cells[1:]]
    absent = Cell("absent", "", "onnx", "witx", unavailable="not found")
    markdown.write(path, [*cells, absent], CASES, ORIGIN)
    assert "not run" in path.read_text("utf-8")
    newer = [cell._replace(version=f"{cell.version}.1") for cell in cells]
    assert markdown.differences(path, newer) == []
    # A host that the page has no results of, which is here.
    assert markdown.differences(path, [*cells, absent._replace(version="1", unavailable="")]) == []
    worse = [cells[0]._replace(outcomes=cells[0].outcomes[1:]), *cells[1:]]
    (one,) = markdown.differences(path, worse)
    assert one == "witx, wasmtime, onnx: published 1 / **2** / 1, found 1 / **1** / 1"
    (one,) = markdown.differences(path, cells[:2])
    assert one == "wamr, native-x, onnx: published 1 / 0 / 0, found nothing"
    more = [*cells, cells[0]._replace(dialect="wamr")]
    (one,) = markdown.differences(path, more)
    assert one == "wamr, wasmtime, onnx: published nothing, found 1 / **2** / 1"
    with pytest.raises(UsageError, match="cannot read"):
        markdown.differences(tmp_path / "no.md", cells)
