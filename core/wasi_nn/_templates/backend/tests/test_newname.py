"""newname as every backend is tested, and what is its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from wasi_nn_newname import Newname

from wasi_nn import Host, errors
from wasi_nn.backend import LoadOptions
from wasi_nn_conformance.graphs import GraphSet
from wasi_nn_conformance.testing import BackendConformance

GRAPHS = Path(__file__).parent / "graphs"


class TestConformance(BackendConformance):
    # The canonical graphs that are here. docs/conformance.md of wasi-nn describes all of them.
    graphs = GraphSet(
        "newname",
        GRAPHS,
        {name: (GRAPHS / f"{name}.newname",) for name in ("add", "batch", "identity")},
    )


def test_a_model_computes():
    with Host() as host:
        model = host.load(GRAPHS / "add.newname")
        found = model.run(x=[[1, 2, 3, 4]], y=[[10, 20, 30, 40]])
    assert list(memoryview(found["out"].data).cast("B").cast("f")) == [11, 22, 33, 44]


@pytest.mark.parametrize("damaged", [b"", b"newname model\n", b"newname model\n{}", b"\xff" * 99])
def test_a_damaged_model_is_an_error_of_the_guest(damaged):
    with pytest.raises(errors.RuntimeFailure, match="not a model of newname"):
        Newname().load([memoryview(damaged)], LoadOptions("newname"))
