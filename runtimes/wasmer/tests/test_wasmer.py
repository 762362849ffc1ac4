"""wasmer runs guests as every engine does."""

from __future__ import annotations

from conformance.engines import EngineSuite, need

need("wasmer")


class TestWasmer(EngineSuite):
    runtime = "wasmer"
