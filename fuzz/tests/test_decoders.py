"""The host's readers, and the search for bytes that break them."""

from __future__ import annotations

import pytest
from fuzz import decoders, targets
from fuzz.targets import TARGETS, Target


@pytest.mark.parametrize("target", TARGETS)
def test_a_reader_raises_what_it_says_and_nothing_else(target):
    if why := TARGETS[target].missing():
        pytest.skip(why)
    found = decoders.by_chance(target, 5, 60, count=150)
    assert found["inputs"] == 150
    assert found["findings"] == []


def test_what_a_reader_must_not_raise_is_a_finding(monkeypatch):
    def broken():
        def read(data: bytes) -> None:
            raise ZeroDivisionError("found")

        return read

    monkeypatch.setitem(targets.TARGETS, "broken", Target(broken, lambda: [b"x"]))
    found = decoders.by_chance("broken", 1, 60, count=3)
    assert len(found["findings"]) == 3
    assert "ZeroDivisionError: found" in found["findings"][0]["what"]
