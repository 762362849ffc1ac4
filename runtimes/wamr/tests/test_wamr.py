"""WAMR runs guests as every engine does."""

from __future__ import annotations

from conformance.engines import EngineSuite, need

need("wamr")


class TestWamr(EngineSuite):
    runtime = "wamr"
