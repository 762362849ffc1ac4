"""docs/coverage.md: it is current, and no case is missing."""

from __future__ import annotations

import re

from authoring import coverage
from wasi_nn_conformance import case

CASES = case.load()
PAGE = coverage.PAGE.read_text(encoding="utf-8")


def test_the_page_is_current():
    assert coverage.page(CASES) == PAGE, "run make cases"


def test_every_case_is_on_it():
    listed = set(re.findall(r"^\| .* \| `(\w+/[\w-]+)` \| \d+ \|", PAGE, re.M))
    assert listed == {one.id for one in CASES}


def test_a_case_is_about_what_it_calls_wrongly_or_what_its_source_names():
    by_id = {one.id: one for one in CASES}
    assert coverage.subjects(by_id["names/unknown"]) == ["load_by_name"]
    assert coverage.subjects(by_id["get_output/too-small-then-right"]) == ["get_output"]
    assert coverage.subjects(by_id["flow/add"]) == ["set_input", "compute", "get_output"]
    assert ("load", ("success",)) in coverage.calls(by_id["load/from-bytes"])
