"""The soak, in short."""

from __future__ import annotations

import pytest
from conftest import needs
from fuzz import soak
from fuzz.soak import Sample


def flat(samples):
    return {row["what"]: row["flat"] for row in soak._growth(samples)}


def test_growth_between_the_tenths_is_seen():
    still = [Sample(n, 100 << 20, 20, 5, 3) for n in range(20)]
    assert all(flat(still).values())
    leaking = [one._replace(descriptors=20 + n, resident=(100 + 5 * n) << 20) for n, one in
               enumerate(still)]  # fmt: skip
    assert flat(leaking) == {
        "resident MiB": False, "descriptors": False, "threads": True, "processes": True
    }  # fmt: skip


@pytest.mark.slow
def test_many_guests_of_all_kinds_leave_nothing_behind():
    needs("wasmtime")
    needs("onnxruntime")
    samples, done, failures = soak.run(400, 1, 2)
    assert failures == []
    assert len(done) > 4
    assert all(flat(samples).values()), samples
